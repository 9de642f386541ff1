//! A small HTTP/1.1 client for tests and benchmarks: one connection at a time, so that a test knows which one it uses.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A request body.
pub type Body = BoxBody<Bytes, Infallible>;

/// Longest wait for one answer; longer than any cold start in the tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// From before the request was sent, and before connecting if it was the first on its connection, to the last byte.
    pub took: Duration,
}

impl Answer {
    /// Whether the server closes the connection after this answer.
    pub fn closes(&self) -> bool {
        let connection = self.headers.get(http::header::CONNECTION);
        connection.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Fails unless the status is this one; the error has the body.
    pub fn expect(&self, status: u16) -> Result<&Self> {
        if self.status.as_u16() != status {
            bail!(
                "expected {status}, got {}: {}",
                self.status,
                self.text().trim_end()
            );
        }
        Ok(self)
    }
}

/// A kept connection.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<Body>,
    driver: JoinHandle<()>,
    host: String,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects; `host` is the Host header of all its requests.
    pub async fn open(address: SocketAddr, host: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Self::over(stream, host).await
    }

    /// Connects with TLS to a host that must have this certificate.
    pub async fn secure(
        address: SocketAddr,
        host: &str,
        trusted: &CertificateDer<'_>,
    ) -> Result<Self> {
        let stream = shake_hands(address, host, [trusted.clone().into_owned()]).await?;
        Self::over(stream, host).await
    }

    async fn over<S>(stream: S, host: &str) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // Its errors reach the requests.
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            driver,
            host: host.into(),
        })
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&mut self, method: Method, path: &str, body: Body) -> Result<Answer> {
        let started = Instant::now();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.host)
            .body(body)?;
        let answer = tokio::time::timeout(PATIENCE, async {
            let response = self.sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
                took: started.elapsed(),
            })
        });
        answer.await.context("no answer within two minutes")?
    }

    /// Whether the server has closed it.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a GET.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, empty()).await
    }
}

/// Shakes hands with who must have a certificate of this PEM for `name`.
pub async fn shake(address: SocketAddr, name: &str, pem: &[u8]) -> Result<()> {
    let trusted = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    shake_hands(address, name, trusted).await.map(drop)
}

async fn shake_hands(
    address: SocketAddr,
    name: &str,
    trusted: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned())?;
    Ok(TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?)
}

/// A GET on a connection of its own.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    send(address, host, Method::GET, path, empty()).await
}

/// A request on a connection of its own.
pub async fn send(
    address: SocketAddr,
    host: &str,
    method: Method,
    path: &str,
    body: Body,
) -> Result<Answer> {
    let started = Instant::now();
    let mut answer = Connection::open(address, host)
        .await?
        .send(method, path, body)
        .await?;
    answer.took = started.elapsed();
    Ok(answer)
}

/// No body.
pub fn empty() -> Body {
    Empty::new().boxed()
}

/// A body with a length.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// A chunked body.
pub fn chunked(pieces: impl Stream<Item = Bytes> + Send + Sync + 'static) -> Body {
    use futures::StreamExt as _;
    BodyExt::boxed(StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))))
}
