//! Hosts, targets, methods, lines and sizes of heads.

use crate::conform::edges::rows::{HOST, LENGTH, Row, get, request, row, target};

pub(super) fn all() -> Vec<Row> {
    [hosts(), targets(), methods(), lines(), sizes()]
        .into_iter()
        .flatten()
        .collect()
}

fn hosts() -> Vec<Row> {
    vec![
        // The first row's Function has the host 0.conform.
        row(
            "host: none in HTTP/1.0",
            request("GET /echo HTTP/1.0", &[], ""),
        ).differs("200 <- GET 0.conform/echo", "RFC 9112 section 3.2: a request of HTTP/1.1 needs a Host, so the pod gets the Function's"),
        row("host", get(&[HOST])),
        row("host with a port", get(&["Host: hello.shop:80"])),
        row("host in capitals", get(&["HOST: Hello.Shop"])),
        row("host: IPv6", get(&["Host: [::1]:80"])),
        row("host: empty", get(&["Host:"])).differs("200 <- GET /echo", "RFC 9110 section 7.2: so says a client whose target has no authority"),
        row("host: none", get(&[])),
        row("host: two", get(&[HOST, "Host: other"])),
        row("host: the same twice", get(&[HOST, HOST])),
        row("host with a space in it", get(&["Host: hello shop"])),
        row("host with a path in it", get(&["Host: hello/shop"])),
        row("host with a user in it", get(&["Host: me@hello"])).differs("400", "RFC 9110 section 7.2: a Host has no user"),
        row("host: a list", get(&["Host: hello, other"])),
    ]
}

fn targets() -> Vec<Row> {
    let absolute = |headers: &[&str]| request("GET http://hello.shop/echo HTTP/1.1", headers, "");
    vec![
        row("target: absolute", absolute(&[HOST])),
        row("target: absolute, another host", absolute(&["Host: other"])).differs(
            "200 <- GET hello.shop/echo",
            "RFC 9112 section 3.2.2: the target wins",
        ),
        row("target: absolute, no host", absolute(&[])),
        row("target: absolute, two hosts", absolute(&[HOST, HOST])),
        row(
            "target: absolute, a user in it",
            target("http://me@hello.shop/echo"),
        )
        .differs(
            "400",
            "RFC 9110 section 4.2.4: a user hides the host from people",
        ),
        row("target: absolute, https", target("https://hello.shop/echo")),
        row(
            "target: asterisk of OPTIONS",
            request("OPTIONS * HTTP/1.1", &[HOST], ""),
        )
        .differs(
            "200 <- OPTIONS hello.shop*",
            "RFC 9112 section 3.2.4: it asks the server as a whole, which is the pod",
        ),
        row("target: asterisk of GET", target("*")),
        row("target: no slash", target("echo")),
        row("target: a fragment", target("/echo#part")).differs(
            "200 <- GET hello.shop/echo",
            "RFC 9112 section 3.2: a target has no fragment",
        ),
        row("target: a control character", target("/ec\u{1}ho")),
        row("target: a space", target("/ec ho")),
        row("target: bytes outside of ASCII", target("/échο")),
        row("target: a slash in %", target("/a%2Fb")),
        row("target: a zero byte in %", target("/a%00b")).differs(
            "200 <- GET hello.shop/a%00b",
            "RFC 9110 section 7.7: a proxy does not rewrite a path; the pod decides",
        ),
        row("target: a % alone", target("/a%zz")).differs(
            "200 <- GET hello.shop/a%zz",
            "RFC 9110 section 7.7: a proxy does not rewrite a path; the pod decides",
        ),
        row("target: dot segments", target("/a/../b")),
        row("target: above the root", target("/../b")).differs(
            "200 <- GET hello.shop/../b",
            "RFC 9110 section 7.7: a proxy does not rewrite a path; the pod decides",
        ),
        row("target: two slashes", target("//echo")),
        row("target: brackets and pipes", target("/a[1]|b")),
        row("target: a quote and brackets", target("/a\"<b>"))
            .differs("400", "RFC 3986 section 2: no URI has these characters"),
    ]
}

fn methods() -> Vec<Row> {
    let method = |method: &str| request(&format!("{method} /echo HTTP/1.1"), &[HOST], "");
    vec![
        row("method of its own", method("BREW")),
        row("method in small letters", method("get")).differs(
            "200 <- get hello.shop/echo",
            "RFC 9110 section 9.1: methods are case-sensitive, and pods may have their own",
        ),
        row("method with a hyphen", method("M-SEARCH")),
        row("method with a bracket", method("GE(T")),
        row("method: TRACE", method("TRACE")).differs(
            "200 <- TRACE hello.shop/echo",
            "RFC 9110 section 9.3.8: it is for the last server, the pod",
        ),
        row(
            "method: CONNECT",
            request("CONNECT hello.shop:80 HTTP/1.1", &[HOST], ""),
        ),
        row("method: CONNECT with a path", method("CONNECT")).differs(
            "400",
            "RFC 9110 section 9.3.6: its target is a host and a port",
        ),
        row("method: HEAD", method("HEAD")).pod("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        row(
            "method: DELETE with a body",
            request("DELETE /echo HTTP/1.1", &[HOST, LENGTH], "body"),
        ),
        row(
            "method: GET with a body",
            request("GET /echo HTTP/1.1", &[HOST, LENGTH], "body"),
        ),
    ]
}

fn lines() -> Vec<Row> {
    let field = |line: &str| get(&[HOST, line]);
    vec![
        row("line: HTTP/0.9", "GET /echo\r\n")
            .differs("400", "RFC 9112 section 2.3: a request has a version"),
        row("line: HTTP/1.2", request("GET /echo HTTP/1.2", &[HOST], ""))
            .differs("400", "1.0 and 1.1 are read; RFC 9112 knows no other"),
        row("line: HTTP/2.0", request("GET /echo HTTP/2.0", &[HOST], "")).differs(
            "400",
            "RFC 9110 section 15.6.6 leaves the choice of the status",
        ),
        row("line: http/1.1", request("GET /echo http/1.1", &[HOST], "")),
        row(
            "line: two spaces",
            request("GET  /echo HTTP/1.1", &[HOST], ""),
        )
        .differs("400", "RFC 9112 section 3: one space"),
        row("line: a tab", request("GET\t/echo\tHTTP/1.1", &[HOST], "")),
        row(
            "line: a space at the end",
            request("GET /echo HTTP/1.1 ", &[HOST], ""),
        )
        .differs("400", "RFC 9112 section 3: no space"),
        row("line: none before it", format!("\r\n{}", get(&[HOST]))),
        row("line: TLS", &b"\x16\x03\x01\x02\0\x01\0\x01"[..]).ends(),
        row("line: a word", "hello\r\n\r\n"),
        row("lines end with LF", get(&[HOST]).replace("\r\n", "\n")),
        row("field: a CR in it", field("X-A: 1\r2")),
        row("field: a zero byte in it", field("X-A: 1\0")),
        row("field: bytes outside of ASCII", field("X-A: é")),
        row(
            "field: a space before the colon",
            get(&["Host : hello.shop"]),
        ),
        row("field: folded", field("X-A: 1\r\n 2")),
        row("field: a space before the first", get(&[" X-A: 1", HOST])),
        row("field: no name", field(": 1")),
        row("field: no colon", field("X-A")).differs(
            "400",
            "RFC 9112 section 5: what is no field is not left out silently",
        ),
        row("field: a name that is none", field("X@(A: 1"))
            .differs("400", "RFC 9110 section 5.1: a name is a token"),
        row("field: an underscore", field("X_A: 1")),
    ]
}

fn sizes() -> Vec<Row> {
    let long = |size: usize| format!("X-Long: {}", "a".repeat(size));
    let many: Vec<String> = (0..120).map(|number| format!("X-{number}: 1")).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.push(HOST);
    vec![
        row("head of 7 kB", get(&[HOST, &long(7_000)])),
        row("head of 40 kB", get(&[HOST, &long(40_000)])).differs(
            "200 <- GET hello.shop/echo",
            "RFC 6585 section 5 leaves the limit open; it is 64 KiB",
        ),
        row("head of 100 kB", get(&[HOST, &long(100_000)])).differs("431", "RFC 6585 section 5"),
        row("head of 120 fields", get(&many))
            .differs("431", "RFC 6585 section 5; a hundred are taken"),
        row("target of 7 kB", target(&format!("/{}", "a".repeat(7_000)))),
        row(
            "target of 100 kB",
            target(&format!("/{}", "a".repeat(100_000))),
        )
        .differs(
            "431",
            "RFC 6585 section 5; the target counts among the head",
        ),
    ]
}
