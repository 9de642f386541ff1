//! Writing a small message with one `send`.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are copied together. A head and a small body are; of more, the copy would cost what the call saves.
const SMALL: usize = 1024;

/// A stream that copies the pieces of a small message together: over HTTP/2 heads and data come as pieces, and for the kernel `writev` is more
/// work than `send`.
#[derive(Debug)]
pub(crate) struct Gather<S>(pub(crate) S);

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let [only] = slices {
            return stream.poll_write(cx, only);
        }
        let mut buffer = [0; SMALL];
        match gathered(slices, &mut buffer) {
            Some(bytes) => stream.poll_write(cx, bytes),
            None => stream.poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The slices in one piece, if they fit.
fn gathered<'a>(slices: &[IoSlice<'_>], buffer: &'a mut [u8; SMALL]) -> Option<&'a [u8]> {
    let mut length = 0;
    for slice in slices {
        let place = buffer.get_mut(length..length + slice.len())?;
        place.copy_from_slice(slice);
        length += slice.len();
    }
    Some(&buffer[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_become_one_and_large_ones_stay() {
        let body = [b'x'; SMALL];
        let mut buffer = [0; SMALL];
        for (pieces, whole) in [
            (vec![&b"head"[..], b"", b"body"], Some(&b"headbody"[..])),
            (vec![], Some(b"")),
            (vec![&body], Some(&body)),
            (vec![&body, b"y"], None),
        ] {
            let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            assert_eq!(gathered(&slices, &mut buffer), whole, "{pieces:?}");
        }
    }
}
