//! The operators that are connected, as receivers of what this activator tells.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use crds::control::{ToOperator, encode};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Most bytes that wait to be sent to one operator: all `Bound` frames of 50 000 Functions fit. An operator that reads so slowly
/// is cut off; it opens a new stream and gets what counts anew.
const MAX_OUTBOX: usize = 8 << 20;

/// Largest piece handed to HTTP/2 at once.
const MAX_PIECE: usize = 64 << 10;

/// All operators that are connected. What is sent goes to each of them.
#[derive(Debug, Default)]
pub(crate) struct Operators {
    outboxes: Mutex<Vec<Arc<Outbox>>>,
}

impl Operators {
    pub(crate) fn join(&self, outbox: Arc<Outbox>) {
        self.outboxes.lock().push(outbox);
    }

    pub(crate) fn leave(&self, outbox: &Arc<Outbox>) {
        self.outboxes.lock().retain(|o| !Arc::ptr_eq(o, outbox));
    }

    /// Sends `frame` to every operator. Never waits.
    pub(crate) fn send(&self, frame: &ToOperator) {
        let outboxes = self.outboxes.lock();
        if outboxes.is_empty() {
            return;
        }
        let line = encode(frame);
        outboxes.iter().for_each(|outbox| outbox.push(&line));
    }
}

/// What waits to be sent to one operator.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Cancelled when the stream is to end, from whichever side.
    pub(crate) closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Queue {
    /// Pieces of whole frames.
    pieces: VecDeque<BytesMut>,
    length: usize,
    /// Of the body that sends it.
    waker: Option<Waker>,
    overflowed: bool,
}

impl Outbox {
    /// Appends a frame. If there is no room the stream is closed instead: frames are never dropped silently.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut queue = self.queue.lock();
        if queue.length + line.len() > MAX_OUTBOX {
            queue.overflowed = true;
            self.closed.cancel();
        } else {
            queue.length += line.len();
            match queue.pieces.back_mut() {
                Some(piece) if piece.len() + line.len() <= MAX_PIECE => {
                    piece.extend_from_slice(line);
                }
                _ => queue.pieces.push_back(BytesMut::from(line)),
            }
        }
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Ends the stream after what was pushed so far.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        if let Some(waker) = self.queue.lock().waker.take() {
            waker.wake();
        }
    }
}

/// The response body that empties an outbox.
#[derive(Debug)]
pub(crate) struct OutboxBody(pub(crate) Arc<Outbox>);

/// The operator read too slowly.
#[derive(Debug)]
pub(crate) struct Overflow;

impl std::fmt::Display for Overflow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "more than {MAX_OUTBOX} bytes wait for the operator")
    }
}

impl std::error::Error for Overflow {}

impl Body for OutboxBody {
    type Data = Bytes;
    type Error = Overflow;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Overflow>>> {
        let mut queue = self.0.queue.lock();
        if queue.overflowed {
            return Poll::Ready(Some(Err(Overflow)));
        }
        if let Some(piece) = queue.pieces.pop_front() {
            queue.length -= piece.len();
            return Poll::Ready(Some(Ok(Frame::data(piece.freeze()))));
        }
        if self.0.closed.is_cancelled() {
            return Poll::Ready(None);
        }
        queue.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for OutboxBody {
    fn drop(&mut self) {
        // The operator has gone, or the connection broke.
        self.0.close();
    }
}
