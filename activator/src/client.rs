//! A client's connection: its stream, and knowing when it goes away.

use std::{
    future::{pending, poll_fn},
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::AsFd as _,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tokio_rustls::server::TlsStream;

use crate::{
    cores::Place,
    http1::client::Share,
    origin::Origin,
    tls::{self, Certified},
    tunnel,
};

/// What requests need of their client's connection.
pub(crate) struct Client {
    /// The connection itself, if it is one of HTTP/1.1.
    pub(crate) http1: Option<Share>,
    pub(crate) origin: Origin,
    pub(crate) deadline: Deadline,
    /// What was shown to a client that speaks TLS.
    pub(crate) certified: Option<Arc<Certified>>,
}

/// Until when what a connection does now must be over: its client's next head, a pod's answer, or an answer's way to the client.
///
/// The connection's task is woken then, and what is late says so to the client. What cannot, because it is not polled (an answer whose
/// client does not read; it would occupy its pod forever) is cut off. One timer for each connection and not for each request: it is set anew
/// only when it has gone off, since most requests end long before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadline(Arc<Mutex<Option<Instant>>>);

tokio::task_local! {
    /// The deadline of an HTTP/2 stream, whose requests have tasks of their own.
    static STREAM_DEADLINE: Deadline;
}

impl Deadline {
    /// Runs the task of an HTTP/2 stream with a deadline of its own.
    pub(crate) async fn of_stream<F: Future>(stream: F) {
        let deadline = Self::default();
        let stream = pin!(STREAM_DEADLINE.scope(deadline.clone(), stream));
        deadline.over(stream).await;
    }

    pub(crate) fn set(&self, at: Instant) {
        *self.0.lock() = Some(at);
    }

    pub(crate) fn clear(&self) {
        *self.0.lock() = None;
    }

    /// What comes of `work`; `None` if it was polled after a deadline and did nothing about it.
    ///
    /// Pinned by the caller, as everything large that a request's future consists of: a future that takes another one by value has room for
    /// it twice.
    pub(crate) async fn over<F: Future>(&self, mut work: Pin<&mut F>) -> Option<F::Output> {
        let mut timer = pin!(sleep_until(Instant::now()));
        let (mut set, mut passed) = (None, None);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(output) = work.as_mut().poll(cx) {
                    return Poll::Ready(Some(output));
                }
                let Some(at) = *self.0.lock() else {
                    return Poll::Pending;
                };
                if passed == Some(at) {
                    return Poll::Ready(None);
                }
                if set.is_none_or(|set| at < set) {
                    timer.as_mut().reset(at);
                    set = Some(at);
                }
                ready!(timer.as_mut().poll(cx));
                // It may have been set for something that is over.
                set = None;
                passed = Some(at).filter(|at| Instant::now() >= *at);
            }
        })
        .await
    }

    /// What comes of `answer`, unless it takes until `due`, which may become later meanwhile. To be polled within [`over`](Self::over), which wakes it
    /// then.
    pub(crate) async fn until<F: Future>(
        &self,
        due: impl Fn() -> Instant,
        mut answer: Pin<&mut F>,
    ) -> Option<F::Output> {
        let mut set = None;
        let output = poll_fn(|cx| {
            if let Poll::Ready(output) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let due = due();
            // Most answers are there at the second look, so the clock is read only at the third.
            if set.is_some() && Instant::now() >= due {
                return Poll::Ready(None);
            }
            if set != Some(due) {
                self.set(due);
                set = Some(due);
            }
            Poll::Pending
        })
        .await;
        if set.is_some() {
            self.clear();
        }
        output
    }
}

impl Client {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            http1: None,
            origin,
            deadline: Deadline::default(),
            certified: None,
        }
    }

    /// The client speaks TLS, and was shown this certificate.
    pub(crate) fn secured(&mut self, certified: Arc<Certified>) {
        self.origin.secure();
        self.certified = Some(certified);
    }

    /// The deadline of what the present task answers: its stream's over HTTP/2, else the connection's.
    pub(crate) fn deadline(&self) -> Deadline {
        STREAM_DEADLINE
            .try_with(Clone::clone)
            .unwrap_or_else(|_| self.deadline.clone())
    }

    /// Resolves when the client has closed its side of the connection, even when it has sent bytes that nobody has read. Never over HTTP/2, where all
    /// is read as it comes; nor if the system gives nothing to watch it by.
    pub(crate) async fn gone(&self) {
        let gone = match &self.http1 {
            Some(shared) => shared.gone().await,
            None => return pending().await,
        };
        if let Err(error) = gone {
            tracing::warn!(%error, "cannot watch a held request's connection");
            pending::<()>().await;
        }
    }
}

/// A client's stream, whatever it is protected by.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(Stream),
    /// Boxed because it is large, and most are plain.
    Tls(Box<TlsStream<Stream>>),
}

impl Wire {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => &stream.socket,
            Self::Tls(stream) => &stream.get_ref().0.socket,
        }
    }

    /// Whether nothing of it is unread, and dropping it says all that closing it would.
    pub(crate) fn is_silent(&self) -> bool {
        let unread = || match self.socket().try_read(&mut [0]) {
            Ok(read) => read > 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        matches!(self, Self::Plain(_)) && !unread()
    }

    /// Has the kernel notice when the client is gone without a word.
    pub(crate) fn keep_alive(&self) {
        tunnel::keep_alive(self.socket());
    }

    /// Its socket, to be watched without being read.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn watched(&self) -> io::Result<Watched> {
        // A duplicate has its own readiness: edge-triggered, it tells of the end whether or not the bytes before it are taken out.
        let duplicate = self.socket().as_fd().try_clone_to_owned()?;
        TcpStream::from_std(duplicate.into()).map(Watched)
    }
}

/// A client's socket that is watched while nobody reads it.
pub(crate) struct Watched(TcpStream);

impl Watched {
    /// Resolves when the client has closed its side.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) async fn gone(self) -> io::Result<()> {
        let Self(watched) = self;
        loop {
            let ready = watched.ready(Interest::READABLE).await?;
            if ready.is_read_closed() || ready.is_error() {
                return Ok(());
            }
            // Nothing is read here. Saying that a read would block makes tokio forget this readiness and wait for the next event.
            let _ = watched.try_io(Interest::READABLE, || {
                Err::<(), _>(io::ErrorKind::WouldBlock.into())
            });
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A client's socket, and what was read of it to tell the protocol.
///
/// Reads and writes are tokio's own, because they know when they have emptied or filled the socket: `try_read`s would need one more system
/// call to find that out, with each request.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
    /// It is read again, unless it is taken out.
    begun: BytesMut,
    /// Given back when it is closed, whatever protocol it has then.
    _places: Places,
}

/// What a connection occupies: one of as many as there may be, and a place on a core.
pub(crate) type Places = (OwnedSemaphorePermit, Place);

/// Most bytes of the first read.
const FIRST_BYTES: usize = 4096;

/// How an HTTP/2 connection begins (RFC 9113 section 3.4). No request of HTTP/1.1 can begin so, since `PRI` is reserved.
const PREFACE: &[u8] = b"PRI ";

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// HTTP/1.1, or what is none.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A handshake of TLS.
    Tls,
}

impl Stream {
    pub(crate) fn new(socket: TcpStream, places: Places) -> Self {
        Self {
            socket,
            begun: BytesMut::new(),
            _places: places,
        }
    }

    /// What the client speaks, by the first bytes that it sends.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) async fn begins(&mut self) -> io::Result<Begins> {
        loop {
            let read = poll_fn(|cx| self.poll_more(cx)).await?;
            let told = self.begun.len().min(PREFACE.len());
            let same = self.begun[..told] == PREFACE[..told];
            if read == 0 || !same || told == PREFACE.len() {
                return Ok(match self.begun.first() {
                    Some(&tls::HANDSHAKE) => Begins::Tls,
                    _ if same && told == PREFACE.len() => Begins::Http2,
                    _ => Begins::Http1,
                });
            }
        }
    }

    /// Takes out what was read.
    pub(crate) fn take_begun(&mut self) -> BytesMut {
        std::mem::take(&mut self.begun)
    }

    /// The buffer is on the stack, so that a connection that waits for its first request has none.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = [MaybeUninit::uninit(); FIRST_BYTES];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        self.begun.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let count = self.begun.len().min(buffer.remaining());
        buffer.put_slice(&self.begun[..count]);
        self.begun.advance(count);
        if self.begun.is_empty() {
            self.begun = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
