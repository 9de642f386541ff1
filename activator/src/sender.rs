//! One connection to a pod, in the protocol that the pod speaks.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use crds::control::Protocol;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::either::Either;

use crate::{body::Upload, gather::Gather, headers, http1};

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
    Http1(http1::Connection),
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
    /// Speaks `protocol` on `stream`. A connection that is shared does so in a task that ends with it: when its senders are dropped, or the pod
    /// closes it.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) async fn new(stream: TcpStream, protocol: Protocol) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let stream = Gather(stream);
        match protocol {
            Protocol::Http1 => http1::Connection::new(stream).await.map(Self::Http1),
            Protocol::H2c => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .keep_alive_interval(PING)
                    .keep_alive_timeout(PONG)
                    .handshake(TokioIo::new(stream))
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

    /// Whether the connection can take a request now.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_ready(),
            Self::Http2(shared) => {
                // The pool's own share is none of a request.
                shared.sender.is_ready() && Arc::strong_count(&shared.users) <= MAX_STREAMS
            }
        }
    }

    /// Whether it can be kept now that its request has its answer. One that is shared is kept already.
    pub(crate) fn rest(&mut self) -> bool {
        match self {
            Self::Http1(connection) => connection.rest(),
            Self::Http2(_) => false,
        }
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_closed(),
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
            Self::Http1(connection) => Either::Left(connection.try_send(request)),
            Self::Http2(shared) => {
                headers::to_http2(&mut request);
                Either::Right(shared.sender.try_send_request(request))
            }
        }
    }

    /// The next piece of the body of an answer that comes over this connection.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self {
            Self::Http1(connection) => connection.poll_frame(body, cx),
            Self::Http2(_) => Pin::new(body).poll_frame(cx),
        }
    }

    /// Has a task do the work of the connection, which changes its protocol.
    pub(crate) fn detach(&mut self) {
        if let Self::Http1(connection) = self {
            connection.detach();
        }
    }
}
