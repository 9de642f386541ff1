//! HTTP/1.1, which the activator speaks itself: with clients, and with pods.
//!
//! hyper has a handle for requests and a future that does the work, on either side, with channels between them; a message goes through several buffers,
//! is copied and polled more often than it need be. To do without saved a third of what a warm request executed. Here a connection's task does nearly all
//! of it: it reads a request, writes it to a pod from where it is, and hands on what comes.

mod chunks;
pub(crate) mod client;
mod head;
pub(crate) mod message;
pub(crate) mod pod;
mod sending;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Bytes that are read at once while a head is awaited. They are on the stack, so that a connection without one, or with one that waits, has no buffer.
const FIRST_READ: usize = 8 << 10;

/// Bytes of a head that is written, as a first guess.
const HEAD: usize = 512;

/// Bytes of a body that are read at once. Doubled while a body fills it.
const FIRST_ROOM: usize = 8 << 10;

/// Most bytes read at once: what a body's reader keeps in memory.
const MOST_ROOM: usize = 128 << 10;

/// Bytes that the next read of a connection has room for.
#[derive(Clone, Copy, Debug)]
struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(FIRST_ROOM)
    }
}

impl Room {
    /// Reads more; 0 if there is no more.
    fn poll_read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        input.reserve(self.0);
        let read = ready!(poll_read_buf(Pin::new(stream), cx, input))?;
        if read >= self.0 {
            self.0 = MOST_ROOM.min(self.0 * 2);
        } else if read < self.0 / 4 {
            self.0 = FIRST_ROOM.max(self.0 / 2);
        }
        Poll::Ready(Ok(read))
    }
}
