//! What an activator does when its memory runs out.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet};

use crate::support::{
    backend::Backend,
    client::{self, Raw},
    process::Process,
};

const SHEDDING: &str = "ebb_activator_shedding ";

/// Sends as many requests on one connection as have room in its window, each with a body of 64 KiB, and lets them wait.
async fn crowd(process: &Process, waiting: &mut JoinSet<()>) -> Result<(), hyper::Error> {
    let stream = TcpStream::connect(process.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    waiting.spawn(async move {
        let _ = connection.await;
    });
    for _ in 0..16 {
        sender.ready().await?;
        let body = Full::new(Bytes::from(vec![b'x'; 64 << 10]));
        let request = Request::post("http://hello.shop/").body(body).unwrap();
        let answer = sender.send_request(request);
        waiting.spawn(async move {
            let _ = answer.await;
        });
    }
    Ok(())
}

fn is_about_memory(line: &Value) -> bool {
    let text = line["message"].as_str().unwrap_or_default();
    text.contains("memory")
}

#[tokio::test]
async fn work_is_refused_before_memory_runs_out_and_taken_when_there_is_some() {
    // More may wait than there is memory for, so that nothing else bounds what comes.
    let flags = ["--memory-limit-mib=128", "--held-memory-mib=4096"];
    let mut process = Process::start(&flags).await;
    let mut kept = client::connect(process.address).await;
    let mut waiting = JoinSet::new();
    let mut connections = 0;
    while process.metric(SHEDDING).await == 0.0 {
        assert!(connections < 500, "500 MiB wait, and nothing happens");
        // It may be refused, which is what is waited for.
        let _ = crowd(&process, &mut waiting).await;
        connections += 1;
    }
    let line = process.logs("that it refuses", is_about_memory).await;
    assert_eq!(line["limit_mib"], 128);
    assert!(
        line["resident_mib"].as_u64() < Some(128),
        "too late: {line}"
    );

    let refused = client::on(&mut kept, client::request("/hello")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.header("x-ebb-reason"), "low-memory");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.header("connection"), "close");
    assert!(refused.sentence().contains("memory"), "{}", refused.text());
    let counted = r#"ebb_activator_requests_total{code_class="5xx",reason="low-memory"} "#;
    assert!(process.metric(counted).await >= 1.0);
    let mut stranger = Raw::connect(process.address).await;
    assert_eq!(stranger.read_all().await, "", "it is closed at once");
    let refused = "ebb_activator_client_connections_refused_total ";
    assert!(process.metric(refused).await >= 1.0);
    assert!(process.metric("ebb_activator_resident_bytes ").await > 100e6);

    waiting.shutdown().await;
    // Nobody asks it for anything meanwhile: it finds out by itself.
    let again = |line: &Value| line["message"] == "there is memory again";
    process.logs("that there is memory", again).await;
    assert_eq!(process.metric(SHEDDING).await, 0.0);
    let backend = Backend::start("a");
    process.serves(&backend).await;
    let answer = client::get(process.address, "/hello").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "a"));
    let lines = process.logged(is_about_memory);
    assert_eq!(lines.len(), 2, "one each way: {lines:?}");
}
