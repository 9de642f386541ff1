//! A client's connection, of which its task and the body of its present request each have a share.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead as _, AsyncWrite, ReadBuf};

use crate::{body::Upload, client::Wire, sender::Failed, turn::Turn};

use crate::http1::{
    FIRST_READ, Room,
    message::{Message, Piece},
};

use super::head::{self, Asked, Bad, Head};

/// Most bytes of a body that nobody wants which are read so that the connection can be kept.
const MOST_DRAINED: usize = 64 << 10;

/// Bytes of answers before the answer from which on no more are kept for a client that does not read them.
const MOST_HINTS: usize = 16 << 10;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A share of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Share(Arc<Mutex<Connection>>);

/// Locked for no longer than a call takes.
#[derive(Debug)]
pub(super) struct Connection {
    /// `None` once it has another protocol.
    wire: Option<Wire>,
    request: Message,
    room: Room,
    /// Whether the client waits until it is asked for the body.
    expects: bool,
    /// Whether it knows answers that come before the answer.
    takes_hints: bool,
    /// Bytes of the present request's head.
    head: usize,
    /// What is written before the answer.
    ahead: BytesMut,
    /// Whether what was written of that may be kept by what protects the stream.
    flushes: bool,
    /// Whether the present request's body is somebody's.
    uploading: bool,
    /// Whether no further request is read: nobody wants the rest of this one, or it is none.
    closed: bool,
    /// Whether the client went away while it was read.
    gone: bool,
    /// The connection's task, if it waits for the end of that.
    serving: Option<Waker>,
    /// Whoever has that body, if more of it is waited for.
    reading: Option<Waker>,
}

impl Share {
    /// A connection of which `begun` was read already.
    pub(crate) fn new(wire: Wire, begun: BytesMut) -> Self {
        let mut request = Message::default();
        request.input = begun;
        Self(Arc::new(Mutex::new(Connection {
            wire: Some(wire),
            request,
            room: Room::default(),
            expects: false,
            takes_hints: false,
            head: 0,
            ahead: BytesMut::new(),
            flushes: false,
            uploading: false,
            closed: false,
            gone: false,
            serving: None,
            reading: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock()
    }

    /// The request of a head that was just read, with its body.
    pub(super) fn request(&self, head: Head) -> (Request<Upload>, Asked) {
        let mut connection = self.lock();
        connection.request.begin(head.body);
        connection.takes_hints = !head.asked.old;
        connection.head = head.length;
        let body = match connection.request.is_ended() {
            true => Upload::Empty,
            false => {
                connection.uploading = true;
                connection.expects = head.expects;
                let turn = Turn::of(connection.request.size_hint().exact().is_some());
                Upload::Http1(Uploading(Some(self.clone())), turn)
            }
        };
        (head.request.map(|()| body), head.asked)
    }

    /// Ends the connection, whoever has a share of it: a body on its way to a pod of HTTP/2 is read by a task of its own, which would go on.
    fn end(&self) {
        let mut connection = self.lock();
        connection.closed = true;
        let (wire, reading) = (connection.wire.take(), connection.reading.take());
        drop(connection);
        drop(wire);
        // To drop a socket wakes nobody.
        if let Some(reading) = reading {
            reading.wake();
        }
    }

    /// Has the client told what comes before its answer.
    pub(crate) fn hint(&self, hint: &Response<()>) {
        let mut connection = self.lock();
        if connection.takes_hints && connection.ahead.len() < MOST_HINTS {
            let mut text = Vec::new();
            head::write_hint(hint, &mut text);
            connection.ahead.extend_from_slice(&text);
        }
    }

    /// Bytes of the present request's head, which stay in memory as one piece.
    pub(crate) fn head(&self) -> usize {
        self.lock().head
    }

    /// Resolves when the client has closed its side of the connection, even when it has sent bytes that nobody has read, as the body of a request that
    /// is held.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) async fn gone(&self) -> io::Result<()> {
        let watched = match &self.lock().wire {
            Some(wire) => wire.watched()?,
            None => return Ok(()),
        };
        watched.gone().await
    }
}

/// Ends a connection when dropped.
pub(crate) struct Ending(pub(crate) Share);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Connection {
    /// The next request's head; `None` if there will be none. `stops` says whether it is no longer waited for.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        stops: impl Fn() -> bool,
    ) -> Poll<Option<Result<Head, Bad>>> {
        match self.request.head(head::take) {
            Ok(None) => {}
            Ok(Some(head)) => return Poll::Ready(Some(Ok(head))),
            Err(bad) => return Poll::Ready(Some(Err(bad))),
        }
        loop {
            let found = match self.request.input.len() < FIRST_READ {
                true => {
                    let mut room = [MaybeUninit::uninit(); FIRST_READ];
                    let mut read = ReadBuf::uninit(&mut room);
                    let came = self.poll_read(cx, &mut read);
                    match came.map_ok(|()| read.filled()) {
                        Poll::Ready(Ok(read)) if !read.is_empty() => {
                            self.request.head_with(read, head::take)
                        }
                        Poll::Pending if !(stops() && self.request.input.is_empty()) => {
                            return Poll::Pending;
                        }
                        _ => return Poll::Ready(None),
                    }
                }
                // A long one: not in many small pieces.
                false => match ready!(self.poll_more(cx)) {
                    Ok(1..) => self.request.head(head::take),
                    _ => return Poll::Ready(None),
                },
            };
            match found {
                Ok(None) => {}
                Ok(Some(head)) => return Poll::Ready(Some(Ok(head))),
                Err(bad) => return Poll::Ready(Some(Err(bad))),
            }
        }
    }

    /// Resolves when the client has gone while its request is answered. What it sends meanwhile is its next request, and is kept; from
    /// [`FIRST_READ`] bytes of that on it is not looked at any further.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.gone {
            return Poll::Ready(());
        }
        if self.uploading {
            self.serving = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while self.request.is_ended() && self.request.input.len() < FIRST_READ {
            let mut room = [MaybeUninit::uninit(); FIRST_READ];
            let mut read = ReadBuf::uninit(&mut room[self.request.input.len()..]);
            match ready!(self.poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {
                    self.request.input.extend_from_slice(read.filled());
                }
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, read: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Some(wire) => Pin::new(wire).poll_read(cx, read),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes what goes before the answer.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (true, Some(wire)) = (self.flushes || !self.ahead.is_empty(), &mut self.wire) else {
            return Poll::Ready(Ok(()));
        };
        self.flushes = true;
        while !self.ahead.is_empty() {
            let written = ready!(Pin::new(&mut *wire).poll_write(cx, &self.ahead))?;
            self.ahead.advance(written);
        }
        ready!(Pin::new(wire).poll_flush(cx))?;
        self.flushes = false;
        self.ahead = BytesMut::new();
        self.wake_reading();
        Poll::Ready(Ok(()))
    }

    /// Wakes whoever has the body, which may have waited for the same as another task did, and was forgotten by that.
    fn wake_reading(&mut self) {
        if let Some(reading) = self.reading.take() {
            reading.wake();
        }
    }

    /// The answer begins. Returns what goes before it and is not written yet, and whether the connection may be kept. It may not if the client has
    /// waited to be asked for the body, since it is not asked any more, and may send it all the same, or not; nor if nobody `wants` the rest of the body and it
    /// is not known that it is little.
    pub(super) fn answers(&mut self, cx: &mut Context<'_>, wants: bool) -> (BytesMut, bool) {
        self.closed |= std::mem::take(&mut self.expects);
        // What goes before the answer is written with it, and flushed.
        self.flushes = false;
        let ahead = std::mem::take(&mut self.ahead);
        self.wake_reading();
        if !self.uploading && !self.request.is_ended() {
            let read = self.poll_drained(cx);
            self.closed |= read.is_pending() && self.request.is_longer(MOST_DRAINED);
        } else if self.uploading && !wants {
            // Whoever has it still is about to drop it.
            self.closed |= self.request.is_longer(MOST_DRAINED);
        }
        (ahead, !self.closed)
    }

    /// Resolves when the body, which nobody has, was read to its end, or is not read any further; so it is if more than [`MOST_DRAINED`] bytes of it
    /// are there. It is waited for only if no more than that is to come, so they need not be counted from one poll to the next.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut drained = 0;
        while !self.closed {
            match ready!(self.poll_frame(cx)) {
                None => break,
                Some(Ok(frame)) => drained += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => self.closed = true,
            }
            self.closed |= drained > MOST_DRAINED;
        }
        Poll::Ready(())
    }

    /// The next piece of the present request's body.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        if self.poll_ask(cx)?.is_pending() {
            return self.waits_to_read(cx);
        }
        loop {
            match self.request.piece() {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(fields)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(fields))));
                }
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) if self.closed => return Poll::Ready(Some(Err(Failed::Closed))),
                Ok(Piece::More) => {}
                Err(failed) => {
                    self.closed = true;
                    return Poll::Ready(Some(Err(failed)));
                }
            }
            match self.poll_more(cx) {
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.gone = true;
                    self.closed = true;
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return self.waits_to_read(cx),
            }
        }
    }

    fn waits_to_read<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        self.reading = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Asks the client for the body, if it waits for that.
    fn poll_ask(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.expects) {
            self.ahead.extend_from_slice(CONTINUE);
        }
        self.poll_ahead(cx)
    }

    /// Reads more of what was begun.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Some(wire) => self.room.poll_read(wire, cx, &mut self.request.input),
            None => Poll::Ready(Ok(0)),
        }
    }

    /// Resolves when nobody has the body any more and all of it was read, or is not read any further; whether the next request can be read then. `ends`
    /// says whether there will be none.
    pub(super) fn poll_read_whole(
        &mut self,
        cx: &mut Context<'_>,
        ends: impl Fn() -> bool,
    ) -> Poll<bool> {
        if self.uploading && !self.closed {
            self.serving = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.poll_drained(cx).is_pending() {
            if !ends() && !self.request.is_longer(MOST_DRAINED) {
                return Poll::Pending;
            }
            self.closed = true;
        }
        self.request.tidy();
        Poll::Ready(!self.closed && self.request.is_ended())
    }

    /// Ends the connection so that the client gets all of the answer. Beside what was not read of it the system would throw that away, so the rest is
    /// read and dropped until the client closes, too (RFC 9112 section 9.6).
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.closed = true;
        let read_whole = self.request.is_ended() && self.request.input.is_empty();
        self.request.input = BytesMut::new();
        let Some(wire) = &mut self.wire else {
            return Poll::Ready(Ok(()));
        };
        if read_whole && wire.is_silent() {
            // It is dropped next, which says the same with a system call less.
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut *wire).poll_shutdown(cx))?;
        loop {
            let mut room = [MaybeUninit::uninit(); FIRST_READ];
            let mut read = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut *wire).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes the connection out for another protocol: the stream, and what was read of it already.
    pub(super) fn switch(&mut self) -> Option<(Wire, Bytes)> {
        let begun = std::mem::take(&mut self.request.input);
        Some((self.wire.take()?, begun.freeze()))
    }
}

/// Where answers are written.
pub(super) struct Writer<'a>(pub(super) &'a Share);

impl Writer<'_> {
    fn with<T>(
        &self,
        write: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.0.lock().wire {
            Some(wire) => write(Pin::new(wire)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Writer<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|wire| wire.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|wire| wire.poll_write_vectored(cx, slices))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|wire| wire.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|wire| wire.poll_shutdown(cx))
    }
}

/// The body of a connection's present request. `None` once it has ended: what comes then is another one's.
#[derive(Debug)]
pub(crate) struct Uploading(Option<Share>);

impl Uploading {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        let Some(shared) = &self.0 else {
            return Poll::Ready(None);
        };
        let mut connection = shared.lock();
        let frame = connection.poll_frame(cx);
        if connection.request.is_ended() {
            drop(connection);
            self.end();
        }
        frame
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.0.is_none()
    }

    /// How much is to come, if that is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(shared) => shared.lock().request.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }

    fn end(&mut self) {
        let Some(shared) = self.0.take() else {
            return;
        };
        let mut connection = shared.lock();
        connection.uploading = false;
        let serving = connection.serving.take();
        drop(connection);
        if let Some(serving) = serving {
            serving.wake();
        }
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.end();
    }
}
