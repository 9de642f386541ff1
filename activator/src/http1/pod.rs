//! A connection to a pod, which takes one request after another.
//!
//! All of it happens in the request's task, but for the rest of a request that has its answer already; and the request stays where it is until it is known that
//! it need not be sent again.

mod head;

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
    time::timeout,
};

use crate::{
    body::Upload,
    headers,
    sender::{self, Answer, Failed},
};

use self::head::Head;
use super::{
    FIRST_READ, HEAD, Room,
    client::Share,
    head::announced,
    message::{Found, Message, Piece},
    sending::{Sending, Stopped},
};

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    read: OwnedReadHalf,
    /// `None` while the rest of a request is sent beside.
    write: Option<OwnedWriteHalf>,
    beside: Option<Beside>,
    answer: Message,
    room: Room,
    /// Whether another request may follow.
    kept: bool,
}

/// How long the rest of a request may still be sent after its answer has ended. Some pods answer first and read then; a client must not
/// occupy one by that for long, since it is no request in flight any more.
const SENT_WITHIN: Duration = Duration::from_secs(60);

/// A task that sends the rest of a request. It ends with this, unless it is let go.
#[derive(Debug)]
struct Beside(Option<JoinHandle<()>>);

impl Beside {
    fn let_go(mut self) {
        if let Some(mut task) = self.0.take() {
            tokio::spawn(async move {
                if timeout(SENT_WITHIN, &mut task).await.is_err() {
                    task.abort();
                }
            });
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self {
            read,
            write: Some(write),
            beside: None,
            answer: Message::default(),
            room: Room::default(),
            kept: true,
        }
    }

    /// Whether an unused connection is still open and silent, as far as the kernel has told.
    pub(crate) fn is_open(&self) -> bool {
        // What comes was not asked for, or is the end.
        let read = self.read.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether it can be used again now that its request has its answer.
    pub(crate) fn rest(&mut self) -> bool {
        let silent = self.answer.input.is_empty() && self.is_ended();
        if let Some(beside) = self.beside.take() {
            beside.let_go();
        }
        // An unused connection needs no buffer.
        self.answer = Message::default();
        self.kept && silent
    }

    /// Sends a request and returns the head of its answer; [`poll_frame`](Self::poll_frame) has the body. What the pod says before its answer goes to the
    /// `client`, if there is a way.
    ///
    /// # Errors
    /// As [`Sender::send`](crate::sender::Sender::send).
    pub(crate) async fn send(
        &mut self,
        request: &mut Option<Request<Upload>>,
        kept: bool,
        client: Option<&Share>,
    ) -> Result<Answer, Failed> {
        // Not two requests on one connection, whatever happens to this one.
        self.kept = false;
        let Some(sent) = request else {
            // Whoever sends has one.
            return Err(Failed::Closed);
        };
        let mut sending = sending(sent);
        let to_head = sent.method() == Method::HEAD;
        let mut hinted = false;
        let mut take = |input: &[u8]| {
            let found = head::take(input, to_head)?;
            if let Found::Interim(length) = &found {
                hinted = true;
                if let Some(client) = client
                    && let Some(hint) = head::interim(&input[..*length])
                {
                    client.hint(&hint);
                }
            }
            Ok(found)
        };
        let answer = poll_fn(|cx| self.poll_exchange(cx, &mut sending, sent.body_mut(), &mut take));
        match answer.await {
            Ok((answer, more)) => {
                let body = request.take().map(Request::into_body);
                self.kept = more && sending.is_done();
                if sending.goes_on() {
                    self.send_beside(sending, body.unwrap_or(Upload::Empty));
                }
                Ok((answer.into_parts().0, None))
            }
            Err(failed) => {
                let broken = matches!(failed, Failed::Socket(_) | Failed::Closed);
                // A pod that has begun to answer has seen it.
                let silent = !hinted && self.answer.input.is_empty();
                let repeatable = kept && silent && sender::is_repeatable(sent);
                let again = sending.is_untouched() || repeatable;
                if !(broken && again) {
                    *request = None;
                }
                Err(failed)
            }
        }
    }

    /// Sends, and reads at the same time: a pod may answer before it has the whole request.
    fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        sending: &mut Sending,
        body: &mut Upload,
        take: impl FnMut(&[u8]) -> Result<Found<Head>, Failed>,
    ) -> Poll<Result<(Response<()>, bool), Failed>> {
        if sending.goes_on()
            && let Some(write) = &mut self.write
            && let Poll::Ready(Err(stopped)) = sending.poll(write, body, cx)
        {
            match stopped {
                // It may have answered why it takes no more.
                Stopped::Socket(error) if !sending.is_untouched() => sending.give_up(error),
                Stopped::Socket(error) => return Poll::Ready(Err(error.into())),
                Stopped::Body => return Poll::Ready(Err(Failed::Body)),
            }
        }
        let head = ready!(self.poll_head(cx, take));
        Poll::Ready(head.map_err(|failed| sending.take_error().map_or(failed, Failed::Socket)))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&[u8]) -> Result<Found<Head>, Failed>,
    ) -> Poll<Result<(Response<()>, bool), Failed>> {
        let head = match self.answer.head(&mut take)? {
            Some(head) => head,
            None => loop {
                // On the stack: most answers come as a whole, and the connection needs no buffer for them.
                let mut room = [MaybeUninit::uninit(); FIRST_READ];
                let mut read = ReadBuf::uninit(&mut room);
                ready!(Pin::new(&mut self.read).poll_read(cx, &mut read))?;
                if read.filled().is_empty() {
                    return Poll::Ready(Err(Failed::Closed));
                }
                if let Some(head) = self.answer.head_with(read.filled(), &mut take)? {
                    break head;
                }
            },
        };
        self.answer.begin(head.body);
        Poll::Ready(Ok((head.answer, head.kept)))
    }

    /// Reads more; 0 if there is no more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let input = &mut self.answer.input;
        self.room.poll_read(&mut self.read, cx, input)
    }

    /// Goes on to send a request that has its answer already, in a task of its own: its client may want to send all of it before it reads the
    /// answer, and who reads that does nothing else meanwhile.
    fn send_beside(&mut self, mut sending: Sending, mut body: Upload) {
        let Some(mut write) = self.write.take() else {
            return;
        };
        let task = tokio::spawn(async move {
            let sent = poll_fn(|cx| sending.poll(&mut write, &mut body, cx)).await;
            if sent.is_ok() {
                // Dropped otherwise it would close this direction, which some pods take for a client that has left.
                write.forget();
            }
        });
        self.beside = Some(Beside(Some(task)));
    }

    /// Takes the connection out for another protocol: what came of that already, and the stream.
    pub(crate) fn into_stream(self) -> Option<(Bytes, TcpStream)> {
        let stream = self.read.reunite(self.write?).ok()?;
        Some((self.answer.input.freeze(), stream))
    }

    /// The next piece of the answer's body.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        loop {
            match self.answer.piece() {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(fields)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(fields))));
                }
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(failed) => return Poll::Ready(Some(Err(failed))),
            }
            let read = match ready!(self.poll_read(cx)) {
                Ok(read) => read,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            };
            if read == 0 {
                return Poll::Ready(self.answer.end().err().map(Err));
            }
        }
    }

    /// Whether all of the answer's body was handed on.
    pub(crate) fn is_ended(&self) -> bool {
        self.answer.is_ended()
    }

    /// How much is to come, if that is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}

/// A request on its way.
fn sending(request: &mut Request<Upload>) -> Sending {
    headers::to_http1(request);
    let mut out = Vec::with_capacity(HEAD);
    let framing = head::write(request, &mut out);
    Sending::new(out, framing, announced(request.headers(), framing))
}

/// The head of an answer, and whether another request may follow on the connection; `None` if more must be read. `to_head`: the request was a HEAD.
///
/// # Errors
/// If there is none.
#[cfg(fuzzing)]
pub(crate) fn head_of(
    answer: &mut Message,
    to_head: bool,
) -> Result<Option<(Response<()>, bool)>, Failed> {
    let head = answer.head(|input| head::take(input, to_head))?;
    Ok(head.map(|head| {
        answer.begin(head.body);
        (head.answer, head.kept)
    }))
}
