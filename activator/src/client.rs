//! A client's connection: its stream, and knowing when it goes away.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::Instant,
};

use crate::{origin::Origin, tunnel};

/// What requests need of their client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Held for no longer than a call takes; writing is one.
    stream: Arc<Mutex<OwnedWriteHalf>>,
    pub(crate) origin: Origin,
    pub(crate) deadline: Deadline,
}

/// When the answer that is being written must have ended. The connection checks it, because an answer whose client does not
/// read is not polled and so cannot notice by itself; it would occupy its pod forever.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadline(Arc<Mutex<Option<Instant>>>);

impl Deadline {
    pub(crate) fn set(&self, at: Instant) {
        *self.0.lock() = Some(at);
    }

    pub(crate) fn clear(&self) {
        *self.0.lock() = None;
    }

    pub(crate) fn has_passed(&self) -> bool {
        let at = *self.0.lock();
        at.is_some_and(|at| Instant::now() >= at)
    }
}

impl Client {
    /// The connection of `stream`, and the stream to serve it on.
    pub(crate) fn new(stream: TcpStream, origin: Origin) -> (Self, Stream) {
        let (read, write) = stream.into_split();
        let write = Arc::new(Mutex::new(write));
        let client = Self {
            stream: Arc::clone(&write),
            origin,
            deadline: Deadline::default(),
        };
        (client, Stream { read, write })
    }

    /// Has the kernel notice when the client is gone without a word.
    pub(crate) fn keep_alive(&self) {
        tunnel::keep_alive(self.stream.lock().as_ref());
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
            let stream = self.stream.lock();
            let stream: &TcpStream = stream.as_ref();
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

/// The stream that hyper serves. It shares its writing half with [`Client`].
///
/// The halves are tokio's own, because their reads and writes know when they have emptied or filled the socket: a stream of `try_read`s would
/// need one more system call to find that out, with each request.
#[derive(Debug)]
pub(crate) struct Stream {
    read: OwnedReadHalf,
    write: Arc<Mutex<OwnedWriteHalf>>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.write.lock()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.write.lock()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.write.lock()).poll_shutdown(cx)
    }
}
