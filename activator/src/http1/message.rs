//! A message, as it is taken from what was read. Pure.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::SizeHint;

use crate::sender::Failed;

use super::{
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

impl Message {
    /// Whether a head may be there as a whole, so that it is not parsed again with every byte that comes.
    pub(super) fn may_have_head(&self) -> bool {
        head::may_end(&self.input, self.parsed)
    }

    /// There is no whole head in what has been read.
    pub(super) fn has_no_head(&mut self) {
        self.parsed = self.input.len();
    }

    /// The head was taken out, and this is to come of the body.
    pub(super) fn begin(&mut self, body: Body) {
        self.parsed = 0;
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

    /// How much is to come, if that is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.body {
            Body::Length(left) => SizeHint::with_exact(left),
            Body::Chunked(_) | Body::UntilEnd => SizeHint::default(),
        }
    }
}
