//! What heads of requests and of answers have in common (RFC 9112). Pure.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use memchr::memchr_iter;

use crate::headers::members;

/// Most fields of a head, whoever sends it.
pub(super) const MOST_FIELDS: usize = 100;

/// Longest head, whoever sends it.
pub(super) const LONGEST: usize = 64 << 10;

/// Whether a head may have come to its end in what was read since only `parsed` bytes were there. What begins is always looked at: it may be none.
pub(super) fn may_end(input: &[u8], parsed: usize) -> bool {
    let new = &input[parsed.saturating_sub(2)..];
    let ends = |bytes: &[u8]| bytes.starts_with(b"\n\n") || bytes.starts_with(b"\n\r\n");
    let ended = || memchr_iter(b'\n', new).any(|at| ends(&new[at..]));
    !input.is_empty() && (parsed == 0 || input.len() > LONGEST || ended())
}

/// A field as it was parsed; `None` if it is malformed.
pub(super) fn field<'a>(field: &httparse::Header<'a>) -> Option<(HeaderName, &'a [u8])> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
    Some((name, field.value))
}

/// The number of a `Content-Length`.
pub(super) fn length(digits: &[u8]) -> Option<u64> {
    // `parse` would take a sign, too.
    let plain = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| plain)?
        .parse()
        .ok()
}

/// How a message's body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// As it is; so much is left.
    Length(u64),
    Chunked,
    /// As it is, until the connection is closed.
    UntilEnd,
}

/// Writes a field's line.
pub(super) fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    // One by one, so that the compiler knows the length of those that are always the same.
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes the field that tells a body's length.
pub(super) fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    let start = out.len();
    let mut left = length;
    loop {
        // A digit is less than ten.
        out.push(b'0' + (left % 10) as u8);
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out[start..].reverse();
    out.extend_from_slice(b"\r\n");
}

/// The fields that a head announces to come after a body that is written so.
pub(super) fn announced(headers: &HeaderMap, framing: Framing) -> Vec<HeaderName> {
    if framing != Framing::Chunked {
        return Vec::new();
    }
    let values = headers.get_all(header::TRAILER).iter();
    let names = values.flat_map(|value| members(value.as_bytes()));
    names
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_written_as_it_is_read() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            write_length(&mut out, number);
            assert_eq!(out, format!("content-length: {number}\r\n").as_bytes());
            assert_eq!(length(number.to_string().as_bytes()), Some(number));
        }
        for none in ["+1", "-1", "", "1 ", "0x1", "18446744073709551616"] {
            assert_eq!(length(none.as_bytes()), None, "{none:?}");
        }
    }
}
