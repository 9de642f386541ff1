//! One connection to a pod, in the protocol that the pod speaks.

use std::{io, sync::Arc, time::Duration};

use crds::control::Protocol;
use http::{Request, Response};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::either::Either;

use crate::{body::Upload, gather::Gather, headers};

/// Requests at once on an HTTP/2 connection to a pod; for more another one is opened. RFC 9113 section 6.5.2 asks servers to allow at least 100.
const MAX_STREAMS: usize = 100;

/// Bytes of an answer that a pod may send before the client takes them, by stream: a round trip within a cluster takes well under
/// a millisecond, so this allows for more than 100 MB/s each.
const STREAM_WINDOW: u32 = 128 << 10;

/// The same over all streams of a connection: the sum, so that clients that do not read hold up nobody else's answers.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;

/// How often a pod with requests under way is asked whether it still lives, and how long it may take to say so: a node that is gone
/// closes no connection.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(10);

/// The sending side of a connection.
#[derive(Debug)]
pub(crate) enum Sender {
    /// One request after another.
    Http1(http1::SendRequest<Upload>),
    /// Many at once.
    Http2(Shared),
}

/// A share of an HTTP/2 connection.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    sender: http2::SendRequest<Upload>,
    /// One reference for each request, and one of the pool.
    users: Arc<()>,
}

impl Sender {
    /// Speaks `protocol` on `stream`, in a task that ends with the connection: when its sender is dropped, or the pod closes it.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) async fn new(stream: TcpStream, protocol: Protocol) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(Gather(stream));
        match protocol {
            Protocol::Http1 => {
                let (sender, connection) =
                    http1::handshake(stream).await.map_err(io::Error::other)?;
                tokio::spawn(async move {
                    if let Err(error) = connection.with_upgrades().await {
                        tracing::debug!(%error, "connection to a pod ended");
                    }
                });
                Ok(Self::Http1(sender))
            }
            Protocol::H2c => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .keep_alive_interval(PING)
                    .keep_alive_timeout(PONG)
                    .handshake(stream)
                    .await
                    .map_err(io::Error::other)?;
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "connection to a pod ended");
                    }
                });
                let users = Arc::default();
                Ok(Self::Http2(Shared { sender, users }))
            }
        }
    }

    /// Resolves when the connection can take a request.
    ///
    /// # Errors
    /// If it is closed.
    pub(crate) async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(sender) => sender.ready().await,
            Self::Http2(shared) => shared.sender.ready().await,
        }
    }

    /// Whether the connection can take a request now.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(shared) => {
                // The pool's own share is none of a request.
                shared.sender.is_ready() && Arc::strong_count(&shared.users) <= MAX_STREAMS
            }
        }
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(shared) => shared.sender.is_closed(),
        }
    }

    /// Whether a request is under way on it that whoever has this did not send.
    pub(crate) fn is_used(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(shared) => Arc::strong_count(&shared.users) > 1,
        }
    }

    /// Another share of it, if it can be shared.
    pub(crate) fn share(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(shared) => Some(Self::Http2(shared.clone())),
        }
    }

    /// Sends a request; an error hands it back if none of it was sent. Not an `async fn`, which would copy the request three times.
    pub(crate) fn try_send(
        &mut self,
        mut request: Request<Upload>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>> {
        match self {
            Self::Http1(sender) => {
                let body = request.body();
                let unknown = !body.is_end_stream() && body.size_hint().exact().is_none();
                headers::to_http1(&mut request, unknown);
                Either::Left(sender.try_send_request(request))
            }
            Self::Http2(shared) => {
                headers::to_http2(&mut request);
                Either::Right(shared.sender.try_send_request(request))
            }
        }
    }
}
