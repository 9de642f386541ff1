//! Sending a message: its head, and its body as it comes from the other side.

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::{
    chunks,
    head::{self, Framing},
};

/// Most bytes of a piece of the body that are copied to what goes before it, so that both are sent at once.
const SMALL: usize = 1 << 10;

/// A message on its way.
#[derive(Debug)]
pub(super) struct Sending {
    framing: Framing,
    /// Fields that may follow the body: those that the head announces.
    trailers: Vec<HeaderName>,
    /// What is written next, then `piece`, then `after`.
    out: Vec<u8>,
    /// How much of `out` was written.
    written: usize,
    piece: Bytes,
    after: &'static [u8],
    begun: bool,
    /// Whether something of the body was taken.
    taken: bool,
    /// Whether all of the body is in here.
    whole: bool,
    /// Why no more is sent.
    error: Option<io::Error>,
}

/// Why a message is not sent any further.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The connection broke.
    Socket(io::Error),
    /// The body broke off, or is none of its length.
    Body,
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl Sending {
    /// A message of this head, whose body is written so.
    pub(super) fn new(head: Vec<u8>, framing: Framing, trailers: Vec<HeaderName>) -> Self {
        Self {
            framing,
            trailers,
            out: head,
            written: 0,
            piece: Bytes::new(),
            after: b"",
            begun: false,
            taken: false,
            whole: matches!(framing, Framing::Empty | Framing::Length(0)),
            error: None,
        }
    }

    /// Whether the message is as it was before: nothing of it was written, and nothing of its body taken.
    pub(super) fn is_untouched(&self) -> bool {
        !self.begun && !self.taken
    }

    /// Whether all of it was written.
    pub(super) fn is_done(&self) -> bool {
        self.whole && self.is_written() && self.error.is_none()
    }

    fn is_written(&self) -> bool {
        self.written == self.out.len() && self.piece.is_empty() && self.after.is_empty()
    }

    /// Writes as much as can be.
    pub(super) fn poll<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stopped>> {
        if self.error.is_some() {
            return Poll::Pending;
        }
        loop {
            // A piece is put behind what waits, if that is no piece itself.
            while !self.whole && self.piece.is_empty() && self.after.is_empty() {
                let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                    break;
                };
                self.taken = true;
                match frame {
                    None => self.end(&HeaderMap::new())?,
                    Some(Ok(frame)) => self.add(frame)?,
                    Some(Err(_)) => return Poll::Ready(Err(Stopped::Body)),
                }
                if self.out.len() - self.written > SMALL {
                    break;
                }
            }
            if self.is_written() {
                // What protects a stream may have kept some of it.
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                return match self.whole {
                    true => Poll::Ready(Ok(())),
                    false => Poll::Pending,
                };
            }
            ready!(self.poll_write(stream, cx))?;
        }
    }

    fn poll_write(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let (stream, out) = (Pin::new(stream), &self.out[self.written..]);
        let count = if self.piece.is_empty() && self.after.is_empty() {
            ready!(stream.poll_write(cx, out))?
        } else {
            let slices = [out, &self.piece, self.after].map(IoSlice::new);
            ready!(stream.poll_write_vectored(cx, &slices))?
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.begun = true;
        self.advance(count);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, count: usize) {
        let of_out = count.min(self.out.len() - self.written);
        self.written += of_out;
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        let of_piece = (count - of_out).min(self.piece.len());
        self.piece.advance(of_piece);
        self.after = &self.after[count - of_out - of_piece..];
    }

    /// Takes the next frame of the body.
    fn add(&mut self, frame: Frame<Bytes>) -> Result<(), Stopped> {
        let data = match frame.into_data() {
            Ok(data) if data.is_empty() => return Ok(()), // as a chunk it would be the last
            Ok(data) => data,
            Err(frame) => return self.end(&frame.into_trailers().unwrap_or_default()),
        };
        let after: &[u8] = match &mut self.framing {
            Framing::Chunked => {
                // A vector takes all that is written into it.
                let _ = write!(self.out, "{:x}\r\n", data.len());
                b"\r\n"
            }
            Framing::Length(left) if data.len() as u64 <= *left => {
                *left -= data.len() as u64;
                self.whole = *left == 0;
                b""
            }
            Framing::UntilEnd => b"",
            Framing::Length(_) | Framing::Empty => return Err(Stopped::Body),
        };
        if data.len() <= SMALL {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(after);
        } else {
            (self.piece, self.after) = (data, after);
        }
        Ok(())
    }

    /// The body has ended.
    fn end(&mut self, fields: &HeaderMap) -> Result<(), Stopped> {
        match self.framing {
            Framing::Chunked => self.out.extend_from_slice(b"0\r\n"),
            Framing::Length(0) | Framing::Empty | Framing::UntilEnd => {
                self.whole = true;
                return Ok(());
            }
            Framing::Length(_) => return Err(Stopped::Body),
        }
        for (name, value) in fields {
            if self.trailers.contains(name) && chunks::is_trailer(name) {
                head::write_field(&mut self.out, name, value);
            }
        }
        self.out.extend_from_slice(b"\r\n");
        self.whole = true;
        Ok(())
    }

    /// No more can be sent, but an answer may still come.
    pub(super) fn give_up(&mut self, error: io::Error) {
        self.error = Some(error);
    }

    /// Why no more is sent.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// Whether more is to be sent.
    pub(super) fn goes_on(&self) -> bool {
        self.error.is_none() && !self.is_done()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step is a failed test
mod tests {
    use std::future::poll_fn;

    use http::{HeaderValue, header};
    use http_body_util::{BodyExt as _, Full};
    use tokio::io::BufWriter;

    use super::*;

    /// What is written of a body. The stream keeps all of it until it is flushed.
    async fn written<B: Body<Data = Bytes> + Unpin>(
        framing: Framing,
        trailers: &[HeaderName],
        mut body: B,
    ) -> Result<String, Stopped> {
        let mut sending = Sending::new(b"head ".to_vec(), framing, trailers.to_vec());
        let mut stream = BufWriter::with_capacity(1 << 20, Vec::new());
        poll_fn(|cx| sending.poll(&mut stream, &mut body, cx)).await?;
        assert!(sending.is_done());
        Ok(String::from_utf8(stream.into_inner()).unwrap())
    }

    #[tokio::test]
    async fn a_body_is_written_as_its_head_says() {
        let body = || Full::new(Bytes::from_static(b"four"));
        for (framing, meant) in [
            (Framing::Length(4), "head four"),
            (Framing::UntilEnd, "head four"),
            (Framing::Chunked, "head 4\r\nfour\r\n0\r\n\r\n"),
            (Framing::Empty, "head "),
        ] {
            assert_eq!(written(framing, &[], body()).await.unwrap(), meant);
        }
        for length in [3, 5] {
            let other = written(Framing::Length(length), &[], body()).await;
            assert!(matches!(other, Err(Stopped::Body)), "{length}");
        }
        let large = "x".repeat(SMALL + 1);
        let sent = written(Framing::Chunked, &[], Full::new(Bytes::from(large.clone()))).await;
        assert_eq!(sent.unwrap(), format!("head 401\r\n{large}\r\n0\r\n\r\n"));
    }

    #[tokio::test]
    async fn fields_after_a_body_are_sent_if_they_were_announced() {
        let sum = HeaderName::from_static("x-sum");
        let body = || {
            let fields = [("x-sum", "1"), ("x-other", "2"), ("content-length", "3")];
            let fields = fields.map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            });
            let fields = HeaderMap::from_iter(fields);
            Full::new(Bytes::from_static(b"four")).with_trailers(async { Some(Ok(fields)) })
        };
        let both = [sum, header::CONTENT_LENGTH];
        let sent = written(Framing::Chunked, &both, Box::pin(body())).await;
        assert_eq!(sent.unwrap(), "head 4\r\nfour\r\n0\r\nx-sum: 1\r\n\r\n");
        let sent = written(Framing::Length(4), &both, Box::pin(body())).await;
        assert_eq!(sent.unwrap(), "head four");
    }
}
