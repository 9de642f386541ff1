//! The access log: what a process writes for each request.

use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use serde_json::Value;

use crate::support::{
    backend::Backend,
    client::{self, Raw},
    eventually,
    operator::{Operator, wake},
    process::Process,
};
use crate::upgrade::{ask, carries, echo, head as read_head};

/// A request with an ID.
fn request(path: &str, id: &'static str) -> Request<Empty<bytes::Bytes>> {
    let mut request = client::request(path);
    let id = HeaderValue::from_static(id);
    request.headers_mut().insert("x-request-id", id);
    request
}

fn is_access(line: &Value) -> bool {
    line["target"] == "access"
}

async fn line_of(process: &Process, id: &str) -> Value {
    let of = |line: &Value| is_access(line) && line["request"] == id;
    let line = process.logs(&format!("the line of {id}"), of).await;
    assert_eq!(process.logged(of).len(), 1, "one line");
    line
}

#[tokio::test]
async fn each_request_has_a_line_when_it_ends() {
    let mut process = Process::start(&["--access-log=1", "--log=warn,activator=info"]).await;
    let backend = Backend::start("a");
    let held = request("/hello?token=secret", "held");
    let held = tokio::spawn(client::send(process.address, held));
    process.operator.hears("a wake", wake).await;
    process.serves(&backend).await;
    held.await.unwrap();
    let line = line_of(&process, "held").await;
    for (field, value) in [
        ("function", "shop/hello"),
        ("revision", "hello-1"),
        ("pod", "a"),
        ("method", "GET"),
        ("path", "/hello"),
        ("client", "127.0.0.1"),
        ("protocol", "HTTP/1.1"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!((&line["status"], &line["bytes"]), (&200.into(), &1.into()));
    let (held, whole) = (line["held_us"].as_u64(), line["duration_us"].as_u64());
    assert!(held > Some(0) && held <= whole, "{line}");
    assert!(line["reason"].is_null() && line["cut"].is_null(), "{line}");

    client::send(process.address, request("/drip", "drip")).await;
    let line = line_of(&process, "drip").await;
    assert_eq!(line["bytes"], 28, "all pieces");
    assert_eq!(line["held_us"], 0);
    assert!(line["duration_us"].as_u64() > Some(500_000), "{line}");
}

#[tokio::test]
async fn requests_that_do_not_end_well_say_why() {
    let mut process = Process::start(&["--access-log=1"]).await;
    let mut nobody = request("/x", "nobody");
    let host = HeaderValue::from_static("nobody");
    nobody.headers_mut().insert("host", host);
    let answer = client::send(process.gateway, nobody).await;
    let line = line_of(&process, "nobody").await;
    assert_eq!(line["reason"], "unknown-host");
    assert_eq!(line["status"], 404);
    assert_eq!(line["bytes"], answer.body.len());
    assert!(line["function"].is_null(), "{line}");

    let mut leaves = Raw::connect(process.address).await;
    let head = |path, id| format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
    leaves.write(&head("/", "leaves")).await;
    process.operator.hears("a wake", wake).await;
    drop(leaves);
    let line = line_of(&process, "leaves").await;
    assert_eq!(line["cut"], "client");
    assert!(
        line["status"].is_null() && line["held_us"].as_u64() > Some(0),
        "{line}"
    );

    let backend = Backend::start("a");
    process.serves(&backend).await;
    let mut stops = Raw::connect(process.address).await;
    stops.write(&head("/flood", "stops")).await;
    stops.read_to("\r\n\r\n").await;
    drop(stops);
    let line = line_of(&process, "stops").await;
    assert_eq!(
        (&line["cut"], &line["status"]),
        (&"client".into(), &200.into())
    );
}

#[tokio::test]
async fn of_the_others_only_ebbs_own_errors_have_a_line() {
    let mut process = Process::start(&["--access-log=0", "--max-held-per-function=1"]).await;
    let held = tokio::spawn(client::send(process.address, request("/", "held")));
    process.operator.hears("a wake", wake).await;
    let refused = client::send(process.address, request("/", "refused")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = line_of(&process, "refused").await;
    assert_eq!(line["reason"], "queue-full");
    assert_eq!(line["function"], "shop/hello");
    let backend = Backend::start("a");
    process.serves(&backend).await;
    held.await.unwrap();
    // A later line of this is there, so one of the former would be, too.
    backend.stop();
    let waits = tokio::spawn(client::send(process.address, request("/", "waits")));
    eventually("it waits", async || {
        (process.metric("ebb_activator_requests_held ").await == 1.0).then_some(())
    })
    .await;
    client::send(process.address, request("/", "last")).await;
    line_of(&process, "last").await;
    assert_eq!(process.logged(is_access).len(), 2);
    waits.abort();
}

#[tokio::test]
async fn an_upgraded_connection_has_its_line_at_its_end() {
    let mut process = Process::start(&["--access-log=1"]).await;
    process.serves_at(echo().await).await;
    let mut stream = ask(process.address).await;
    read_head(&mut stream).await;
    carries(&mut stream, "12345").await;
    assert!(process.logged(is_access).is_empty());
    drop(stream);
    let line = process.logs("its line", is_access).await;
    assert_eq!((&line["status"], &line["bytes"]), (&101.into(), &5.into()));
    assert_eq!(line["path"], "/socket");
}

#[tokio::test]
async fn without_the_flag_there_is_no_line() {
    let process = Process::start(&["--max-held-per-function=0"]).await;
    let refused = client::send(process.address, request("/", "refused")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    // What is logged comes in order.
    let stranger = Operator::try_connect(process.control, "wrong").await;
    assert!(stranger.is_err());
    let later = |line: &Value| line["message"] == "a control stream was refused: wrong token";
    process.logs("the next line", later).await;
    assert!(process.logged(is_access).is_empty());
}
