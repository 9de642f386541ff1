//! What clients of HTTP/1.1 may do, and what they get (RFC 9112).

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
};

use crate::support::{
    client::Raw,
    world::{World, serving, serving_at},
};

/// A body that fits in no buffer on its way.
const LARGE: usize = 8 << 20;

/// What clients send, how many answers of 200 they get, and the bodies in them.
const ROWS: &[(&str, usize, &str)] = &[
    (
        "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        1,
        "",
    ),
    (
        "\r\n\r\nGET /echo HTTP/1.1\nHost: a\nConnection: close\n\n",
        1,
        "",
    ),
    (
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody",
        1,
        "body",
    ),
    (
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1;x=y\r\nb\r\n3\r\nody\r\n0\r\nX-Sum: 1\r\n\r\n",
        1,
        "body",
    ),
    (
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nonPOST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\ntw",
        2,
        "ontw",
    ),
    (
        "GET /echo HTTP/1.1\r\nHost: a\r\n\r\nGET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /echo HTTP/1.0\r\n\r\n",
        3,
        "",
    ),
];

/// The bodies of answers that tell their length, one behind the other.
fn bodies(mut answers: &str) -> String {
    let mut all = String::new();
    while let Some((head, rest)) = answers.split_once("\r\n\r\n") {
        let length = head.split_once("content-length: ").map_or("0", |(_, l)| l);
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let (body, rest) = rest.split_at(length);
        all += body;
        answers = rest;
    }
    all
}

#[tokio::test]
async fn requests_are_read_alike_however_they_come() {
    let (world, _backend) = serving().await;
    for (sent, count, meant) in ROWS {
        for piece in [sent.len(), 1, 7] {
            assert_read(&world, sent, piece, *count, meant).await;
        }
    }
}

/// Longer than what is read at once while a head is awaited.
#[tokio::test]
async fn a_long_head_is_read_alike_however_it_comes() {
    let (world, _backend) = serving().await;
    let long = "x".repeat(60_000);
    let post = |rest: &str| {
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\nContent-Length: 2\r\n{rest}")
    };
    let sent = post("\r\non") + &post("Connection: close\r\n\r\ntw");
    let head = post("\r\n").len();
    for piece in [sent.len(), 1_000, 8_192, head - 2, head - 1, head, head + 1] {
        assert_read(&world, &sent, piece, 2, "ontw").await;
    }
}

/// Asserts that what is `sent` by pieces of so many bytes gets so many answers of 200 with these bodies.
async fn assert_read(world: &World, sent: &str, piece: usize, count: usize, meant: &str) {
    let mut raw = Raw::connect(world.address).await;
    raw.0.set_nodelay(true).unwrap();
    for bytes in sent.as_bytes().chunks(piece) {
        raw.0.write_all(bytes).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answers = raw.read_all().await;
    let good = answers.matches("HTTP/1.1 200 OK\r\n").count();
    assert_eq!(
        (good, &*bodies(&answers)),
        (count, meant),
        "{} bytes by {piece}: {answers}",
        sent.len()
    );
}

#[tokio::test]
async fn what_is_no_request_is_told_why() {
    let (world, backend) = serving().await;
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: 1\r\n".repeat(100)
    );
    for (sent, status, reason, why) in [
        (
            "hello there\r\n\r\n",
            400,
            "bad-request",
            "its first line is none",
        ),
        (
            "GET / HTTP/3.0\r\n\r\n",
            400,
            "bad-request",
            "its version is not",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n",
            400,
            "bad-request",
            "a field",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            400,
            "bad-request",
            "Content-Length",
        ),
        (&*long, 431, "head-too-large", "longer than 64 KiB"),
        (&*many, 431, "head-too-large", "more than 100 fields"),
    ] {
        let mut raw = Raw::connect(world.address).await;
        raw.write(sent).await;
        let answer = raw.read_all().await;
        let told = [
            format!("HTTP/1.1 {status} "),
            format!("\r\nx-ebb-reason: {reason}\r\n"),
            "\r\nconnection: close\r\n".to_owned(),
            "\r\nx-request-id: ".to_owned(),
            "\r\ndate: ".to_owned(),
            why.to_owned(),
        ];
        for told in told {
            assert!(answer.contains(&told), "{told:?} is not in {answer}");
        }
    }
    assert!(backend.seen().is_empty());
    let refused = r#"ebb_activator_requests_total{code_class="4xx",reason="head-too-large"}"#;
    world.metric_is(refused, 2.0).await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_body_reaches_the_client() {
    let world = World::new().await;
    let mut raw = Raw::connect(world.activator.gateway).await;
    let head = format!("POST / HTTP/1.1\r\nHost: nobody\r\nContent-Length: {LARGE}\r\n\r\n");
    raw.write(&head).await;
    // It is answered long before this has come, and the answer is read afterwards.
    raw.write(&"x".repeat(LARGE)).await;
    let answer = raw.read_all().await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains("no Function has the host"), "{answer}");
}

#[tokio::test]
async fn a_short_body_that_nobody_wants_does_not_end_the_connection() {
    let world = World::new().await;
    let mut raw = Raw::connect(world.activator.gateway).await;
    let post = "POST / HTTP/1.1\r\nHost: nobody\r\nContent-Length: 4\r\n\r\nbody";
    for _ in 0..2 {
        raw.write(post).await;
        assert!(raw.read_to(")\n").await.starts_with("HTTP/1.1 404 "));
    }
    // Its body may come later than its answer.
    let (head, body) = post.split_at(post.len() - 4);
    raw.write(head).await;
    assert!(raw.read_to(")\n").await.starts_with("HTTP/1.1 404 "));
    raw.write(&format!("{body}{post}")).await;
    let answer = raw.read_to(")\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(!answer.contains("connection: close"), "{answer}");
    // Whoever waits to be asked for the body is not asked for one that nobody wants; whether it comes all the same cannot be known.
    raw.write(
        "POST / HTTP/1.1\r\nHost: nobody\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
    )
    .await;
    let answer = raw.read_all().await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_connection_that_will_not_be_kept_is_not_called_kept() {
    let world = World::new().await;
    for begun in [
        "Content-Length: 100000\r\n\r\nbegun",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nbegun",
        "Transfer-Encoding: chunked\r\n\r\nno chunk\r\n",
    ] {
        let mut raw = Raw::connect(world.activator.gateway).await;
        raw.write(&format!("POST / HTTP/1.1\r\nHost: nobody\r\n{begun}"))
            .await;
        let answer = raw.read_to(")\n").await;
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_both_bodies_frees_the_pod() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = serving_at(World::new().await, listener.local_addr().unwrap()).await;
    let mut raw = Raw::connect(world.address).await;
    let head = format!("POST / HTTP/1.1\r\nHost: hello.shop\r\nContent-Length: {LARGE}\r\n\r\n");
    raw.write(&head).await;
    let mut pod = loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        // One that only looks whether there is a pod says nothing.
        if stream.read(&mut [0; 1024]).await.unwrap() > 0 {
            break stream;
        }
    };
    let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun";
    pod.write_all(begun).await.unwrap();
    raw.read_to("\r\n\r\nbegun").await;
    world
        .metric_is("ebb_activator_requests_in_flight", 1.0)
        .await;
    drop(raw);
    world
        .metric_is("ebb_activator_requests_in_flight", 0.0)
        .await;
}

/// A pod that says something before its answer, and answers when it is let.
async fn hints(listener: TcpListener, go_on: Arc<Notify>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let go_on = Arc::clone(&go_on);
        tokio::spawn(async move {
            let mut head = [0; 1024];
            while stream.read(&mut head).await? > 0 {
                let hint = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: 1\r\n\r\n";
                stream.write_all(hint.as_bytes()).await?;
                go_on.notified().await;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer).await?;
            }
            std::io::Result::Ok(())
        });
    }
}

#[tokio::test]
async fn what_a_pod_says_before_its_answer_reaches_clients_that_know_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = serving_at(World::new().await, listener.local_addr().unwrap()).await;
    let go_on = Arc::new(Notify::new());
    tokio::spawn(hints(listener, Arc::clone(&go_on)));
    let mut raw = Raw::connect(world.address).await;
    for _ in 0..2 {
        raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let hint = raw.read_to("\r\n\r\n").await;
        assert_eq!(hint, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        go_on.notify_one();
        assert!(
            raw.read_to("\r\n\r\nok")
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );
    }
    // HTTP/1.0 has no such answers.
    let mut old = Raw::connect(world.address).await;
    old.write("GET / HTTP/1.0\r\n\r\n").await;
    go_on.notify_one();
    assert!(old.read_all().await.starts_with("HTTP/1.1 200 OK\r\n"));
}
