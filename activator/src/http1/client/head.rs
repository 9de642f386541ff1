//! A request's head as a client sends it, and an answer's as a client gets it (RFC 9112). Pure.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;

use crate::{
    answer::{Reason, Refusal},
    body::Reply,
    headers,
};

use super::date::Date;
use crate::http1::{
    chunks::Chunks,
    head::{self, Framing, LONGEST, MOST_FIELDS},
    message::{Body, Found},
};

/// Fields that the activator adds to a request: its ID, its trace, and four of where it comes from.
const ADDED: usize = 6;

const BAD_FIELD: Bad = Bad::Malformed("a field of its head is malformed");
const BAD_CODING: Bad =
    Bad::Malformed("it has another transfer coding than chunked, or that twice");
const BAD_LENGTH: Bad = Bad::Malformed("it has no valid Content-Length");

/// A request's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) request: Request<()>,
    /// Its bytes.
    pub(super) length: usize,
    pub(super) body: Body,
    pub(super) asked: Asked,
    /// Whether the client waits until it is asked for the body.
    pub(super) expects: bool,
}

/// What an answer must know of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// It was a HEAD.
    pub(super) to_head: bool,
    /// It was one of HTTP/1.0, whose clients know no chunks.
    pub(super) old: bool,
    /// Its client takes fields after a body.
    pub(super) trailers: bool,
    /// Another request may follow on the connection.
    pub(super) kept: bool,
}

impl Asked {
    /// Of what is no request.
    pub(super) const NOTHING: Self = Self {
        to_head: false,
        old: false,
        trailers: false,
        kept: false,
    };
}

/// Why a client's bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Malformed(&'static str),
    TooLarge(&'static str),
}

impl From<Bad> for Refusal {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::Malformed(what) => Self::new(
                Reason::BadRequest,
                format!("the request is malformed: {what}"),
            ),
            Bad::TooLarge(what) => Self::new(
                Reason::HeadTooLarge,
                format!("the request's head is too large: {what}"),
            ),
        }
    }
}

/// The request's head that begins with `input`.
///
/// # Errors
/// If there is none.
pub(super) fn take(input: &[u8]) -> Result<Found<Head>, Bad> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_request_with_uninit_headers(&mut parsed, input, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= LONGEST => length,
        Ok(httparse::Status::Partial) if input.len() <= LONGEST => return Ok(Found::Nothing),
        Ok(_) => return Err(Bad::TooLarge("it is longer than 64 KiB")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Bad::TooLarge("it has more than 100 fields"));
        }
        Err(httparse::Error::Version) => {
            return Err(Bad::Malformed("its version is not 1.0 or 1.1"));
        }
        Err(httparse::Error::Token) if parsed.path.is_none() => {
            return Err(Bad::Malformed("its first line is none"));
        }
        Err(_) => return Err(BAD_FIELD),
    };
    Ok(Found::Head(read(&parsed, input, length)?, length))
}

fn read(parsed: &httparse::Request<'_, '_>, input: &[u8], length: usize) -> Result<Head, Bad> {
    // One piece for target and values, of their size, so that a request that waits keeps no buffer.
    let whole = Bytes::copy_from_slice(&input[..length]);
    let part = |text: &[u8]| {
        let start = text.as_ptr() as usize - input.as_ptr() as usize;
        whole.slice(start..start + text.len())
    };
    let mut request = Request::new(());
    let method = parsed.method.unwrap_or_default().as_bytes();
    *request.method_mut() =
        Method::from_bytes(method).map_err(|_| Bad::Malformed("its method is none"))?;
    let target = part(parsed.path.unwrap_or_default().as_bytes());
    *request.uri_mut() =
        Uri::from_maybe_shared(target).map_err(|_| Bad::Malformed("its target is none"))?;
    let old = parsed.version == Some(0);
    if old {
        *request.version_mut() = Version::HTTP_10;
    }
    let mut framed = Framed::default();
    let fields = request.headers_mut();
    fields.reserve(parsed.headers.len() + ADDED);
    for parsed in parsed.headers.iter() {
        let (name, plain) = head::field(parsed).ok_or(BAD_FIELD)?;
        let value = match plain.is_empty() {
            true => HeaderValue::from_static(""),
            false => HeaderValue::from_maybe_shared(part(plain)).map_err(|_| BAD_FIELD)?,
        };
        if framed.hears(&name, plain)? {
            fields.append(name, value);
        }
    }
    let body = framed.body(old, fields)?;
    // Who reads a length beside a coding sees another end of the body (RFC 9112 section 6.1), so nothing may follow.
    let clear = !(framed.chunked && framed.length.is_some());
    let kept = !framed.close && clear && (!old || framed.keep_alive);
    let asked = Asked {
        to_head: request.method() == Method::HEAD,
        old,
        trailers: framed.trailers,
        kept,
    };
    Ok(Head {
        request,
        length,
        body,
        asked,
        // One of HTTP/1.0 does not know the answer to it (RFC 9110 section 10.1.1).
        expects: framed.expects && !old,
    })
}

/// What a head says of the connection, and of where its body ends.
#[derive(Debug, Default)]
struct Framed {
    close: bool,
    keep_alive: bool,
    expects: bool,
    trailers: bool,
    /// It comes in chunks.
    chunked: bool,
    length: Option<u64>,
}

impl Framed {
    /// Takes note of a field; returns whether it is to be kept: what is undone here is not, nor is a second length of the same value.
    fn hears(&mut self, name: &http::HeaderName, value: &[u8]) -> Result<bool, Bad> {
        match *name {
            header::CONNECTION => {
                for token in headers::members(value) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            header::TRANSFER_ENCODING => {
                // Any other coding would be left on the body, and who reads several in a row differently sees another end of it (RFC 9112 section 6.1).
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BAD_CODING);
                }
                self.chunked = true;
                return Ok(false);
            }
            header::CONTENT_LENGTH => {
                let length = head::length(value).ok_or(BAD_LENGTH)?;
                if let Some(before) = self.length.replace(length) {
                    return match before == length {
                        true => Ok(false),
                        false => Err(BAD_LENGTH),
                    };
                }
            }
            header::TE => {
                self.trailers |=
                    headers::members(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            header::EXPECT => self.expects = value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
        Ok(true)
    }

    /// Where the body ends (RFC 9112 section 6.3). A length beside a coding goes.
    fn body(&self, old: bool, fields: &mut HeaderMap) -> Result<Body, Bad> {
        if !self.chunked {
            return Ok(Body::Length(self.length.unwrap_or_default()));
        }
        if old {
            return Err(Bad::Malformed("it is too old for a transfer coding"));
        }
        if self.length.is_some() {
            fields.remove(header::CONTENT_LENGTH);
        }
        Ok(Body::Chunked(Chunks::default()))
    }
}

/// Writes an answer's head. Returns how its body is written, and whether another request may follow.
pub(super) fn write(
    answer: &Response<Reply>,
    asked: Asked,
    date: impl FnOnce() -> Date,
    out: &mut Vec<u8>,
) -> (Framing, bool) {
    let status = answer.status();
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let bare = switches || status == StatusCode::NO_CONTENT;
    let empty = bare || asked.to_head || status == StatusCode::NOT_MODIFIED;
    let exact = answer.body().size_hint().exact();
    let framing = match exact {
        _ if empty => Framing::Empty,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None if asked.old => Framing::UntilEnd,
        None => Framing::Chunked,
    };
    write_status(answer, out);
    let mut told = Told::default();
    for (name, value) in answer.headers() {
        let written = match *name {
            header::CONNECTION if !switches => {
                told.close |= value.as_bytes().eq_ignore_ascii_case(b"close");
                false
            }
            // An answer without a body may have that of the one which a GET would get.
            header::CONTENT_LENGTH => {
                told.length = empty;
                empty && !bare
            }
            header::TRANSFER_ENCODING => false,
            header::TRAILER => framing == Framing::Chunked && asked.trailers,
            header::DATE => {
                told.date = true;
                true
            }
            _ => true,
        };
        if written {
            head::write_field(out, name, value);
        }
    }
    match (framing, exact) {
        (Framing::Chunked, _) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        (Framing::UntilEnd, _) => {}
        _ if bare || told.length => {}
        // Of a HEAD or a 304 this is known only if the answer is the activator's own.
        (_, Some(0) | None) if empty => {}
        (_, length) => head::write_length(out, length.unwrap_or_default()),
    }
    if !told.date {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(&date());
        out.extend_from_slice(b"\r\n");
    }
    let kept = asked.kept && !told.close && !switches && framing != Framing::UntilEnd;
    match kept {
        false if !switches => out.extend_from_slice(b"connection: close\r\n"),
        true if asked.old => out.extend_from_slice(b"connection: keep-alive\r\n"),
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
    (framing, kept)
}

/// Writes an answer that comes before the answer.
pub(super) fn write_hint(hint: &Response<()>, out: &mut Vec<u8>) {
    write_status(hint, out);
    for (name, value) in hint.headers() {
        head::write_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// What the fields of an answer have told.
#[derive(Debug, Default)]
struct Told {
    close: bool,
    date: bool,
    /// The length of what is left out.
    length: bool,
}

fn write_status<B>(answer: &Response<B>, out: &mut Vec<u8>) {
    let status = answer.status();
    let own = answer.extensions().get::<ReasonPhrase>();
    if status == StatusCode::OK && own.is_none() {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let reason = match own {
        Some(own) => own.as_bytes(),
        None => status.canonical_reason().unwrap_or_default().as_bytes(),
    };
    let parts = [
        b"HTTP/1.1 ",
        status.as_str().as_bytes(),
        b" ",
        reason,
        b"\r\n",
    ];
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step is a failed test
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, Bad> {
        match take(text.as_bytes())? {
            Found::Head(head, length) if length == text.len() => Ok(head),
            _ => panic!("{text:?} has no whole head"),
        }
    }

    #[test]
    fn a_head_tells_where_its_body_ends_and_whether_more_may_follow() {
        for (fields, meant) in [
            ("GET / HTTP/1.1\r\n", (Some(0), true)),
            (
                "GET / HTTP/1.1\r\nConnection: x, Close\r\n",
                (Some(0), false),
            ),
            ("GET / HTTP/1.0\r\n", (Some(0), false)),
            (
                "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n",
                (Some(0), true),
            ),
            (
                "GET / HTTP/1.1\r\nConnection: close\r\nConnection: keep-alive\r\n",
                (Some(0), false),
            ),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n", (Some(3), true)),
            (
                "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 03\r\n",
                (Some(3), true),
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n",
                (None, true),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
                (None, false),
            ),
        ] {
            let head = head(&format!("{fields}\r\n")).unwrap();
            let length = match head.body {
                Body::Length(length) => Some(length),
                _ => None,
            };
            assert_eq!((length, head.asked.kept), meant, "{fields}");
            let lengths = head.request.headers().get_all(header::CONTENT_LENGTH);
            assert_eq!(
                lengths.iter().count(),
                usize::from(length > Some(0)),
                "{fields}"
            );
        }
        for bad in [
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
            "GET /\u{1} HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\n X: 1\r\n",
        ] {
            assert!(
                matches!(head(&format!("{bad}\r\n")), Err(Bad::Malformed(_))),
                "{bad}"
            );
        }
    }

    const ASKED: Asked = Asked {
        kept: true,
        ..Asked::NOTHING
    };

    fn written(
        answer: http::response::Builder,
        reply: Reply,
        asked: Asked,
    ) -> (String, Framing, bool) {
        let mut out = Vec::new();
        let answer = answer.body(reply).unwrap();
        let (framing, kept) = write(
            &answer,
            asked,
            || *b"Sun, 06 Nov 1994 08:49:37 GMT",
            &mut out,
        );
        let text = String::from_utf8(out).unwrap();
        (
            text.replace("date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", ""),
            framing,
            kept,
        )
    }

    fn text() -> Reply {
        Reply::text(Bytes::from_static(b"four"))
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is a table")]
    fn an_answers_head_says_what_its_client_can_make_use_of() {
        let ok = Response::builder;
        let status = |status: u16| Response::builder().status(status);
        let to_head = Asked {
            to_head: true,
            ..ASKED
        };
        let old = Asked { old: true, ..ASKED };
        let four = Framing::Length(4);
        for (answer, reply, asked, meant) in [
            (
                ok(),
                text(),
                ASKED,
                ("200 OK\r\ncontent-length: 4\r\n", four, true),
            ),
            (
                ok(),
                Reply::none(),
                ASKED,
                ("200 OK\r\ncontent-length: 0\r\n", Framing::Empty, true),
            ),
            // What another field says of the length does not count.
            (
                ok().header("content-length", "7")
                    .header("transfer-encoding", "x")
                    .header("trailer", "y"),
                text(),
                ASKED,
                ("200 OK\r\ncontent-length: 4\r\n", four, true),
            ),
            (
                ok(),
                text(),
                to_head,
                ("200 OK\r\ncontent-length: 4\r\n", Framing::Empty, true),
            ),
            (
                ok().header("content-length", "7"),
                Reply::none(),
                to_head,
                ("200 OK\r\ncontent-length: 7\r\n", Framing::Empty, true),
            ),
            (
                ok(),
                Reply::none(),
                to_head,
                ("200 OK\r\n", Framing::Empty, true),
            ),
            (
                status(304).header("content-length", "7"),
                Reply::none(),
                ASKED,
                (
                    "304 Not Modified\r\ncontent-length: 7\r\n",
                    Framing::Empty,
                    true,
                ),
            ),
            (
                status(204).header("content-length", "7"),
                Reply::none(),
                ASKED,
                ("204 No Content\r\n", Framing::Empty, true),
            ),
            (
                status(404).header("connection", "close"),
                text(),
                ASKED,
                (
                    "404 Not Found\r\ncontent-length: 4\r\nconnection: close\r\n",
                    four,
                    false,
                ),
            ),
            (
                ok(),
                text(),
                Asked::NOTHING,
                (
                    "200 OK\r\ncontent-length: 4\r\nconnection: close\r\n",
                    four,
                    false,
                ),
            ),
            (
                ok(),
                text(),
                old,
                (
                    "200 OK\r\ncontent-length: 4\r\nconnection: keep-alive\r\n",
                    four,
                    true,
                ),
            ),
            (
                status(101)
                    .header("connection", "upgrade")
                    .header("upgrade", "echo"),
                Reply::none(),
                ASKED,
                (
                    "101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n",
                    Framing::Empty,
                    false,
                ),
            ),
            (
                status(799),
                Reply::none(),
                ASKED,
                ("799 \r\ncontent-length: 0\r\n", Framing::Empty, true),
            ),
        ] {
            let (head, framing, kept) = meant;
            let head = format!("HTTP/1.1 {head}\r\n");
            assert_eq!(written(answer, reply, asked), (head, framing, kept));
        }
    }
}
