//! Certificates, and clients that speak TLS.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use crds::{
    control::{Certificate, PrivateKey, ToActivator},
    names::FunctionKey,
};
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate that is its own authority, with its key.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
}

/// A new certificate for these names.
pub(crate) fn issue(names: &[&str]) -> Issued {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let issued = rcgen::generate_simple_self_signed(names).unwrap();
    Issued {
        chain: issued.cert.pem(),
        key: issued.signing_key.serialize_pem(),
        der: issued.cert.der().clone(),
    }
}

impl Issued {
    /// The frame that tells of it.
    pub(crate) fn frame(&self, function: &FunctionKey, hosts: &[&str]) -> ToActivator {
        ToActivator::Certificate(Certificate {
            function: function.clone(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            chain_pem: self.chain.clone(),
            key_pem: PrivateKey(self.key.clone()),
        })
    }

    /// What connects with trust in this certificate alone.
    pub(crate) fn connector(&self, protocols: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config).into()
    }

    /// Connects to what must have this certificate for `name`.
    pub(crate) async fn try_connect(
        &self,
        address: SocketAddr,
        name: &str,
        protocols: &[&str],
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        self.connector(protocols).connect(name, stream).await
    }

    /// The same for HTTP/1.1, with a connection that has to come about.
    pub(crate) async fn connect(&self, address: SocketAddr, name: &str) -> TlsStream<TcpStream> {
        let connected = self.try_connect(address, name, &["http/1.1"]).await;
        connected.unwrap()
    }

    /// A client of HTTP/1.1.
    pub(crate) async fn client(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> SendRequest<Empty<Bytes>> {
        let stream = TokioIo::new(self.connect(address, name).await);
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

/// A GET request with this host.
pub(crate) fn to(host: &str, path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(path).header("host", host);
    request.body(Empty::new()).unwrap()
}
