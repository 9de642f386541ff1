//! A client's connection: its stream, and knowing when it goes away.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::AsFd as _,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep_until},
};

use crate::{
    origin::Origin,
    tls::{self, Certified},
    tunnel,
};

/// What requests need of their client's connection.
pub(crate) struct Client {
    socket: Arc<Socket>,
    pub(crate) origin: Origin,
    pub(crate) deadline: Deadline,
    /// What was shown to a client that speaks TLS.
    pub(crate) certified: Option<Arc<Certified>>,
}

/// A client's socket.
#[derive(Debug)]
struct Socket {
    /// Locked for no longer than a call takes.
    stream: Mutex<TcpStream>,
    /// Whether its present request has no body and wants no other protocol, whose two directions would end each for itself.
    is_plain: AtomicBool,
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

    /// What comes of `answer`, unless it takes until `at`. To be polled within [`over`](Self::over), which wakes it then.
    pub(crate) async fn until<F: Future>(
        &self,
        at: Instant,
        mut answer: Pin<&mut F>,
    ) -> Option<F::Output> {
        let mut waits = false;
        let output = poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // Most answers are there at the second look, so the clock is read only at the third.
            Poll::Pending if !waits => {
                waits = true;
                self.set(at);
                Poll::Pending
            }
            Poll::Pending if Instant::now() >= at => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await;
        if waits {
            self.clear();
        }
        output
    }
}

impl Client {
    /// The connection of `stream`, and the stream to serve it on.
    pub(crate) fn new(stream: TcpStream, origin: Origin) -> (Self, Stream) {
        let socket = Arc::new(Socket {
            stream: Mutex::new(stream),
            is_plain: AtomicBool::new(false),
        });
        let client = Self {
            socket: Arc::clone(&socket),
            origin,
            deadline: Deadline::default(),
            certified: None,
        };
        let stream = Stream {
            socket,
            begun: Bytes::new(),
        };
        (client, stream)
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

    /// The client has sent a request; `is_plain` if that has no body and wants no other protocol.
    pub(crate) fn asks(&self, is_plain: bool) {
        self.socket.is_plain.store(is_plain, Ordering::Relaxed);
    }

    /// Has the kernel notice when the client is gone without a word.
    pub(crate) fn keep_alive(&self) {
        tunnel::keep_alive(&self.socket.stream.lock());
    }

    /// Resolves when the client has closed its side of the connection, even when it has sent bytes that nobody has read.
    ///
    /// hyper sees the end of a stream only when it has read all that comes before; a request that is held has its body
    /// unread. So this watches a duplicate of the socket, which has its own readiness: edge-triggered, it tells of
    /// the end whether or not the bytes are taken out. If the socket cannot be duplicated this never resolves.
    pub(crate) async fn gone(&self) {
        if let Err(error) = self.watch().await {
            tracing::warn!(%error, "cannot watch a held request's connection");
            std::future::pending::<()>().await;
        }
    }

    async fn watch(&self) -> io::Result<()> {
        let duplicate = {
            let stream = self.socket.stream.lock();
            stream.as_fd().try_clone_to_owned()?
        };
        let watched = TcpStream::from_std(duplicate.into())?;
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

/// The stream that hyper serves. It shares its socket with [`Client`].
///
/// Reads and writes are tokio's own, because they know when they have emptied or filled the socket: `try_read`s would need one more system
/// call to find that out, with each request.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Arc<Socket>,
    /// What was read to tell the protocol; it is read again.
    begun: Bytes,
}

/// Most bytes of the first read. Larger heads go on in hyper's own buffer.
const FIRST_READ: usize = 4096;

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
    /// What the client speaks, by the first bytes that it sends.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) async fn begins(&mut self) -> io::Result<Begins> {
        let mut begun = Vec::new();
        loop {
            let read = poll_fn(|cx| self.poll_more(cx, &mut begun)).await?;
            let told = begun.len().min(PREFACE.len());
            let same = begun[..told] == PREFACE[..told];
            if read == 0 || !same || told == PREFACE.len() {
                let begins = match begun.first() {
                    Some(&tls::HANDSHAKE) => Begins::Tls,
                    _ if same && told == PREFACE.len() => Begins::Http2,
                    _ => Begins::Http1,
                };
                self.begun = begun.into();
                return Ok(begins);
            }
        }
    }

    /// The buffer is on the stack, so that a connection that waits for its first request has none.
    fn poll_more(&mut self, cx: &mut Context<'_>, begun: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let mut buffer = [MaybeUninit::uninit(); FIRST_READ];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        ready!(Pin::new(&mut *self.socket.stream.lock()).poll_read(cx, &mut buffer))?;
        begun.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            let count = self.begun.len().min(buffer.remaining());
            let begun = self.begun.split_to(count);
            buffer.put_slice(&begun);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *self.socket.stream.lock()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.socket.stream.lock()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.socket.stream.lock()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.socket.stream.lock();
        let unread = || match stream.try_read(&mut [0]) {
            Ok(read) => read > 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        if self.socket.is_plain.load(Ordering::Relaxed) && !unread() {
            // It is dropped next, which says the same with a system call less. Beside what was not read, as the rest of a body, that would be a
            // reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *stream).poll_shutdown(cx)
    }
}
