//! One control stream: an HTTP/2 request to an activator that stays open.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use crds::control::{Decoder, PATH, ToOperator};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::{StatusCode, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::TlsConnector;

use crate::{
    fleet::{Fleet, Outgoing, SessionId, secure},
    scaler::Message,
};

/// How long connecting, and the activator's first answer, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A dead peer is noticed within the sum of these.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Where to connect and how to prove who we are.
pub struct Target {
    /// UID of the activator's pod.
    pub pod: String,
    /// Address of its control port.
    pub address: SocketAddr,
    /// The bearer token.
    pub token: String,
    /// What knows the activators' certificate, if they speak TLS.
    pub tls: Option<TlsConnector>,
}

/// Reads the bearer token; a rotated secret is seen at the next connection.
///
/// # Errors
/// If the file cannot be read or is empty.
pub fn read_token(file: &Path) -> anyhow::Result<String> {
    let token = std::fs::read_to_string(file)
        .with_context(|| format!("control token file {} cannot be read", file.display()))?;
    let token = token.trim();
    if token.is_empty() {
        bail!("control token file {} is empty", file.display());
    }
    Ok(token.to_owned())
}

/// Opens a stream, carries frames both ways until it ends, and cleans up after it.
///
/// # Errors
/// Why the stream could not be opened or has ended.
pub async fn run(
    target: &Target,
    fleet: &Arc<Fleet>,
    scaler: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target.address))
        .await
        .context("connecting took too long")??;
    stream.set_nodelay(true)?;
    let Some(tls) = &target.tls else {
        return carry(stream, target, fleet, scaler).await;
    };
    let shaking = tokio::time::timeout(CONNECT_TIMEOUT, secure::shake(tls, stream));
    let stream = shaking
        .await
        .context("the TLS handshake took too long")?
        .context("no TLS: operator and activator must mount the same Secret")?;
    carry(stream, target, fleet, scaler).await
}

/// Does all that over a connection.
async fn carry<S>(
    stream: S,
    target: &Target,
    fleet: &Arc<Fleet>,
    scaler: &mpsc::Sender<Message>,
) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    let connection = tokio::spawn(connection);
    // Ends the connection's task with this future, however that ends.
    let _connection = tokio_util::task::AbortOnDropHandle::new(connection);
    let (id, outgoing) = fleet.open(&target.pod);
    let registered = Registered { id, fleet };
    let request = hyper::Request::post(format!("http://{}{PATH}", target.address))
        .header(
            hyper::header::AUTHORIZATION,
            format!("Bearer {}", target.token),
        )
        .header(hyper::header::CONTENT_TYPE, "application/x-ndjson")
        .body(Frames::from(outgoing))?;
    let response = tokio::time::timeout(CONNECT_TIMEOUT, sender.send_request(request))
        .await
        .context("the activator did not answer")??;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => bail!(
            "the activator refuses our token: operator and activator must mount the same Secret"
        ),
        status => bail!("the activator answered {status}"),
    }
    scaler.send(Message::SessionsChanged).await?;
    let ended = receive(response.into_body(), id, fleet, scaler).await;
    drop(registered);
    scaler.send(Message::SessionsChanged).await?;
    ended
}

/// Takes the session out of the fleet however its future ends.
struct Registered<'a> {
    id: SessionId,
    fleet: &'a Fleet,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.fleet.close(self.id);
    }
}

async fn receive(
    mut body: Incoming,
    id: SessionId,
    fleet: &Fleet,
    scaler: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    let mut decoder = Decoder::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        decoder.push(&data);
        while let Some(frame) = decoder.next_frame::<ToOperator>()? {
            handle(frame, id, fleet, scaler).await?;
        }
    }
    Ok(())
}

async fn handle(
    frame: ToOperator,
    id: SessionId,
    fleet: &Fleet,
    scaler: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    let message = match frame {
        ToOperator::Hello { activator } => {
            tracing::info!(activator, session = id.0, "control stream open");
            return Ok(());
        }
        ToOperator::Bound { function, port } => {
            fleet.bound(id, function.clone(), Some(port));
            Message::Bound(function)
        }
        ToOperator::BindFailed {
            function,
            port,
            error,
        } => {
            tracing::warn!(%function, port, error, session = id.0, "activator cannot listen");
            fleet.bound(id, function.clone(), None);
            Message::Bound(function)
        }
        frame @ (ToOperator::Probed { .. } | ToOperator::Unknown) => {
            tracing::trace!(?frame, session = id.0, "noted");
            return Ok(());
        }
        frame => Message::Activator {
            session: id,
            frame,
            at: tokio::time::Instant::now(),
        },
    };
    scaler.send(message).await.context("the scaler has stopped")
}

/// The request body: the full state, then changes as they come. It ends when the fleet drops the session.
struct Frames {
    first: VecDeque<Bytes>,
    then: mpsc::Receiver<Bytes>,
}

impl From<Outgoing> for Frames {
    fn from(outgoing: Outgoing) -> Self {
        Self {
            first: outgoing.first.into(),
            then: outgoing.then,
        }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(frame) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        self.then
            .poll_recv(cx)
            .map(|frame| frame.map(|f| Ok(Frame::data(f))))
    }
}
