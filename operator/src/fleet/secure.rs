//! TLS of the control streams: an activator is one that has the key of the certificate that both sides mount.

use std::{io, path::Path, sync::Arc};

use anyhow::Context as _;
use crds::control::SERVER_NAME;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What trusts the certificates in `file` and nobody else. There may be two, so that one can be replaced by the other.
///
/// # Errors
/// If the file cannot be read or has none.
pub(super) fn connector(file: &Path) -> anyhow::Result<TlsConnector> {
    let name = file.display();
    let pem = std::fs::read(file)
        .with_context(|| format!("control certificate file {name} cannot be read"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.with_context(|| format!("control certificate file {name} is not PEM"))?;
        roots.add(certificate).with_context(|| {
            format!("control certificate file {name} has one that cannot be trusted")
        })?;
    }
    anyhow::ensure!(
        !roots.is_empty(),
        "control certificate file {name} has no certificate"
    );
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}

/// Shakes hands. Activators are known by address; their certificate is for one name.
pub(super) async fn shake(
    tls: &TlsConnector,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    tls.connect(name, stream).await
}

#[cfg(test)]
mod tests {
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    struct Issued {
        pem: String,
        key: String,
    }

    fn issue(name: &str) -> Issued {
        let issued = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Issued {
            pem: issued.cert.pem(),
            key: issued.signing_key.serialize_pem(),
        }
    }

    /// Whether one who trusts `trusted` shakes hands with an activator that has `shown`.
    async fn agree(trusted: &str, shown: &Issued) -> bool {
        let file = std::env::temp_dir().join(format!("ebb-{:016x}.crt", fastrand::u64(..)));
        std::fs::write(&file, trusted).unwrap();
        let connector = connector(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let chain = CertificateDer::pem_slice_iter(shown.pem.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(Arc::new(config))
                .accept(stream)
                .await
                .is_ok()
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let shaken = shake(&connector, stream).await.is_ok();
        assert_eq!(accepting.await.unwrap(), shaken);
        shaken
    }

    #[tokio::test]
    async fn only_the_mounted_certificate_is_trusted_and_there_may_be_two() {
        let (old, new, wrong) = (
            issue(SERVER_NAME),
            issue(SERVER_NAME),
            issue("other.ebb.internal"),
        );
        assert!(agree(&old.pem, &old).await);
        assert!(!agree(&old.pem, &new).await);
        assert!(!agree(&wrong.pem, &wrong).await, "another name");
        let both = format!("{}{}", old.pem, new.pem);
        assert!(agree(&both, &old).await && agree(&both, &new).await);
    }

    #[test]
    fn a_file_without_a_certificate_is_an_error() {
        let file = std::env::temp_dir().join(format!("ebb-{:016x}.crt", fastrand::u64(..)));
        std::fs::write(&file, "nothing\n").unwrap();
        let error = connector(&file).err().map(|error| error.to_string());
        std::fs::remove_file(&file).unwrap();
        assert!(error.unwrap().ends_with("has no certificate"));
        assert!(connector(&file).is_err());
    }
}
