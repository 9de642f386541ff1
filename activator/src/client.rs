//! A client's connection: its stream, and knowing when it goes away.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::AsFd as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use crate::{origin::Origin, tunnel};

/// What requests need of their client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Arc<TcpStream>,
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
        let stream = Arc::new(stream);
        let client = Self {
            stream: Arc::clone(&stream),
            origin,
            deadline: Deadline::default(),
        };
        (client, Stream(stream))
    }

    /// Has the kernel notice when the client is gone without a word.
    pub(crate) fn keep_alive(&self) {
        tunnel::keep_alive(&self.stream);
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
        let duplicate = self.stream.as_fd().try_clone_to_owned()?;
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

/// The stream that hyper serves. It shares the socket with [`Client`].
#[derive(Debug)]
pub(crate) struct Stream(Arc<TcpStream>);

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(drop)),
            }
        }
    }
}

impl Stream {
    fn poll_try(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}
