//! Several messages on a connection, and what pods answer.

use crate::conform::{
    backend::OK,
    edges::rows::{CHUNKED, CHUNKS, HOST, LENGTH, Row, get, request, row, twice},
};

pub(super) fn all() -> Vec<Row> {
    [expectations(), connections(), pods()]
        .into_iter()
        .flatten()
        .collect()
}

fn expectations() -> Vec<Row> {
    let expect =
        |expectation: &str| request("POST /echo HTTP/1.1", &[HOST, LENGTH, expectation], "body");
    vec![
        row("100-continue", expect("Expect: 100-continue")),
        row("100-continue in capitals", expect("Expect: 100-Continue")),
        row(
            "100-continue in HTTP/1.0",
            request(
                "POST /echo HTTP/1.0",
                &[HOST, LENGTH, "Expect: 100-continue"],
                "body",
            ),
        ),
        row(
            "100-continue without a body",
            get(&[HOST, "Expect: 100-continue"]),
        )
        .differs(
            "200 <- GET hello.shop/echo",
            "RFC 9110 section 10.1.1: nothing is waited for",
        ),
        row("another expectation", expect("Expect: the-unexpected")),
    ]
}

fn connections() -> Vec<Row> {
    let plain = format!("GET /echo HTTP/1.1\r\n{HOST}\r\n\r\n");
    let posted = format!("POST /echo HTTP/1.1\r\n{HOST}\r\n{LENGTH}\r\n\r\nbody");
    let sent = format!("POST /echo HTTP/1.1\r\n{HOST}\r\n{CHUNKED}\r\n\r\n{CHUNKS}");
    let kept = format!("GET /echo HTTP/1.0\r\n{HOST}\r\nConnection: keep-alive\r\n\r\n");
    let upgrade = |protocol: &str, more: &str| {
        format!(
            "GET /echo HTTP/1.1\r\n{HOST}\r\nConnection: Upgrade{more}\r\nUpgrade: {protocol}\r\n"
        )
    };
    let settings = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    vec![
        row("two requests at once", twice(&plain)),
        row("two at once, with a body", twice(&posted)),
        row("two at once, with chunks", twice(&sent)),
        row(
            "two at once, an empty line between",
            twice(&format!("{plain}\r\n")),
        ),
        row(
            "two at once, the second one bad",
            format!("{plain}{}", get(&[])),
        ),
        row(
            "two at once, the first one bad",
            format!("GET /echo HTTP/1.1\r\n\r\n{}", get(&[HOST])),
        ),
        row(
            "two at once, the first one closes",
            format!("{}{}", get(&[HOST]), get(&[HOST])),
        ),
        row("HTTP/1.0", request("GET /echo HTTP/1.0", &[HOST], "")),
        row(
            "HTTP/1.0 closes by itself",
            format!("GET /echo HTTP/1.0\r\n{HOST}\r\n\r\n"),
        ),
        row("HTTP/1.0 kept alive", twice(&kept)),
        row(
            "connection names the host",
            format!("GET /echo HTTP/1.1\r\n{HOST}\r\nConnection: close, host\r\n\r\n"),
        ),
        row(
            "connection names the length",
            format!(
                "POST /echo HTTP/1.1\r\n{HOST}\r\n{LENGTH}\r\nConnection: close, content-length\r\n\r\nbody"
            ),
        ),
        row(
            "connection names the coding",
            format!(
                "POST /echo HTTP/1.1\r\n{HOST}\r\n{CHUNKED}\r\nConnection: close, transfer-encoding\r\n\r\n{CHUNKS}"
            ),
        ),
        row(
            "upgrade to h2c",
            twice(&format!(
                "{}{settings}\r\n",
                upgrade("h2c", ", HTTP2-Settings")
            )),
        ),
        row(
            "upgrade that the pod ignores",
            twice(&format!("{}\r\n", upgrade("websocket", ""))),
        ),
        row(
            "upgrade with a body",
            twice(
                &format!("{}{LENGTH}\r\n\r\nbody", upgrade("websocket", "")).replace("GET", "POST"),
            ),
        ),
    ]
}

fn pods() -> Vec<Row> {
    let head = request("HEAD /echo HTTP/1.1", &[HOST], "");
    let plain = format!("GET /echo HTTP/1.1\r\n{HOST}\r\n\r\n");
    let two = || twice(&plain);
    let one = || get(&[HOST]);
    vec![
        row("pod: chunks", two()).pod("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        row("pod: until it closes", one()).pod("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"),
        row("pod: HTTP/1.0", one()).pod("HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nok"),
        row("pod: HEAD with a body", head).pod(OK),
        row("pod: 204", two()).pod("HTTP/1.1 204 No Content\r\n\r\n"),
        row("pod: 204 with a body", two()).pod("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody"),
        row("pod: 204 with chunks", two()).pod("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        row("pod: 304 with a length", two()).pod("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
        row("pod: 304 with a body", two()).pod("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody"),
        row("pod: 100 first", two()).differs("200 200 <- GET hello.shop/echo <- GET hello.shop/echo", "RFC 9110 section 15.2: the answer is the final one; nginx 1.22 waits in vain").pod("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        row("pod: 103 first", two()).differs("103 200 103 200 <- GET hello.shop/echo <- GET hello.shop/echo", "RFC 9110 section 15.2: it is passed on, and the final answer after it; nginx 1.22 waits in vain").pod("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        row("pod: 101 that nobody asked for", one()).differs("502 <- GET hello.shop/echo", "RFC 9110 section 15.2.2: only upon a request's Upgrade").pod("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade, close\r\nUpgrade: x\r\n\r\n"),
        row("pod: the same length twice", one()).pod("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
        row("pod: two lengths", one()).differs("502 <- GET hello.shop/echo", "RFC 9112 section 6.3: an answer whose end is not known").pod("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\nok"),
        row("pod: length and coding", one()).pod("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        row("pod: coding identity", one()).pod("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nConnection: close\r\n\r\nok"),
        row("pod: coding gzip", one()).differs("502 <- GET hello.shop/echo", "RFC 9112 section 6.1: its name is for one hop only, and the client could not read it without").pod("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\nok"),
        row("pod: a length that is none", one()).differs("502 <- GET hello.shop/echo", "RFC 9112 section 6.3: an answer whose end is not known").pod("HTTP/1.1 200 OK\r\nContent-Length: x\r\nConnection: close\r\n\r\nok"),
        row("pod: more than its length", two()).pod("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"),
        row("pod: less than its length", one()).pod("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nok"),
        row("pod: a bad chunk", one()).differs("200 <- GET hello.shop/echo", "RFC 9112 section 8: what came before is sent, and the closed connection says that it is not whole; nginx has not sent the head yet").pod("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\nok\r\n0\r\n\r\n"),
        row("pod: no HTTP", one()).differs("502 <- GET hello.shop/echo", "RFC 9110 section 15.6.3: an invalid answer").pod("hello, this is no HTTP\r\nConnection: close\r\n\r\n"),
        row("pod: a folded field", one()).pod("HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok"),
        row("pod: a space before a colon", one()).pod("HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok"),
        row("pod: status 99", one()).differs("502 <- GET hello.shop/echo", "RFC 9110 section 15: a status has three digits").pod("HTTP/1.1 99 Low\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"),
        row("pod: status 999", one()).pod("HTTP/1.1 999 High\r\nContent-Length: 2\r\n\r\nok"),
        row("pod: no reason phrase", one()).pod("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
        row("pod: lines end with LF", one()).pod("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    ]
}
