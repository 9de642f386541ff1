//! TLS: on the shared port with the certificates that operators have told, on the control port with one of this activator.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use crds::{control, names::FunctionKey};
use rustls::{
    ServerConfig,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{Ticketer, default_provider},
    },
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{Acceptor, NoServerSessionStorage},
};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};

use crate::client::Stream;

/// The first byte of a connection that begins with a handshake (RFC 8446 section 5.1). No request begins so.
pub(crate) const HANDSHAKE: u8 = 0x16;

/// A fatal alert `unrecognized_name` (RFC 6066 section 3) as a whole record. The library has another alert for a name without a
/// certificate, from which a client could not tell what is wrong.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What clients may speak after a handshake, best first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
const HTTP2: &[u8] = b"h2";

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(default_provider()));

/// A certificate with its key, ready for handshakes.
pub(crate) struct Certified {
    function: FunctionKey,
    leaf: CertificateDer<'static>,
    config: Arc<ServerConfig>,
}

impl Certified {
    /// Reads a certificate that was told. Each has tickets of its own, so that a session of the former one is not resumed with it.
    ///
    /// # Errors
    /// What is wrong with it, without any of it.
    pub(crate) fn new(told: &control::Certificate) -> Result<Self, String> {
        let (chain, key) = (told.chain_pem.as_bytes(), told.key_pem.0.as_bytes());
        let (mut config, leaf) = server(chain, key, &PROTOCOLS)?;
        config.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
        Ok(Self {
            function: told.function.clone(),
            leaf,
            config: Arc::new(config),
        })
    }

    /// Whether a connection that was opened with this certificate may carry requests to a host that has `other`.
    pub(crate) fn serves(&self, other: &Self) -> bool {
        self.function == other.function || self.leaf == other.leaf
    }
}

/// Where the certificate and key of the control port are.
#[derive(Clone, Debug)]
pub(crate) struct ControlFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The client named no host.
    NoName,
    /// No Function has a certificate for the host that the client named.
    UnknownName,
    /// It took too long.
    Late,
    /// The client does not like the certificate, or offers nothing in common, or has gone.
    Failed,
}

impl Outcome {
    pub(crate) const ALL: [Self; 5] = [
        Self::Done,
        Self::NoName,
        Self::UnknownName,
        Self::Late,
        Self::Failed,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::NoName => "no-name",
            Self::UnknownName => "unknown-name",
            Self::Late => "late",
            Self::Failed => "failed",
        }
    }
}

/// A stream after its handshake.
pub(crate) struct Accepted {
    pub(crate) stream: TlsStream<Stream>,
    pub(crate) http2: bool,
    /// What was shown to the client.
    pub(crate) certified: Arc<Certified>,
}

/// Shakes hands with the certificate that `choose` finds for the host that the client names.
///
/// # Errors
/// How it ended, and the system's or the library's error.
pub(crate) async fn accept(
    stream: Stream,
    choose: impl FnOnce(&str) -> Option<Arc<Certified>>,
) -> Result<Accepted, (Outcome, io::Error)> {
    let failed = |error| (Outcome::Failed, error);
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), stream)
        .await
        .map_err(failed)?;
    let named = start.client_hello().server_name().map(str::to_owned);
    let Some(certified) = named.as_deref().and_then(choose) else {
        // The client may have gone; it is refused anyway.
        let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
        let _ = start.io.shutdown().await;
        let (outcome, text) = match named {
            Some(name) => (Outcome::UnknownName, format!("no certificate for {name:?}")),
            None => (Outcome::NoName, "no host was named".to_owned()),
        };
        return Err((outcome, io::Error::other(text)));
    };
    let stream = start.into_stream(Arc::clone(&certified.config)).await;
    let stream = stream.map_err(failed)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
    Ok(Accepted {
        stream,
        http2,
        certified,
    })
}

/// What accepts control streams with the certificate and key of these files.
///
/// # Errors
/// Why they cannot be used.
pub(crate) fn acceptor(files: &ControlFiles) -> Result<TlsAcceptor, String> {
    let read = |file: &Path| std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()));
    let (chain, key) = (read(&files.certificate)?, read(&files.key)?);
    let (config, _) = server(&chain, &key, &[HTTP2])?;
    Ok(Arc::new(config).into())
}

/// What a server with this certificate and key, in PEM, needs; and the certificate itself.
fn server(
    chain: &[u8],
    key: &[u8],
    protocols: &[&[u8]],
) -> Result<(ServerConfig, CertificateDer<'static>), String> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| "the certificate is not PEM")?;
    let leaf = chain
        .first()
        .ok_or("there is no certificate in it")?
        .clone();
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "the private key is not PEM")?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok((config, leaf))
}
