//! What pods of HTTP/1.1 may answer, and what not (RFC 9112): each answer as one piece and byte by byte.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    client,
    world::{World, serving_at},
};

/// What a pod answers, and what the client gets of it.
struct Row {
    what: &'static str,
    answer: &'static str,
    /// Whether the pod closes the connection then.
    closes: bool,
    status: u16,
    /// `None`: it breaks off.
    body: Option<&'static str>,
    /// Whether the next request goes over the same connection.
    kept: bool,
}

const GOOD: Row = Row {
    what: "",
    answer: "",
    closes: false,
    status: 200,
    body: Some("ok"),
    kept: true,
};

const BAD: Row = Row {
    closes: true,
    status: 502,
    body: None,
    kept: false,
    ..GOOD
};

const ROWS: &[Row] = &[
    Row {
        what: "a length",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ..GOOD
    },
    Row {
        what: "a length twice",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        ..GOOD
    },
    Row {
        what: "a length as a list",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        ..GOOD
    },
    Row {
        what: "no body",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        body: Some(""),
        ..GOOD
    },
    Row {
        what: "bare line feeds",
        answer: "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        ..GOOD
    },
    Row {
        what: "no reason",
        answer: "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
        ..GOOD
    },
    Row {
        what: "an interim answer before",
        answer: "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ..GOOD
    },
    Row {
        what: "chunks",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        ..GOOD
    },
    Row {
        what: "extensions of chunks",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n0002 ;a=\"b\"\r\nok\r\n0;z\r\n\r\n",
        ..GOOD
    },
    Row {
        what: "trailers",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
        ..GOOD
    },
    Row {
        what: "no content",
        answer: "HTTP/1.1 204 No Content\r\n\r\n",
        status: 204,
        body: Some(""),
        ..GOOD
    },
    Row {
        what: "not modified, with a length",
        answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        status: 304,
        body: Some(""),
        ..GOOD
    },
    Row {
        what: "the end by closing",
        answer: "HTTP/1.1 200 OK\r\n\r\nok",
        closes: true,
        kept: false,
        ..GOOD
    },
    Row {
        what: "it wants to close",
        answer: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        kept: false,
        ..GOOD
    },
    Row {
        what: "HTTP/1.0",
        answer: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        kept: false,
        ..GOOD
    },
    Row {
        what: "HTTP/1.0 that keeps",
        answer: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        ..GOOD
    },
    Row {
        what: "more than the length",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad",
        kept: false,
        ..GOOD
    },
    Row {
        what: "less than the length",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        closes: true,
        body: None,
        kept: false,
        ..GOOD
    },
    Row {
        what: "a length and nothing else",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
        closes: true,
        body: None,
        kept: false,
        ..GOOD
    },
    Row {
        what: "a coding and nothing else",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        closes: true,
        body: None,
        kept: false,
        ..GOOD
    },
    Row {
        what: "chunks without an end",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        closes: true,
        body: None,
        kept: false,
        ..GOOD
    },
    Row {
        what: "a chunk longer than it says",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n",
        body: None,
        kept: false,
        ..GOOD
    },
    Row {
        what: "a chunk of no size",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n",
        body: None,
        kept: false,
        ..GOOD
    },
    Row {
        what: "a chunk of a negative size",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
        body: None,
        kept: false,
        ..GOOD
    },
    Row {
        what: "a chunk of 65 bits",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nok\r\n0\r\n\r\n",
        body: None,
        kept: false,
        ..GOOD
    },
    Row {
        what: "a length and chunks",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        kept: false,
        ..GOOD
    },
    Row {
        what: "two lengths",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        ..BAD
    },
    Row {
        what: "a signed length",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        ..BAD
    },
    Row {
        what: "no coding",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
        ..GOOD
    },
    Row {
        what: "another coding",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ..BAD
    },
    Row {
        what: "chunks of HTTP/1.0",
        answer: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ..BAD
    },
    Row {
        what: "a folded field",
        answer: "HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok",
        ..BAD
    },
    Row {
        what: "a space after a name",
        answer: "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok",
        ..BAD
    },
    Row {
        what: "no HTTP",
        answer: "220 mail.shop ESMTP\r\n",
        ..BAD
    },
    Row {
        what: "a status of two digits",
        answer: "HTTP/1.1 20 OK\r\n\r\n",
        ..BAD
    },
    Row {
        what: "a switch that nobody wants",
        answer: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ..BAD
    },
    Row {
        what: "only interim answers",
        answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        ..BAD
    },
    Row {
        what: "nothing",
        answer: "",
        ..BAD
    },
];

/// A pod that answers `/N` with row N, `/N/slowly` byte by byte, and anything else with "ok". Its answer to the latter counts its connections.
async fn pod(listener: TcpListener) {
    let count = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let count = Arc::clone(&count);
        tokio::spawn(async move {
            let number = count.fetch_add(1, Ordering::Relaxed);
            // It is the activator's matter when the connection ends.
            let _ = answer(stream, number).await;
        });
    }
}

async fn answer(mut stream: TcpStream, number: usize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        let request = String::from_utf8(request).unwrap();
        let path = request.split(' ').nth(1).unwrap().trim_start_matches('/');
        let (row, slowly) = match path.strip_suffix("/slowly") {
            Some(row) => (row, true),
            None => (path, false),
        };
        let Ok(row) = row.parse::<usize>() else {
            let body = number.to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await?;
            continue;
        };
        for piece in ROWS[row]
            .answer
            .as_bytes()
            .chunks(if slowly { 1 } else { usize::MAX })
        {
            stream.write_all(piece).await?;
            tokio::task::yield_now().await;
        }
        if ROWS[row].closes {
            return Ok(());
        }
    }
}

/// A world whose pod answers so. One core, so that all requests share the connections to it.
async fn scripted() -> World {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(pod(listener));
    serving_at(World::with(&["--cores=1"], |_| ()).await, address).await
}

/// Status and body of an answer, as far as they come.
async fn got(world: &World, method: Method, path: &str) -> (Option<u16>, Option<Bytes>) {
    let mut connection = client::connect(world.address).await;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "hello.shop");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let Ok(answer) = connection.send_request(request).await else {
        return (None, None);
    };
    let status = Some(answer.status().as_u16());
    (
        status,
        answer.collect().await.ok().map(|body| body.to_bytes()),
    )
}

#[tokio::test]
async fn are_read_as_they_are_meant() {
    let world = scripted().await;
    let mut wrong = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        for slowly in ["", "/slowly"] {
            let before = client::get(world.address, "/which").await;
            let path = format!("/{number}{slowly}");
            let (status, body) = got(&world, Method::GET, &path).await;
            let after = client::get(world.address, "/which").await;
            let as_meant = match (row.body, row.status) {
                // What the activator says in its place is its own.
                (None, 502) => status == Some(502),
                (None, told) => status == Some(told) && body.is_none(),
                (meant, told) => {
                    status == Some(told) && body.as_deref() == meant.map(str::as_bytes)
                }
            };
            if !as_meant {
                wrong.push(format!("{}{slowly}: {status:?} {body:?}", row.what));
            }
            if (before.text() == after.text()) != row.kept {
                let (before, after) = (before.text(), after.text());
                wrong.push(format!(
                    "{}{slowly}: connections {before}, {after}",
                    row.what
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn to_a_head_have_no_body_whatever_they_say() {
    let world = scripted().await;
    for (number, row) in ROWS.iter().enumerate() {
        // Those that end with their head, which may be a whole answer to this.
        if row.status == 200 && row.answer.ends_with("\r\n\r\n") && !row.answer.contains("0\r\n") {
            let (status, body) = got(&world, Method::HEAD, &format!("/{number}")).await;
            assert_eq!(
                (status, body),
                (Some(200), Some(Bytes::new())),
                "{}",
                row.what
            );
        }
    }
}
