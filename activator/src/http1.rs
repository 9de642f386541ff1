//! A connection to a pod that takes one request after another (HTTP/1.1).
//!
//! hyper has a handle for the requests and a future that does the work of the connection. The usual way spawns the latter, and then each
//! request goes from task to task four times. Here the task of the request polls it, and while the connection is unused nobody does.

use std::{
    fmt, io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{SendRequest, handshake},
    },
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{
    body::{Sending, Upload},
    gather::Gather,
    headers,
};

/// One connection.
pub(crate) struct Connection {
    requests: SendRequest<Upload>,
    work: Work,
    /// Whether the body of its request is still being sent.
    sends: Arc<AtomicBool>,
}

/// Who does the work of a connection.
enum Work {
    /// Whoever has the connection, when it wants something of it.
    Own(Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>),
    /// A task of its own.
    Task,
    /// There is none: the connection has ended.
    Ended,
}

impl Connection {
    /// Speaks HTTP/1.1 on `stream`.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) async fn new(stream: Gather<TcpStream>) -> io::Result<Self> {
        let (requests, work) = handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        Ok(Self {
            requests,
            work: Work::Own(Box::pin(work.with_upgrades())),
            sends: Arc::default(),
        })
    }

    /// Does what there is to do, and has the task of `cx` woken when there is more.
    fn work(&mut self, cx: &mut Context<'_>) {
        if let Work::Own(work) = &mut self.work
            && let Poll::Ready(ended) = work.as_mut().poll(cx)
        {
            log(ended);
            self.work = Work::Ended;
        }
    }

    /// Has a task do the work from now on.
    pub(crate) fn detach(&mut self) {
        if let Work::Own(work) = std::mem::replace(&mut self.work, Work::Task) {
            tokio::spawn(async move { log(work.await) });
        }
    }

    /// Whether it has ended. An unused connection has its work done here, without anybody to be woken.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.work(&mut unheard());
        matches!(self.work, Work::Ended) || self.requests.is_closed()
    }

    /// Whether it can take a request, as far as was seen. One that its pod has closed since hands the request back.
    pub(crate) fn is_ready(&self) -> bool {
        self.requests.is_ready()
    }

    /// Whether it can be kept now that its request has its answer. If that was not sent to its end it cannot, unless a task sees to that.
    pub(crate) fn rest(&mut self) -> bool {
        self.is_ready() || !self.is_closed() && (self.is_ready() || matches!(self.work, Work::Task))
    }

    /// Sends a request; an error hands it back if none of it was sent. Not an `async fn`, which would copy the request three times.
    pub(crate) fn try_send(
        &mut self,
        mut request: Request<Upload>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>> {
        let body = request.body_mut();
        let unknown = !body.is_end_stream() && body.size_hint().exact().is_none();
        body.tell(|| Sending::new(&self.sends));
        headers::to_http1(&mut request, unknown);
        let answer = self.requests.try_send_request(request);
        async move {
            let mut answer = pin!(answer);
            let answer = std::future::poll_fn(|cx| {
                self.work(cx);
                match self.work {
                    Work::Task => answer.as_mut().poll(cx),
                    // It comes of the work alone; to be woken by it would have this task polled once more.
                    Work::Own(_) | Work::Ended => answer.as_mut().poll(&mut unheard()),
                }
            })
            .await;
            // A client may want to send all of its body before it reads any of the answer; who reads the answer does no work meanwhile.
            if self.sends.load(Ordering::Relaxed) {
                self.detach();
            }
            answer
        }
    }

    /// The next piece of the body of an answer that comes over this connection.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut body = Pin::new(body);
        if let Work::Own(_) = self.work {
            // What has come already is taken before there is a look for more.
            let frame = body.as_mut().poll_frame(&mut unheard());
            if frame.is_ready() {
                return frame;
            }
            self.work(cx);
            return body.poll_frame(&mut unheard());
        }
        body.poll_frame(cx)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let work = match self.work {
            Work::Own(_) => "own",
            Work::Task => "task",
            Work::Ended => "ended",
        };
        f.debug_struct("Connection").field("work", &work).finish()
    }
}

/// The context of somebody who is not to be woken.
fn unheard() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection to a pod ended");
    }
}
