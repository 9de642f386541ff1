//! What a proxy must do right.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::support::{
    SOON,
    backend::Backend,
    client::{self, Raw},
    eventually,
    world::{World, serving, serving_at},
};

#[tokio::test]
async fn one_connection_to_the_pod_serves_request_after_request() {
    let (world, backend) = serving().await;
    let mut connection = client::connect(world.address).await;
    for _ in 0..50 {
        let answer = client::on(&mut connection, client::request("/hello")).await;
        assert_eq!(answer.text(), "a");
    }
    assert_eq!(backend.seen().len(), 50);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_pod_closes_costs_no_request() {
    let (world, backend) = serving().await;
    for round in 1..=20 {
        assert_eq!(
            client::get(world.address, "/hello").await.status,
            StatusCode::OK
        );
        backend.hang_up();
        assert_eq!(backend.seen().len(), round);
    }
}

/// A pod that answers the first request of a connection and closes it without an answer when the second has come.
async fn closes_on_second(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await
                .unwrap();
            let _ = stream.read(&mut buffer).await;
        });
    }
}

#[tokio::test]
async fn what_may_have_been_read_is_sent_again_only_if_that_does_no_harm() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = serving_at(World::new().await, listener.local_addr().unwrap()).await;
    tokio::spawn(closes_on_second(listener));
    for _ in 0..5 {
        assert_eq!(client::get(world.address, "/").await.status, StatusCode::OK);
    }
    let post = || {
        let post = Request::post("/").header("host", "hello.shop");
        post.body(Full::new(Bytes::from_static(b"order"))).unwrap()
    };
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(client::send(world.address, post()).await);
    }
    let failed = statuses
        .iter()
        .find(|a| a.status == StatusCode::BAD_GATEWAY)
        .unwrap();
    assert_eq!(failed.header("x-ebb-reason"), "pod-failed");
}

/// A pod that answers the first request of a connection, and begins to answer the second one. Counts requests.
async fn breaks_on_second(listener: TcpListener, begun: &'static str, count: Arc<AtomicUsize>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let count = Arc::clone(&count);
        tokio::spawn(async move {
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            for answer in [answer, begun] {
                if stream.read(&mut [0; 4096]).await.unwrap() > 0 {
                    count.fetch_add(1, Ordering::SeqCst);
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
    }
}

#[tokio::test]
async fn a_request_that_a_pod_has_begun_to_answer_is_not_sent_again() {
    for begun in [
        "HTTP/1.1 200 OK\r\nContent-",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let world = serving_at(World::new().await, listener.local_addr().unwrap()).await;
        let count = Arc::new(AtomicUsize::new(0));
        tokio::spawn(breaks_on_second(listener, begun, Arc::clone(&count)));
        // There may be a connection of a probe, too, whose first request is another one.
        let (mut sent, mut answer) = (0, String::new());
        while !answer.contains("HTTP/1.1 502 ") {
            assert!(sent < 5, "{answer}");
            let mut raw = Raw::connect(world.address).await;
            raw.write("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .await;
            answer = raw.read_all().await;
            sent += 1;
        }
        assert_eq!(count.load(Ordering::SeqCst), sent, "{begun}");
    }
}

#[tokio::test]
async fn answers_without_a_body_and_with_trailers_pass() {
    let (world, backend) = serving().await;
    let mut request = client::request("/hello");
    *request.method_mut() = http::Method::HEAD;
    let head = client::send(world.address, request).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (StatusCode::OK, "1")
    );
    assert!(head.body.is_empty());
    let none = client::get(world.address, "/none").await;
    assert_eq!(
        (none.status, none.header("content-length")),
        (StatusCode::NO_CONTENT, "")
    );
    assert_eq!(
        client::get(world.address, "/same").await.status,
        StatusCode::NOT_MODIFIED
    );

    let mut request = client::request("/trailers");
    request
        .headers_mut()
        .insert("te", "trailers".parse().unwrap());
    let answer = client::send(world.address, request).await;
    assert_eq!(answer.text(), "data");
    assert_eq!(answer.trailers.unwrap()["x-sum"], "42");

    let mut raw = Raw::connect(world.address).await;
    raw.write(
        "POST /echo HTTP/1.1\r\nHost: hello.shop\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nConnection: close\r\n\r\n\
         4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n",
    )
    .await;
    assert!(raw.read_all().await.ends_with("body"));
    let seen = backend.seen().pop().unwrap();
    assert_eq!(seen.trailers.unwrap()["x-sum"], "1");
    assert_eq!(seen.body, "body");
}

#[tokio::test]
async fn a_client_that_expects_to_be_asked_for_its_body_is_asked_when_there_is_a_pod() {
    let world = World::new().await;
    let mut raw = Raw::connect(world.address).await;
    raw.write(
        "POST /echo HTTP/1.1\r\nHost: hello.shop\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
    )
    .await;
    world.held(1).await;
    let backend = Backend::start("a");
    let _world = serving_at(world, backend.address).await;
    assert_eq!(
        raw.read_to("\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    raw.write("body").await;
    let answer = raw.read_all().await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("body"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_old_client_is_served() {
    let (world, _backend) = serving().await;
    let mut raw = Raw::connect(world.address).await;
    raw.write("GET /gate HTTP/1.0\r\n\r\n").await;
    raw.read_to("begin ").await;
    _backend.open();
    assert_eq!(raw.read_all().await, "end");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_frees_the_pod() {
    let (world, backend) = serving().await;
    for (path, seen) in [("/gate", 1), ("/late", 2)] {
        let mut raw = Raw::connect(world.address).await;
        raw.write(&format!("GET {path} HTTP/1.1\r\nHost: hello.shop\r\n\r\n"))
            .await;
        eventually("the pod has it", async || {
            (backend.seen().len() == seen).then_some(())
        })
        .await;
        drop(raw);
        world
            .metric_is("ebb_activator_requests_in_flight", 0.0)
            .await;
    }
}

#[tokio::test]
async fn unused_connections_to_pods_are_closed_before_the_pods_close_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = serving_at(World::new().await, listener.local_addr().unwrap()).await;
    let pod = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        let answered = tokio::time::Instant::now();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
        answered.elapsed()
    });
    client::get(world.address, "/").await;
    let unused = pod.await.unwrap();
    assert!(unused < Duration::from_millis(5_500), "{unused:?}");
}

/// Bytes of a body that no buffer on the way takes as a whole.
const LARGE: usize = 8 << 20;

#[tokio::test]
async fn a_pod_that_answers_first_gets_the_whole_request() {
    for field in ["Connection: keep-alive", "Connection: close"] {
        answers_first(field).await;
    }
}

async fn answers_first(field: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = serving_at(World::new().await, listener.local_addr().unwrap()).await;
    let pod = tokio::spawn(async move {
        // The first connection may be one that only looks whether there is a pod.
        let mut stream = loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            if !head.is_empty() {
                break stream;
            }
        };
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
        let mut body = vec![0; LARGE];
        stream.read_exact(&mut body).await.map(|read| (read, body))
    });
    let mut raw = Raw::connect(world.address).await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: hello.shop\r\nContent-Length: {LARGE}\r\n{field}\r\n\r\n"
    );
    raw.write(&head).await;
    raw.write(&"x".repeat(LARGE / 2)).await;
    assert!(raw.read_to("\r\n\r\nok").await.starts_with("HTTP/1.1 200"));
    raw.write(&"x".repeat(LARGE / 2)).await;
    let got = tokio::time::timeout(SOON, pod).await.unwrap().unwrap();
    assert!(got.unwrap().1.iter().all(|byte| *byte == b'x'));
}
