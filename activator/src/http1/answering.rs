//! An answer, as it is taken from what was read. Pure.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body::SizeHint;

use crate::sender::Failed;

use super::{
    chunks::{self, Chunks},
    head,
};

/// What was read of an answer, and how far it was taken apart.
#[derive(Debug, Default)]
pub(crate) struct Answering {
    /// What was read and is not handed on yet.
    pub(crate) input: BytesMut,
    /// How much of it is known to be no whole head.
    parsed: usize,
    body: Body,
}

/// What is to come of the body.
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Chunks),
    /// All until the connection is closed.
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

impl Answering {
    /// The head, and whether another request may follow on the connection; `None` if more must be read. `to_head`: the request was a HEAD.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn head(&mut self, to_head: bool) -> Result<Option<(Response<()>, bool)>, Failed> {
        // Not parsed again with every byte that comes.
        if head::may_end(&self.input, self.parsed)
            && let Some(head) = head::take(&mut self.input, to_head)?
        {
            self.parsed = 0;
            self.body = head.body;
            return Ok(Some((head.answer, head.kept)));
        }
        self.parsed = self.input.len();
        Ok(None)
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
    /// If the answer should have gone on.
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
