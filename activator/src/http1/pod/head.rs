//! A request's head as a pod gets it, and an answer's as a pod sends it (RFC 9112). Pure.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;

use crate::{body::Upload, headers, sender::Failed};

use crate::http1::{
    chunks::Chunks,
    head::{self, Framing, LONGEST, MOST_FIELDS},
    message::{Body, Found},
};

/// Fields that the activator adds to an answer: its ID, and what became of the request's time.
const ADDED: usize = 2;

const BAD_FIELD: Failed = Failed::Malformed("a field of its head is malformed");

/// An answer's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) answer: Response<()>,
    pub(super) body: Body,
    /// Whether another request may follow on the connection.
    pub(super) kept: bool,
}

/// The head that begins with `input`. `to_head`: the request was a HEAD.
pub(super) fn take(input: &[u8], to_head: bool) -> Result<Found<Head>, Failed> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, input, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= LONGEST => length,
        Ok(httparse::Status::Partial) if input.len() <= LONGEST => return Ok(Found::Nothing),
        Ok(_) => return Err(Failed::Malformed("its head is longer than 64 KiB")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Failed::Malformed("it has more than 100 fields"));
        }
        Err(_) => return Err(Failed::Malformed("its head is malformed")),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Failed::Malformed("it has no valid status"))?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Found::Interim(length));
    }
    let head = read(&parsed, status, input, length, to_head)?;
    Ok(Found::Head(head, length))
}

/// What a pod says before its answer, if that is for the client: not that it wants the body, for which only the activator has asked.
pub(super) fn interim(input: &[u8]) -> Option<Response<()>> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let read_as = parser.parse_response_with_uninit_headers(&mut parsed, input, &mut fields);
    read_as.ok()?;
    let status = StatusCode::from_u16(parsed.code?).ok()?;
    if status == StatusCode::CONTINUE {
        return None;
    }
    let mut head = read(&parsed, status, input, input.len(), true).ok()?;
    // It has no body, whose length could be told.
    head.answer.headers_mut().remove(header::CONTENT_LENGTH);
    Some(head.answer)
}

fn read(
    parsed: &httparse::Response<'_, '_>,
    status: StatusCode,
    input: &[u8],
    length: usize,
    to_head: bool,
) -> Result<Head, Failed> {
    let mut answer = Response::new(());
    *answer.status_mut() = status;
    let reason = parsed.reason.unwrap_or_default();
    if !reason.is_empty()
        && Some(reason) != status.canonical_reason()
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        answer.extensions_mut().insert(reason);
    }
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let mut hop = Hop::default();
    let fields = answer.headers_mut();
    fields.reserve(parsed.headers.len() + ADDED);
    // One piece for all values, so that the buffer stays the connection's own.
    let whole = Bytes::copy_from_slice(&input[..length]);
    for parsed in parsed.headers.iter() {
        let (name, plain) = head::field(parsed).ok_or(BAD_FIELD)?;
        if !switches && hop.hears(&name, plain) {
            continue;
        }
        let start = parsed.value.as_ptr() as usize - input.as_ptr() as usize;
        let value = match plain.is_empty() {
            true => HeaderValue::from_static(""),
            false => HeaderValue::from_maybe_shared(whole.slice(start..start + plain.len()))
                .map_err(|_| BAD_FIELD)?,
        };
        fields.append(name, value);
    }
    if hop.names {
        headers::strip_hop_by_hop(fields);
    }
    let both = hop.chunked && hop.length.is_some();
    let bodiless = switches || to_head || is_empty(status);
    // That of a body is told with the body.
    if bodiless && let Some(length) = hop.length.filter(|_| hop.wrong.is_none() && !both) {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    let old = parsed.version == Some(0);
    let body = match bodiless {
        true => Body::Length(0),
        false => hop.body(old)?,
    };
    let persistent = !old || hop.keep_alive;
    // Who reads both differently sees another end of it (RFC 9112 section 6.3), so nothing may follow.
    let clear = !switches && !both && hop.wrong.is_none() && !matches!(body, Body::UntilEnd);
    let kept = persistent && !hop.close && clear;
    Ok(Head { answer, body, kept })
}

/// Whether answers of this status have no body, whatever their fields say.
fn is_empty(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// What a head says to this hop only.
#[derive(Debug, Default)]
struct Hop {
    close: bool,
    keep_alive: bool,
    /// Whether `Connection` names other fields.
    names: bool,
    chunked: bool,
    length: Option<u64>,
    /// What is wrong with how it says where the body ends. An answer without one has no need to be right.
    wrong: Option<&'static str>,
}

impl Hop {
    /// Takes note of a field; returns whether it ends here.
    fn hears(&mut self, name: &HeaderName, value: &[u8]) -> bool {
        match *name {
            header::CONNECTION => {
                for token in headers::members(value) {
                    match token {
                        _ if token.eq_ignore_ascii_case(b"close") => self.close = true,
                        _ if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                        _ => self.names = true,
                    }
                }
                // It goes with the fields that it names.
                !self.names
            }
            header::TRANSFER_ENCODING => {
                let coding = value.trim_ascii();
                if coding.eq_ignore_ascii_case(b"identity") {
                    // What was once said of none.
                    return true;
                }
                let chunked = coding.eq_ignore_ascii_case(b"chunked");
                if !chunked || self.chunked {
                    // Its name would be taken off here, and the coding left on.
                    let what = "it has another transfer coding than chunked, or that twice";
                    self.wrong = Some(what);
                }
                self.chunked = true;
                true
            }
            header::CONTENT_LENGTH => {
                for one in headers::members(value) {
                    let length = head::length(one);
                    if length.is_none() || self.length.is_some_and(|before| length != Some(before))
                    {
                        self.wrong = Some("it has no valid Content-Length");
                    }
                    self.length = length;
                }
                true
            }
            header::TE | header::UPGRADE => true,
            _ => *name == headers::KEEP_ALIVE || *name == headers::PROXY_CONNECTION,
        }
    }

    /// Where the body ends (RFC 9112 section 6.3). `old`: the answer is one of HTTP/1.0.
    fn body(&self, old: bool) -> Result<Body, Failed> {
        if let Some(wrong) = self.wrong {
            return Err(Failed::Malformed(wrong));
        }
        match (self.chunked, self.length) {
            (true, _) if old => Err(Failed::Malformed("it is too old for chunks")),
            // A length beside them goes.
            (true, _) => Ok(Body::Chunked(Chunks::default())),
            (false, Some(length)) => Ok(Body::Length(length)),
            (false, None) => Ok(Body::UntilEnd),
        }
    }
}

/// Writes a request's head.
pub(super) fn write(request: &Request<Upload>, out: &mut Vec<u8>) -> Framing {
    let framing = match request.body() {
        Upload::Empty => Framing::Empty,
        body => (body.size_hint().exact()).map_or(Framing::Chunked, Framing::Length),
    };
    let target = request.uri().path_and_query();
    let target = target.map_or("/", |target| target.as_str());
    let slash = if target.starts_with(['/', '*']) {
        " "
    } else {
        " /"
    };
    for part in [request.method().as_str(), slash, target] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        let framed = framing != Framing::Empty && *name == header::CONTENT_LENGTH;
        if !framed {
            head::write_field(out, name, value);
        }
    }
    match framing {
        Framing::Empty | Framing::UntilEnd => {}
        Framing::Length(length) => head::write_length(out, length),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
    framing
}
