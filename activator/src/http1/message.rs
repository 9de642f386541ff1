//! A message, as it is taken from what was read. Pure.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::SizeHint;

use crate::sender::Failed;

use super::{
    FIRST_READ,
    chunks::{self, Chunks},
    head,
};

/// What was read of a message, and how far it was taken apart.
#[derive(Debug, Default)]
pub(crate) struct Message {
    /// What was read and is not handed on yet.
    pub(crate) input: BytesMut,
    /// How much of it is known to be no whole head.
    parsed: usize,
    body: Body,
}

/// What is to come of a body.
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Chunks),
    /// All until the connection is closed. Of an answer only.
    UntilEnd,
}

impl Default for Body {
    fn default() -> Self {
        Self::Length(0)
    }
}

/// What comes next of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    /// The fields after the last chunk.
    Trailers(HeaderMap),
    End,
    /// Nothing yet: more must be read.
    More,
}

/// What begins with the bytes that were read.
pub(super) enum Found<T> {
    /// A head, of so many bytes.
    Head(T, usize),
    /// One of so many bytes that comes before another one.
    Interim(usize),
    /// Less than a head.
    Nothing,
}

impl Message {
    /// The head of what was read, if it is there as a whole, as `take` finds it.
    ///
    /// # Errors
    /// Those of `take`.
    pub(super) fn head<T, E>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<Found<T>, E>,
    ) -> Result<Option<T>, E> {
        // Not parsed again with every byte that comes.
        while head::may_end(&self.input, self.parsed) {
            match take(&self.input)? {
                Found::Head(head, length) => {
                    self.advance(length);
                    return Ok(Some(head));
                }
                Found::Interim(length) => self.advance(length),
                Found::Nothing => break,
            }
        }
        self.parsed = self.input.len();
        Ok(None)
    }

    /// The same after `read` came. Most heads come as a whole, and are never copied into a buffer.
    ///
    /// # Errors
    /// Those of `take`.
    pub(super) fn head_with<T, E>(
        &mut self,
        read: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<Found<T>, E>,
    ) -> Result<Option<T>, E> {
        if !self.input.is_empty() {
            self.input.extend_from_slice(read);
            return self.head(take);
        }
        let mut rest = read;
        while !rest.is_empty() {
            match take(rest)? {
                Found::Head(head, length) => {
                    self.input.extend_from_slice(&rest[length..]);
                    return Ok(Some(head));
                }
                Found::Interim(length) => rest = &rest[length..],
                Found::Nothing => break,
            }
        }
        self.input.extend_from_slice(rest);
        self.parsed = self.input.len();
        Ok(None)
    }

    fn advance(&mut self, length: usize) {
        self.parsed = 0;
        if length > FIRST_READ {
            // What follows would keep the whole buffer of a long head.
            self.input = BytesMut::from(&self.input[length..]);
        } else {
            self.input.advance(length);
        }
        self.tidy();
    }

    /// Gives up an empty buffer.
    pub(super) fn tidy(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// The head was taken out, and this is to come of the body.
    pub(super) fn begin(&mut self, body: Body) {
        self.body = body;
    }

    /// The next piece of the body.
    ///
    /// # Errors
    /// If what was read is none.
    pub(crate) fn piece(&mut self) -> Result<Piece, Failed> {
        let read = self.input.len();
        let count = match &mut self.body {
            Body::Length(0) => return Ok(Piece::End),
            Body::Chunked(chunks) => return chunks.next(&mut self.input),
            Body::Length(_) | Body::UntilEnd if read == 0 => return Ok(Piece::More),
            Body::Length(left) => {
                let count = usize::try_from(*left).map_or(read, |left| left.min(read));
                *left -= count as u64;
                count
            }
            Body::UntilEnd => read,
        };
        Ok(Piece::Data(chunks::take(&mut self.input, count)))
    }

    /// There is nothing more to read, and all pieces were taken.
    ///
    /// # Errors
    /// If the message should have gone on.
    pub(crate) fn end(&mut self) -> Result<(), Failed> {
        match std::mem::take(&mut self.body) {
            Body::UntilEnd => Ok(()),
            Body::Length(_) | Body::Chunked(_) => Err(Failed::Closed),
        }
    }

    /// Whether all of the body was handed on.
    pub(crate) fn is_ended(&self) -> bool {
        match &self.body {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunks) => chunks.is_ended(),
            Body::UntilEnd => false,
        }
    }

    /// Whether more than `most` bytes of the body may be to come.
    pub(super) fn is_longer(&self, most: usize) -> bool {
        match self.body {
            Body::Length(left) => left > most as u64,
            Body::Chunked(_) | Body::UntilEnd => true,
        }
    }

    /// How much is to come, if that is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.body {
            Body::Length(left) => SizeHint::with_exact(left),
            Body::Chunked(_) | Body::UntilEnd => SizeHint::default(),
        }
    }
}
