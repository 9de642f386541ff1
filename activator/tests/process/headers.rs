//! What pods and clients are told in headers.

use http::HeaderValue;

use crate::support::{
    client::{self, Raw},
    world::{World, serving, serving_at},
};

#[tokio::test]
async fn pods_see_the_host_and_where_the_request_comes_from() {
    let (world, backend) = serving().await;
    let mut request = client::request("/a/b?c=d");
    let headers = request.headers_mut();
    headers.insert("x-forwarded-for", "9.9.9.9".parse().unwrap());
    headers.insert("connection", "x-private".parse().unwrap());
    headers.insert("x-private", "1".parse().unwrap());
    client::send(world.address, request).await;
    let seen = backend.seen().pop().unwrap();
    assert_eq!(seen.method, http::Method::GET);
    assert_eq!(seen.uri, "/a/b?c=d");
    assert_eq!(seen.headers["host"], "hello.shop");
    assert_eq!(seen.headers["x-forwarded-for"], "9.9.9.9, 127.0.0.1");
    assert_eq!(seen.headers["x-forwarded-host"], "hello.shop");
    assert_eq!(seen.headers["x-forwarded-proto"], "http");
    assert!(!seen.headers.contains_key("x-private"));
}

#[tokio::test]
async fn what_an_untrusted_client_claims_is_dropped() {
    let world = World::with(&["--trusted-proxies=10.0.0.0/8"], |_| ()).await;
    let backend = crate::support::backend::Backend::start("a");
    let world = serving_at(world, backend.address).await;
    let mut request = client::request("/");
    let headers = request.headers_mut();
    headers.insert("x-forwarded-for", HeaderValue::from_static("9.9.9.9"));
    headers.insert("forwarded", HeaderValue::from_static("for=9.9.9.9"));
    client::send(world.address, request).await;
    let seen = backend.seen().pop().unwrap();
    assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
    let forwarded = "for=127.0.0.1;host=\"hello.shop\";proto=http";
    assert_eq!(seen.headers["forwarded"], forwarded);
}

#[tokio::test]
async fn a_request_has_an_id_and_a_trace_wherever_it_goes() {
    let (world, backend) = serving().await;
    let answer = client::get(world.address, "/").await;
    let seen = backend.seen().pop().unwrap();
    assert_eq!(answer.header("x-request-id").len(), 32);
    assert_eq!(seen.headers["x-request-id"], answer.headers["x-request-id"]);
    assert_eq!(seen.headers["traceparent"].len(), 55);

    let mut request = client::request("/");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = request.headers_mut();
    headers.insert("x-request-id", HeaderValue::from_static("mine-1"));
    headers.insert("traceparent", HeaderValue::from_static(trace));
    let answer = client::send(world.address, request).await;
    let seen = backend.seen().pop().unwrap();
    assert_eq!(answer.header("x-request-id"), "mine-1");
    assert_eq!(seen.headers["x-request-id"], "mine-1");
    assert_eq!(seen.headers["traceparent"], trace);

    let mut lost = client::request("/");
    let headers = lost.headers_mut();
    headers.insert("host", HeaderValue::from_static("nobody"));
    headers.insert("x-request-id", HeaderValue::from_static("mine-2"));
    let refused = client::send(world.activator.gateway, lost).await;
    assert_eq!(refused.header("x-request-id"), "mine-2");
    assert!(
        refused.text().ends_with("(request mine-2)\n"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn of_two_lengths_one_is_removed_and_nothing_is_smuggled() {
    let (world, backend) = serving().await;
    for headers in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ] {
        let mut raw = Raw::connect(world.address).await;
        raw.write(&format!(
            "POST /echo HTTP/1.1\r\nHost: hello.shop\r\n{headers}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: hello.shop\r\nConnection: close\r\n\r\n"
        ))
        .await;
        let answer = raw.read_all().await;
        let with_length = backend
            .seen()
            .iter()
            .any(|seen| seen.uri == "/echo" && seen.headers.contains_key("content-length"));
        assert!(!with_length, "{headers}");
        // Nothing after it is taken for a request (RFC 9112 section 6.3).
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(backend.seen().iter().all(|seen| seen.uri != "/smuggled"));
    }
}
