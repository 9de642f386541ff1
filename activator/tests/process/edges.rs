//! The edges of HTTP/1.1: what is answered, and what a pod gets to see of it (RFC 9110, RFC 9112).

use crate::support::{backend::Seen, client::Raw, world::serving};

/// A request as it is written; all of them ask for `/echo`.
struct Row {
    what: &'static str,
    raw: String,
    /// The statuses of all answers until the connection is closed.
    answers: &'static [u16],
    /// Requests that reach the pod whole.
    reach: usize,
}

/// A request of `method` with these header lines and this body, after which the client wants the connection closed.
fn request(line: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{line}\r\n");
    for header in headers {
        text += &format!("{header}\r\n");
    }
    text + "Connection: close\r\n\r\n" + body
}

const HOST: &str = "Host: hello.shop";
const GET: &str = "GET /echo HTTP/1.1";
const POST: &str = "POST /echo HTTP/1.1";
const CHUNKED: &str = "Transfer-Encoding: chunked";

fn good(what: &'static str, raw: String) -> Row {
    Row {
        what,
        raw,
        answers: &[200],
        reach: 1,
    }
}

fn bad(what: &'static str, raw: String, answers: &'static [u16]) -> Row {
    Row {
        what,
        raw,
        answers,
        reach: 0,
    }
}

/// Sends each row on a connection of its own and compares.
async fn check(rows: Vec<Row>) -> Vec<Seen> {
    let (world, backend) = serving().await;
    let mut all = Vec::new();
    let mut wrong = Vec::new();
    for row in rows {
        let mut raw = Raw::connect(world.address).await;
        raw.write(&row.raw).await;
        let answer = raw.read_all().await;
        let statuses: Vec<u16> = answer
            .split("HTTP/1.")
            .filter_map(|part| part.get(2..5)?.parse().ok())
            .collect();
        let seen = backend.seen().split_off(all.len());
        let whole = seen.iter().filter(|seen| &seen.body[..] != b"(broken off)");
        let whole = whole.count();
        if statuses != row.answers || whole != row.reach {
            let what = row.what;
            wrong.push(format!(
                "{what}: {statuses:?}, {whole} reached the pod: {answer}"
            ));
        }
        all.extend(seen);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    all
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
async fn hosts() {
    let seen = check(vec![
        good("plain", request(GET, &[HOST], "")),
        good("with a port", request(GET, &["Host: hello.shop:80"], "")),
        good("IPv6", request(GET, &["Host: [::1]:80"], "")),
        good("empty", request(GET, &["Host:"], "")),
        good("none in HTTP/1.0", request("GET /echo HTTP/1.0", &[], "")),
        good(
            "absolute target",
            request("GET http://real/echo HTTP/1.1", &[HOST], ""),
        ),
        good(
            "absolute target without a path",
            request("GET http://real#/echo HTTP/1.1", &[HOST], ""),
        ),
        bad("none in HTTP/1.1", request(GET, &[], ""), &[400]),
        bad(
            "none beside an absolute target",
            request("GET http://real/echo HTTP/1.1", &[], ""),
            &[400],
        ),
        bad(
            "two beside an absolute target",
            request("GET http://real/echo HTTP/1.1", &[HOST, HOST], ""),
            &[400],
        ),
        bad(
            "a user in an absolute target",
            request("GET http://me@real/echo HTTP/1.1", &[HOST], ""),
            &[400],
        ),
        bad(
            "a target that is a host alone",
            request("GET real HTTP/1.1", &[HOST], ""),
            &[400],
        ),
        bad(
            "a target that is for OPTIONS alone",
            request("GET * HTTP/1.1", &[HOST], ""),
            &[400],
        ),
        bad("two", request(GET, &[HOST, "Host: other"], ""), &[400]),
        bad(
            "a space in it",
            request(GET, &["Host: hello shop"], ""),
            &[400],
        ),
        bad(
            "a path in it",
            request(GET, &["Host: hello/shop"], ""),
            &[400],
        ),
        bad(
            "a user in it",
            request(GET, &["Host: me@hello"], ""),
            &[400],
        ),
        bad(
            "a port that is none",
            request(GET, &["Host: hello:shop"], ""),
            &[400],
        ),
        bad(
            "a user in the target",
            request("GET http://me@hello.shop/echo HTTP/1.1", &[HOST], ""),
            &[400],
        ),
        bad(
            "a target that is no more than a host",
            request("GET hello.shop HTTP/1.1", &[HOST], ""),
            &[400],
        ),
        bad(
            "the whole server, but no OPTIONS",
            request("GET * HTTP/1.1", &[HOST], ""),
            &[400],
        ),
    ])
    .await;
    let hosts: Vec<_> = seen
        .iter()
        .map(|s| s.headers["host"].to_str().unwrap())
        .collect();
    assert_eq!(
        hosts,
        [
            "hello.shop",
            "hello.shop:80",
            "[::1]:80",
            "",
            "hello.shop",
            "real",
            "real"
        ]
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
async fn lengths_and_codings() {
    let chunks = "4\r\nbody\r\n0\r\n\r\n";
    let seen = check(vec![
        good(
            "length",
            request(POST, &[HOST, "Content-Length: 4"], "body"),
        ),
        good(
            "the same length twice",
            request(
                POST,
                &[HOST, "Content-Length: 4", "Content-Length: 4"],
                "body",
            ),
        ),
        good("chunks", request(POST, &[HOST, CHUNKED], chunks)),
        good(
            "chunks with an extension",
            request(POST, &[HOST, CHUNKED], "4;a=b\r\nbody\r\n0\r\n\r\n"),
        ),
        good(
            "chunks with a trailer",
            request(POST, &[HOST, CHUNKED], "4\r\nbody\r\n0\r\nx: y\r\n\r\n"),
        ),
        bad(
            "two lengths",
            request(
                POST,
                &[HOST, "Content-Length: 4", "Content-Length: 5"],
                "body",
            ),
            &[400],
        ),
        bad(
            "a list of lengths",
            request(POST, &[HOST, "Content-Length: 4, 5"], "body"),
            &[400],
        ),
        bad(
            "a sign",
            request(POST, &[HOST, "Content-Length: +4"], "body"),
            &[400],
        ),
        bad(
            "negative",
            request(POST, &[HOST, "Content-Length: -4"], "body"),
            &[400],
        ),
        bad(
            "hexadecimal",
            request(POST, &[HOST, "Content-Length: 0x4"], "body"),
            &[400],
        ),
        bad(
            "too large",
            request(
                POST,
                &[HOST, "Content-Length: 99999999999999999999"],
                "body",
            ),
            &[400],
        ),
        bad(
            "another coding",
            request(POST, &[HOST, "Transfer-Encoding: gzip"], chunks),
            &[400],
        ),
        bad(
            "chunked first",
            request(POST, &[HOST, "Transfer-Encoding: chunked, gzip"], chunks),
            &[400],
        ),
        bad(
            "another coding before chunked",
            request(POST, &[HOST, "Transfer-Encoding: gzip, chunked"], chunks),
            &[400],
        ),
        bad(
            "chunked twice",
            request(POST, &[HOST, "Transfer-Encoding: chunked, chunked"], chunks),
            &[400],
        ),
        bad(
            "chunked in two lines",
            request(POST, &[HOST, CHUNKED, CHUNKED], chunks),
            &[400],
        ),
        bad(
            "identity before chunked",
            request(
                POST,
                &[HOST, "Transfer-Encoding: identity", CHUNKED],
                chunks,
            ),
            &[400],
        ),
        bad(
            "hidden coding",
            request(POST, &[HOST, "Transfer-Encoding: xchunked"], chunks),
            &[400],
        ),
        bad(
            "a coding in HTTP/1.0",
            request("POST /echo HTTP/1.0", &[HOST, CHUNKED], chunks),
            &[400],
        ),
        bad(
            "a chunk without a size",
            request(POST, &[HOST, CHUNKED], "zz\r\nbody\r\n0\r\n\r\n"),
            &[400],
        ),
        bad(
            "a negative chunk",
            request(POST, &[HOST, CHUNKED], "-4\r\nbody\r\n0\r\n\r\n"),
            &[400],
        ),
        bad(
            "a chunk that is longer than said",
            request(POST, &[HOST, CHUNKED], "2\r\nbody\r\n0\r\n\r\n"),
            &[400],
        ),
        bad(
            "a chunk of enormous size",
            request(
                POST,
                &[HOST, CHUNKED],
                "fffffffffffffffff\r\nbody\r\n0\r\n\r\n",
            ),
            &[400],
        ),
    ])
    .await;
    let mut whole = seen.iter().filter(|s| &s.body[..] != b"(broken off)");
    assert!(whole.all(|s| &s.body[..] == b"body"));
    assert!(
        seen.iter()
            .all(|s| s.headers.get_all("content-length").iter().count() <= 1)
    );
}

#[tokio::test]
async fn lines_and_fields() {
    let long = format!("X-Long: {}", "a".repeat(70_000));
    let longest = format!("X-Long: {}", "a".repeat(40_000));
    let many: Vec<String> = (0..120).map(|n| format!("X-{n}: 1")).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.push(HOST);
    let target = format!("GET /{} HTTP/1.1", "a".repeat(70_000));
    let seen = check(vec![
        good("40 kB of headers", request(GET, &[HOST, &longest], "")),
        bad("70 kB of headers", request(GET, &[HOST, &long], ""), &[431]),
        bad("120 fields", request(GET, &many, ""), &[431]),
        bad("a target of 70 kB", request(&target, &[HOST], ""), &[431]),
        good(
            "a method of its own",
            request("BREW /echo HTTP/1.1", &[HOST], ""),
        ),
        good(
            "a method that begins as HTTP/2 does",
            request("PRINT /echo HTTP/1.1", &[HOST], ""),
        ),
        bad(
            "CONNECT",
            request("CONNECT hello.shop:80 HTTP/1.1", &[HOST], ""),
            &[400],
        ),
        bad("a line that is none", "GET\r\n\r\n".to_owned(), &[400]),
        bad(
            "another protocol",
            request("GET /echo HTTP/3.0", &[HOST], ""),
            &[400],
        ),
        bad(
            "a small version",
            request("GET /echo http/1.1", &[HOST], ""),
            &[400],
        ),
        bad(
            "a space before the colon",
            request(GET, &["Host : hello.shop"], ""),
            &[400],
        ),
        bad(
            "a folded line",
            request(GET, &[HOST, "X-A: 1\r\n 2"], ""),
            &[400],
        ),
        bad("a zero byte", request(GET, &[HOST, "X-A: \0"], ""), &[400]),
        bad(
            "a name that is none",
            request(GET, &[HOST, "X@(A: 1"], ""),
            &[400],
        ),
        bad(
            "TLS",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".to_owned(),
            &[400],
        ),
        Row {
            what: "two requests at once",
            raw: format!("{GET}\r\n{HOST}\r\n\r\n{}", request(GET, &[HOST], "")),
            answers: &[200, 200],
            reach: 2,
        },
        Row {
            what: "100-continue",
            raw: request(
                POST,
                &[HOST, "Expect: 100-continue", "Content-Length: 4"],
                "body",
            ),
            answers: &[100, 200],
            reach: 1,
        },
    ])
    .await;
    assert!(seen.iter().all(|s| !s.headers.contains_key("expect")));
}
