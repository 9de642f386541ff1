//! How a body's end is told: lengths, codings and chunks.

use crate::conform::edges::rows::{
    CHUNKED, CHUNKS, HOST, LENGTH, Row, chunked, post, request, row,
};

pub(super) fn all() -> Vec<Row> {
    [lengths(), codings(), chunks()]
        .into_iter()
        .flatten()
        .collect()
}

fn lengths() -> Vec<Row> {
    vec![
        row("length", post(LENGTH, "body")),
        row(
            "length: the same twice",
            request("POST /echo HTTP/1.1", &[HOST, LENGTH, LENGTH], "body"),
        )
        .differs(
            "200 <- POST hello.shop/echo 'body'",
            "RFC 9110 section 8.6: may be taken as one, and the pod gets one",
        ),
        row(
            "length: two",
            request(
                "POST /echo HTTP/1.1",
                &[HOST, LENGTH, "Content-Length: 5"],
                "body",
            ),
        ),
        row(
            "length: a list of the same",
            post("Content-Length: 4, 4", "body"),
        ),
        row("length: a list", post("Content-Length: 4, 5", "body")),
        row("length: a sign", post("Content-Length: +4", "body")),
        row("length: negative", post("Content-Length: -4", "body")),
        row("length: hexadecimal", post("Content-Length: 0x4", "body")),
        row("length: a fraction", post("Content-Length: 4.0", "body")),
        row(
            "length: too large",
            post("Content-Length: 99999999999999999999", "body"),
        ),
        row("length: empty", post("Content-Length:", "")),
        row(
            "length: a space after it",
            post("Content-Length: 4 ", "body"),
        ),
        row(
            "length: a space within",
            post("Content-Length: 4 4", "body"),
        ),
        row(
            "length: leading zeros",
            post("Content-Length: 0004", "body"),
        ),
        row(
            "length: a space before the colon",
            post("Content-Length : 4", "body"),
        ),
        row(
            "length of more than comes",
            post("Content-Length: 10", "body"),
        )
        .differs(
            "400",
            "RFC 9112 section 8: an incomplete request may be answered",
        )
        .ends(),
        row(
            "length of less than comes",
            post("Content-Length: 2", "body"),
        ),
    ]
}

/// What another parser takes for a second request.
const HIDDEN: &str = "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: hello.shop\r\n\r\n";

/// Why a coding other than chunked, once and last, is no good.
const CODING: &str =
    "RFC 9112 section 6.1: what is not known is refused; Ebb says 400, where 501 may be said";

fn codings() -> Vec<Row> {
    let both = |first: &str, second: &str| {
        format!("POST /echo HTTP/1.1\r\n{HOST}\r\n{first}\r\n{second}\r\n\r\n{HIDDEN}")
    };
    let length = format!("Content-Length: {}", HIDDEN.len());
    let coding = |coding: &str| post(&format!("Transfer-Encoding: {coding}"), CHUNKS);
    vec![
        row("coding", coding("chunked")),
        row("coding in capitals", coding("CHUNKED")),
        row("coding after a length", both(&length, CHUNKED)).differs("200 <- POST hello.shop/echo", "RFC 9112 section 6.1: the coding alone counts, the length goes, and the connection ends"),
        row("coding before a length", both(CHUNKED, &length)).differs("200 <- POST hello.shop/echo", "RFC 9112 section 6.1: the coding alone counts, the length goes, and the connection ends"),
        row(
            "coding beside a length of 0",
            both("Content-Length: 0", CHUNKED),
        ).differs("200 <- POST hello.shop/echo", "RFC 9112 section 6.1: the coding alone counts, the length goes, and the connection ends"),
        row("coding: gzip", coding("gzip")).differs("400", CODING),
        row("coding: identity", coding("identity")).differs("400", CODING),
        row(
            "coding: identity beside a length",
            request(
                "POST /echo HTTP/1.1",
                &[HOST, LENGTH, "Transfer-Encoding: identity"],
                "body",
            ),
        ).differs("400", CODING),
        row("coding: gzip, chunked", coding("gzip, chunked")).differs("400", CODING),
        row("coding: chunked, gzip", coding("chunked, gzip")).differs("400", CODING),
        row("coding: chunked, identity", coding("chunked, identity")).differs("400", CODING),
        row(
            "coding: chunked twice in a line",
            coding("chunked, chunked"),
        ).differs("400", CODING),
        row(
            "coding: chunked in two lines",
            request("POST /echo HTTP/1.1", &[HOST, CHUNKED, CHUNKED], CHUNKS),
        ),
        row(
            "coding: identity in a line before",
            request(
                "POST /echo HTTP/1.1",
                &[HOST, "Transfer-Encoding: identity", CHUNKED],
                CHUNKS,
            ),
        ),
        row("coding: a letter before it", coding("xchunked")).differs("400", CODING),
        row("coding: a vertical tab before it", coding("\u{b}chunked")).differs("400", CODING),
        row("coding: in quotes", coding("\"chunked\"")).differs("400", CODING),
        row("coding: a parameter", coding("chunked;q=1")).differs("400", CODING),
        row("coding: empty", coding("")).differs("400", CODING),
        row(
            "coding: a space before the colon",
            post("Transfer-Encoding : chunked", CHUNKS),
        ),
        row(
            "coding: folded",
            post("Transfer-Encoding:\r\n chunked", CHUNKS),
        ),
        row(
            "coding: in HTTP/1.0",
            request("POST /echo HTTP/1.0", &[HOST, CHUNKED], CHUNKS),
        ),
        row(
            "coding: of a GET",
            request("GET /echo HTTP/1.1", &[HOST, CHUNKED], CHUNKS),
        ),
    ]
}

fn chunks() -> Vec<Row> {
    vec![
        row(
            "chunk with an extension",
            chunked("4;a=b\r\nbody\r\n0\r\n\r\n"),
        ),
        row(
            "chunk with an extension in quotes",
            chunked("4;a=\"b;c\"\r\nbody\r\n0\r\n\r\n"),
        ),
        row(
            "chunk with an extension after a space",
            chunked("4 ;a=b\r\nbody\r\n0\r\n\r\n"),
        ),
        row(
            "chunk with an extension of 20 kB",
            chunked(&format!("4;{}\r\nbody\r\n0\r\n\r\n", "a".repeat(20_000))),
        ).differs("400", "RFC 9112 section 7.1.1: their length is limited"),
        row(
            "chunk with an LF in its extension",
            chunked("4;a\nbody\r\n0\r\n\r\n"),
        ).differs("400", "RFC 9112 section 7.1: lines of chunks end with CR LF; what reads them otherwise sees another body"),
        row(
            "chunks with a trailer",
            chunked("4\r\nbody\r\n0\r\nX-A: 1\r\n\r\n"),
        ),
        row(
            "chunks with a length as trailer",
            chunked("4\r\nbody\r\n0\r\nContent-Length: 9\r\n\r\n"),
        ),
        row("chunk of no size", chunked("\r\nbody\r\n0\r\n\r\n")),
        row(
            "chunk of a size that is none",
            chunked("zz\r\nbody\r\n0\r\n\r\n"),
        ),
        row("chunk of 0x4", chunked("0x4\r\nbody\r\n0\r\n\r\n")),
        row("chunk of +4", chunked("+4\r\nbody\r\n0\r\n\r\n")),
        row("chunk of -4", chunked("-4\r\nbody\r\n0\r\n\r\n")),
        row("chunk of 0004", chunked("0004\r\nbody\r\n0\r\n\r\n")),
        row("chunk of A", chunked("A\r\n0123456789\r\n0\r\n\r\n")),
        row(
            "chunk with a space after its size",
            chunked("4 \r\nbody\r\n0\r\n\r\n"),
        ),
        row(
            "chunk with a space before its size",
            chunked(" 4\r\nbody\r\n0\r\n\r\n"),
        ),
        row(
            "chunk of 17 digits",
            chunked("fffffffffffffffff\r\nbody\r\n0\r\n\r\n"),
        ),
        row(
            "chunk longer than its size",
            chunked("2\r\nbody\r\n0\r\n\r\n"),
        ),
        row(
            "chunk shorter than its size",
            chunked("6\r\nbody\r\n0\r\n\r\n"),
        )
        .ends(),
        row(
            "chunk without an end of line",
            chunked("4\r\nbody0\r\n\r\n"),
        )
        .ends(),
        row("chunk lines end with LF", chunked("4\nbody\n0\n\n")).differs("400", "RFC 9112 section 7.1: lines of chunks end with CR LF; what reads them otherwise sees another body"),
        row("chunk's size ends with CR", chunked("4\rbody\r\n0\r\n\r\n")).ends(),
        row("chunks without the last", chunked("4\r\nbody\r\n")).differs("400", "RFC 9112 section 8: an incomplete request may be answered").ends(),
        row(
            "chunks without the last line",
            chunked("4\r\nbody\r\n0\r\n"),
        ).differs("400", "RFC 9112 section 8: an incomplete request may be answered")
        .ends(),
    ]
}
