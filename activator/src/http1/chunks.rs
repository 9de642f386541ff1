//! The chunked transfer coding (RFC 9112 section 7.1), as it is read. Pure.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::sender::Failed;

use super::{head, message::Piece};

/// Longest line with a chunk's size: its extensions mean nothing to anybody and are not handed on.
const LONGEST_LINE: usize = 1 << 10;

/// Most bytes of all extensions of a message: it could be little else.
const MOST_EXTENSIONS: usize = 16 << 10;

/// Most bytes of the fields after the last chunk.
const MOST_TRAILERS: usize = 16 << 10;

/// Most bytes of a body that are copied out of the buffer. Of more the copy would cost what a new buffer does.
const SMALL: usize = 2 << 10;

/// How far a body was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before a chunk's size.
    #[default]
    Size,
    /// In a chunk, of which so much is left.
    Data(u64),
    /// After a chunk, before the end of its last line.
    DataEnd,
    /// After the last chunk.
    Trailers,
    End,
}

/// Takes a body apart.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// Bytes of extensions so far.
    extensions: usize,
}

impl Chunks {
    pub(super) fn is_ended(&self) -> bool {
        self.at == At::End
    }

    /// Takes the next piece from what was read.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Piece, Failed> {
        loop {
            match self.at {
                At::Size => {
                    let Some(length) = line(input)? else {
                        return Ok(Piece::More);
                    };
                    let size = self.size(&input[..length])?;
                    input.advance(length + 2);
                    self.at = match size {
                        0 => At::Trailers,
                        size => At::Data(size),
                    };
                }
                At::Data(left) => {
                    if input.is_empty() {
                        return Ok(Piece::More);
                    }
                    let count =
                        usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                    let data = take(input, count);
                    self.at = match left - count as u64 {
                        0 => At::DataEnd,
                        left => At::Data(left),
                    };
                    self.look_ahead(input);
                    return Ok(Piece::Data(data));
                }
                At::DataEnd => match input.get(..2) {
                    None => return Ok(Piece::More),
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.at = At::Size;
                    }
                    Some(_) => return Err(Failed::Malformed("a chunk is longer than it says")),
                },
                At::Trailers => {
                    let Some(fields) = trailers(input)? else {
                        return Ok(Piece::More);
                    };
                    self.at = At::End;
                    if !fields.is_empty() {
                        return Ok(Piece::Trailers(fields));
                    }
                }
                At::End => return Ok(Piece::End),
            }
        }
    }

    /// Notices the end if it was read along with the last data: most answers come as a whole, and are over then.
    fn look_ahead(&mut self, input: &mut BytesMut) {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        if self.at == At::DataEnd && input.starts_with(END) {
            input.advance(END.len());
            self.at = At::End;
        }
    }

    /// The size of a chunk by its line.
    fn size(&mut self, line: &[u8]) -> Result<u64, Failed> {
        const BAD: Failed = Failed::Malformed("a chunk has no valid size");
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (digits, rest) = line.split_at(digits);
        let text = std::str::from_utf8(digits).map_err(|_| BAD)?;
        let size = u64::from_str_radix(text, 16).map_err(|_| BAD)?;
        let blank = rest.iter().take_while(|b| b" \t".contains(b)).count();
        let rest = &rest[blank..];
        if !rest.is_empty() && rest[0] != b';' || rest.contains(&b'\r') {
            return Err(BAD);
        }
        self.extensions += rest.len();
        if self.extensions > MOST_EXTENSIONS {
            return Err(Failed::Malformed("its chunks have too many extensions"));
        }
        Ok(size)
    }
}

/// The length of the line that the buffer begins with, without its end; `None` if that has not come yet.
fn line(input: &BytesMut) -> Result<Option<usize>, Failed> {
    match input.iter().position(|b| *b == b'\n') {
        Some(end) if end > 0 && input[end - 1] == b'\r' && end <= LONGEST_LINE => Ok(Some(end - 1)),
        None if input.len() <= LONGEST_LINE => Ok(None),
        _ => Err(Failed::Malformed("a chunk has no valid size")),
    }
}

/// The fields after the last chunk; `None` if they have not come to their end.
fn trailers(input: &mut BytesMut) -> Result<Option<HeaderMap>, Failed> {
    const BAD: Failed = Failed::Malformed("its trailers are malformed or too many");
    if input.starts_with(b"\r\n") {
        input.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let mut fields = [httparse::EMPTY_HEADER; head::MOST_FIELDS];
    match httparse::parse_headers(input, &mut fields).map_err(|_| BAD)? {
        httparse::Status::Complete((length, fields)) if length <= MOST_TRAILERS => {
            let mut taken = HeaderMap::with_capacity(fields.len());
            for field in fields.iter() {
                let (name, value) = head::field(field).ok_or(BAD)?;
                let value = HeaderValue::from_bytes(value).map_err(|_| BAD)?;
                if is_trailer(&name) {
                    taken.append(name, value);
                }
            }
            input.advance(length);
            Ok(Some(taken))
        }
        httparse::Status::Partial if input.len() <= MOST_TRAILERS => Ok(None),
        _ => Err(BAD),
    }
}

/// Whether a field may come after the body: not what frames the message or says where it goes (RFC 9110 section 6.5.1).
pub(super) fn is_trailer(name: &HeaderName) -> bool {
    ![
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::HOST,
        header::CONNECTION,
        header::TRAILER,
        header::TE,
        header::UPGRADE,
    ]
    .contains(name)
}

/// Takes bytes from the front of the buffer.
pub(super) fn take(input: &mut BytesMut, count: usize) -> Bytes {
    if count == input.len() && input.capacity() <= 2 * count {
        // Nothing is left to keep the buffer for.
        return std::mem::take(input).freeze();
    }
    if count > SMALL {
        return input.split_to(count).freeze();
    }
    // The buffer stays the connection's own, so that it need not be made anew.
    let data = Bytes::copy_from_slice(&input[..count]);
    input.advance(count);
    data
}
