//! The bodies that go to pods and to clients.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use throttle::Slot;
use tokio::time::Instant;

use crate::{
    access::{Cut, Line, Pending},
    client::Deadline,
    connection::HEADER_TIMEOUT,
    http1::client::Uploading,
    metrics::{Metrics, Raised},
    pod::Pod,
    sender::{Failed, Sender},
    tunnel::Tunnel,
    turn::Turn,
};

/// A request's body on its way to a pod.
#[derive(Debug)]
pub(crate) enum Upload {
    /// None. Unlike a stream it can be sent again.
    Empty,
    /// As it comes from a client of HTTP/1.1.
    Http1(Uploading, Turn),
    /// As it comes from one of HTTP/2.
    Http2(Incoming, Turn),
}

impl Upload {
    /// Whose turn it is while it is on its way; `None` if there is nothing to send.
    pub(crate) fn turn(&self) -> Option<&Turn> {
        match self {
            Self::Empty => None,
            Self::Http1(_, turn) | Self::Http2(_, turn) => Some(turn),
        }
    }
}

impl From<Incoming> for Upload {
    fn from(body: Incoming) -> Self {
        if body.is_end_stream() {
            Self::Empty
        } else {
            let turn = Turn::of(body.size_hint().exact().is_some());
            Self::Http2(body, turn)
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        let (frame, turn) = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Http1(body, turn) => (body.poll_frame(cx), turn),
            Self::Http2(body, turn) => {
                let frame = Pin::new(body).poll_frame(cx);
                let frame = frame.map(|frame| frame.map(|frame| frame.map_err(Failed::Http2)));
                (frame, turn)
            }
        };
        turn.asked(frame.is_pending());
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body, _) => body.is_ended(),
            Self::Http2(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body, _) => body.size_hint(),
            Self::Http2(body, _) => body.size_hint(),
        }
    }
}

/// What a request occupies while it is in a pod. Given back when the answer's body has ended or is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    slot: Slot<Arc<Pod>>,
    /// The connection that the answer comes on; it goes back to the pool if the answer comes to its end. `None` once it has another protocol.
    connection: Option<Sender>,
    metrics: Arc<Metrics>,
    began: Instant,
    /// The gauge of requests in pods.
    in_flight: Raised,
}

impl Flight {
    pub(crate) fn new(
        slot: Slot<Arc<Pod>>,
        connection: Option<Sender>,
        metrics: &Arc<Metrics>,
        began: Instant,
        in_flight: Raised,
    ) -> Self {
        Self {
            slot,
            connection,
            metrics: Arc::clone(metrics),
            began,
            in_flight,
        }
    }

    /// Ends the flight now; `whole` if the answer was received to its end. The connection goes back before the slot, so that the next
    /// request finds it.
    pub(crate) fn end(self, whole: bool, now: Instant) {
        let took = now.saturating_duration_since(self.began).as_secs_f64();
        self.metrics.request_duration.observe(took);
        drop(self.in_flight);
        if whole && let Some(connection) = self.connection {
            self.slot.payload().pool.put(connection, now);
        }
    }
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long the pod may take until it begins.
    pub(crate) first_byte: Duration,
    /// Until when it must begin, if the request has no body to be waited for.
    pub(crate) begins: Instant,
    /// How long the pod may send nothing, once it has begun.
    pub(crate) idle: Option<Duration>,
    /// Until when it must end.
    pub(crate) end: Instant,
}

/// An answer's body on its way to a client.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of pods, and a box would cost each an allocation"
)]
pub(crate) enum Reply {
    /// Of the activator itself.
    Text(Option<Bytes>),
    /// Of a pod.
    Pod(Download),
    /// None: another protocol follows. Boxed because it is rare.
    Switched(Box<Tunnel>),
}

/// A pod's answer, and what it occupies.
#[derive(Debug)]
pub(crate) struct Download {
    /// `None` if it comes over the flight's connection.
    body: Option<Incoming>,
    flight: Option<Flight>,
    /// Why the pod broke it off, until that is handed on.
    broken: Option<Failed>,
    limits: Limits,
    /// Since when the pod was asked for more and has sent nothing; kept only while there is a bound for it. A client that does not read
    /// does not ask, so the time that it takes is not the pod's.
    silent_since: Option<Instant>,
    /// The next limit, once the connection knows it: when the body does not come at once as a whole, which most do.
    due: Option<Instant>,
    /// Of the client's connection, or its stream over HTTP/2. Set to `due`, and afterwards for the client's next request.
    of_connection: Deadline,
    /// Of the access log; written when the answer has ended.
    line: Pending,
}

/// Why an answer's body breaks off.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The pod broke it off.
    Pod(Failed),
    /// The request has taken too long.
    Timeout,
    /// The pod has sent nothing for too long.
    Idle,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(error) => write!(f, "the pod broke off its answer: {error}"),
            Self::Timeout => f.write_str("the answer took longer than timeouts.request"),
            Self::Idle => f.write_str("the pod sent nothing for timeouts.idle"),
        }
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pod(error) => Some(error),
            Self::Timeout | Self::Idle => None,
        }
    }
}

impl Reply {
    pub(crate) fn text(text: Bytes) -> Self {
        Self::Text(Some(text))
    }

    /// Whether a pod answers.
    pub(crate) fn is_from_pod(&self) -> bool {
        matches!(self, Self::Pod(_))
    }

    /// No body.
    pub(crate) fn none() -> Self {
        Self::Text(None)
    }

    /// The `body` of a pod's answer; `of_connection` is the client's.
    pub(crate) fn pod(
        body: Option<Incoming>,
        flight: Flight,
        limits: Limits,
        of_connection: Deadline,
        line: Pending,
    ) -> Self {
        let mut download = Download {
            body,
            flight: Some(flight),
            broken: None,
            limits,
            silent_since: None,
            due: None,
            of_connection,
            line,
        };
        download.end_if_ended();
        if download.flight.is_some() && download.body.is_some() {
            // That of an answer to a HEAD is not asked for, but a pod of HTTP/2 may let its end wait.
            download.of_connection.set(limits.end);
            download.due = Some(limits.end);
        }
        Self::Pod(download)
    }
}

impl Download {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = self.poll_pod(cx);
        match &frame {
            Poll::Pending => {}
            Poll::Ready(None) => self.end(true),
            Poll::Ready(Some(Ok(_))) => self.end_if_ended(),
            Poll::Ready(Some(Err(_))) => self.end(false),
        }
        if frame.is_ready() {
            self.silent_since = None;
        } else if self.limits.idle.is_some() {
            self.silent_since.get_or_insert_with(Instant::now);
        }
        if self.flight.is_some()
            && let Some(broken) = self.too_late()
        {
            self.end(false);
            self.note(|line| line.is_cut(Cut::from(&broken)));
            return Poll::Ready(Some(Err(broken)));
        }
        let frame = frame.map(|frame| frame.map(|frame| frame.map_err(Broken::Pod)));
        if let Poll::Ready(Some(frame)) = &frame {
            self.note(|line| match frame {
                Ok(frame) => line.sent(frame.data_ref().map_or(0, Bytes::len)),
                Err(broken) => line.is_cut(Cut::from(broken)),
            });
        }
        frame
    }

    /// What comes of the pod's answer. That it broke off is told one poll later: who writes it lets go of what is not written when it hears that, and
    /// writes what the socket takes in between.
    fn poll_pod(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        match self.poll_answer(cx) {
            Poll::Ready(Some(Err(broken))) => {
                self.broken = Some(broken);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        let connection = self
            .flight
            .as_mut()
            .and_then(|flight| flight.connection.as_mut());
        match (&mut self.body, connection) {
            (Some(body), _) => {
                let frame = Pin::new(body).poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(Failed::Http2)))
            }
            (None, Some(connection)) => connection.poll_frame(cx),
            (None, None) => Poll::Ready(None),
        }
    }

    /// Whether all of the body was handed on.
    fn is_ended(&self) -> bool {
        match (&self.body, &self.flight) {
            _ if self.broken.is_some() => false,
            (Some(body), _) => body.is_end_stream(),
            (None, Some(flight)) => flight.connection.as_ref().is_none_or(Sender::is_ended),
            (None, None) => true,
        }
    }

    /// The limit that has passed, if one has. The connection's task is woken at the next one, whatever it waits for.
    fn too_late(&mut self) -> Option<Broken> {
        let (end, idle) = (self.limits.end, self.limits.idle);
        let silent = self.silent_since.zip(idle);
        let due = silent.map_or(end, |(since, idle)| end.min(since + idle));
        let now = Instant::now();
        if now >= end {
            return Some(Broken::Timeout);
        }
        if now >= due {
            return Some(Broken::Idle);
        }
        if self.due != Some(due) {
            self.due = Some(due);
            self.of_connection.set(due);
        }
        None
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, &self.flight) {
            (Some(body), _) => body.size_hint(),
            (
                None,
                Some(Flight {
                    connection: Some(connection),
                    ..
                }),
            ) => connection.size_hint(),
            (None, _) => SizeHint::with_exact(0),
        }
    }

    fn note(&mut self, note: impl FnOnce(&mut Line)) {
        if let Some(line) = &mut self.line {
            note(line);
        }
    }

    /// Whoever writes the body need not poll it again when all has come: hyper asks whether it has ended, HTTP/1.1 counts its length.
    fn end_if_ended(&mut self) {
        if self.is_ended() {
            self.end(true);
        }
    }

    fn end(&mut self, whole: bool) {
        if let Some(flight) = self.flight.take() {
            let now = Instant::now();
            flight.end(whole, now);
            // From now on all that is left is the client's to do: to read the rest, and to send its next request.
            self.of_connection.set(now + HEADER_TIMEOUT);
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let unfinished = self.flight.is_some() && !self.is_ended();
        self.end(!unfinished);
        if let Some(mut line) = self.line.take() {
            if unfinished {
                line.is_cut(Cut::Client);
            }
            line.write();
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Pod(download) => download.poll(cx),
            Self::Switched(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Pod(download) => download.is_ended(),
            Self::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Self::Pod(download) => download.size_hint(),
            Self::Switched(_) => SizeHint::with_exact(0),
        }
    }
}
