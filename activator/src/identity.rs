//! What tells a request from others on its way through many processes: its request ID and its trace.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::fields::Fields;

/// Header of a request's ID, kept if the client has one, and in every answer.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// W3C Trace Context: version, trace, parent and flags.
pub(crate) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest ID that is kept; a longer one would only fill logs.
const LONGEST: usize = 128;

/// The ID of a request that has these `fields`: the client's, or a new one, which the pod then gets, too.
pub(crate) fn request_id(headers: &mut HeaderMap, fields: Fields) -> HeaderValue {
    let told = fields.have(Fields::REQUEST_ID);
    let kept = told.then(|| headers.get(REQUEST_ID)).flatten();
    let kept = kept.filter(|id| is_printable(id));
    if let Some(id) = kept.cloned() {
        // Of several, only the one that the answer and the log have.
        if headers.get_all(REQUEST_ID).iter().nth(1).is_some() {
            headers.insert(REQUEST_ID, id.clone());
        }
        return id;
    }
    let id = new();
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// A new ID.
pub(crate) fn new() -> HeaderValue {
    hex([fastrand::u64(..), fastrand::u64(..)])
}

/// Starts a trace, unless the request, which has these `fields`, belongs to one. It is not sampled: who wants that decides before this hop.
pub(crate) fn trace(headers: &mut HeaderMap, fields: Fields) {
    if fields.have(Fields::TRACE_PARENT) {
        // Several are none: nobody could tell which is meant.
        let mut parents = headers.get_all(TRACE_PARENT).iter();
        if parents.next().is_some() && parents.next().is_none() {
            return;
        }
    }
    let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
    // Neither part may be zero.
    write_hex(&mut value[3..19], fastrand::u64(1..));
    write_hex(&mut value[19..35], fastrand::u64(..));
    write_hex(&mut value[36..52], fastrand::u64(1..));
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(TRACE_PARENT, value);
    }
}

fn is_printable(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=LONGEST).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

fn hex(parts: [u64; 2]) -> HeaderValue {
    let mut text = [b'0'; 32];
    for (place, part) in text.chunks_exact_mut(16).zip(parts) {
        write_hex(place, part);
    }
    // Hexadecimal digits are a valid value.
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("none"))
}

fn write_hex(place: &mut [u8], value: u64) {
    for (index, digit) in place.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (4 * index)) as usize & 15];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(headers: &mut HeaderMap) -> HeaderValue {
        let fields = Fields::of(headers);
        request_id(headers, fields)
    }

    fn trace_of(headers: &mut HeaderMap) {
        let fields = Fields::of(headers);
        trace(headers, fields);
    }

    #[test]
    fn an_id_is_kept_or_made() {
        let mut headers = HeaderMap::new();
        let made = id_of(&mut headers);
        assert_eq!(made.len(), 32);
        assert_eq!(headers[REQUEST_ID], made);
        assert_eq!(id_of(&mut headers), made, "it is kept from now on");
        for bad in ["", "two words", &"x".repeat(129)] {
            headers.insert(REQUEST_ID, bad.parse().expect("valid"));
            assert_ne!(id_of(&mut headers), bad);
        }
        headers.insert(REQUEST_ID, HeaderValue::from_static("mine-1"));
        headers.append(REQUEST_ID, HeaderValue::from_static("mine-2"));
        assert_eq!(id_of(&mut headers), "mine-1");
        assert_eq!(headers.get_all(REQUEST_ID).iter().count(), 1);
    }

    #[test]
    fn a_trace_is_passed_or_started() {
        let mut headers = HeaderMap::new();
        trace_of(&mut headers);
        let value = headers[TRACE_PARENT].to_str().expect("ASCII").to_owned();
        let parts: Vec<&str> = value.split('-').collect();
        assert_eq!(
            parts.iter().map(|p| p.len()).collect::<Vec<_>>(),
            [2, 32, 16, 2],
            "{value}"
        );
        assert!(value.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()));
        trace_of(&mut headers);
        assert_eq!(headers[TRACE_PARENT], value.as_str());
        headers.append(TRACE_PARENT, HeaderValue::from_static("00-1-2-00"));
        trace_of(&mut headers);
        assert_eq!(headers.get_all(TRACE_PARENT).iter().count(), 1);
        assert_ne!(headers[TRACE_PARENT], value.as_str());
    }
}
