//! One connection to a pod, in the protocol that the pod speaks.

use std::{
    error::Error,
    fmt, io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use crds::control::Protocol;
use http::{Request, response};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

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
    /// One request after another. Boxed because it moves with each: into its answer's body and back to the pool.
    Http1(Box<http1::pod::Connection>),
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

/// Why a request has no answer, or not all of it.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The request's own body broke off or is malformed.
    Body,
    /// The connection broke.
    Socket(io::Error),
    /// The pod closed the connection too early.
    Closed,
    /// What the pod sent is no answer.
    Malformed(&'static str),
    /// What hyper says of HTTP/2.
    Http2(hyper::Error),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => f.write_str("the request's body broke off or is malformed"),
            Self::Socket(error) => error.fmt(f),
            Self::Closed => f.write_str("it was closed before the end of the answer"),
            Self::Malformed(what) => write!(f, "the answer is malformed: {what}"),
            Self::Http2(error) => error.fmt(f),
        }
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Socket(error) => error.source(),
            Self::Http2(error) => error.source(),
            Self::Body | Self::Closed | Self::Malformed(_) => None,
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

/// An answer's head, and its body if that does not come over the [`Sender`] itself.
pub(crate) type Answer = (response::Parts, Option<Incoming>);

impl Sender {
    /// Speaks `protocol` on `stream`. A connection that is shared does so in a task that ends with it: when its senders are dropped, or the pod
    /// closes it.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) async fn new(stream: TcpStream, protocol: Protocol) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        if protocol == Protocol::Http1 {
            return Ok(Self::Http1(Box::new(http1::pod::Connection::new(stream))));
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .handshake(TokioIo::new(Gather(stream)))
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

    /// Whether a connection that is not closed can take another request.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(_) => true,
            Self::Http2(shared) => {
                // The pool's own share is none of a request.
                shared.sender.is_ready() && Arc::strong_count(&shared.users) <= MAX_STREAMS
            }
        }
    }

    /// Whether an unused connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(connection) => !connection.is_open(),
            Self::Http2(shared) => shared.sender.is_closed(),
        }
    }

    /// Whether it can be kept now that its request has its answer. One that is shared is kept already.
    pub(crate) fn rest(&mut self) -> bool {
        match self {
            Self::Http1(connection) => connection.rest(),
            Self::Http2(_) => false,
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

    /// Sends a request, and returns the head of its answer. What the pod says before that goes to the `client`, if both speak HTTP/1.1.
    ///
    /// # Errors
    /// If there is none. The request stays in its place if it can be sent again: when nothing of it was sent, whatever it is; and on a connection
    /// that was `kept`, if sending it twice does what sending it once does. The pod may have closed that while the request was on its way,
    /// and whether it has read it before nobody knows.
    pub(crate) async fn send(
        &mut self,
        request: &mut Option<Request<Upload>>,
        kept: bool,
        client: Option<&http1::client::Share>,
    ) -> Result<Answer, Failed> {
        match self {
            Self::Http1(connection) => connection.send(request, kept, client).await,
            // Boxed because it is large, and those of HTTP/1.1 would have room for it.
            Self::Http2(shared) => Box::pin(shared.send(request, kept)).await,
        }
    }

    /// The next piece of the body of an answer that comes over this connection.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        match self {
            Self::Http1(connection) => connection.poll_frame(cx),
            Self::Http2(_) => Poll::Ready(None),
        }
    }

    /// Whether all of that was handed on.
    pub(crate) fn is_ended(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_ended(),
            Self::Http2(_) => true,
        }
    }

    /// How much of it is to come, if that is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(connection) => connection.size_hint(),
            Self::Http2(_) => SizeHint::with_exact(0),
        }
    }

    /// Takes the connection out for another protocol: what has come of that already, and the stream.
    pub(crate) fn into_stream(self) -> Option<(Bytes, TcpStream)> {
        match self {
            Self::Http1(connection) => connection.into_stream(),
            Self::Http2(_) => None,
        }
    }
}

impl Shared {
    async fn send(
        &mut self,
        request: &mut Option<Request<Upload>>,
        kept: bool,
    ) -> Result<Answer, Failed> {
        let Some(mut sent) = request.take() else {
            // Whoever sends has one.
            return Err(Failed::Closed);
        };
        let copy = Some(&sent).filter(|_| kept).and_then(copy);
        headers::to_http2(&mut sent);
        match self.sender.try_send_request(sent).await {
            Ok(answer) => {
                let (mut head, body) = answer.into_parts();
                headers::to_client(&mut head);
                Ok((head, Some(body)))
            }
            // Nothing of ours fails here but the body, which is the client's.
            Err(error) if error.error().is_user() => Err(Failed::Body),
            Err(mut error) => {
                // What hyper hands back was not sent. It does not tell whether the pod had begun to answer; sending the copy does no harm.
                *request = error.take_message().or(copy);
                Err(Failed::Http2(error.into_error()))
            }
        }
    }
}

/// Whether sending a request twice does what sending it once does.
pub(crate) fn is_repeatable(request: &Request<Upload>) -> bool {
    matches!(request.body(), Upload::Empty) && request.method().is_idempotent()
}

/// A copy of a request that may be sent twice.
fn copy(request: &Request<Upload>) -> Option<Request<Upload>> {
    is_repeatable(request).then(|| {
        let mut copy = Request::new(Upload::Empty);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        copy
    })
}
