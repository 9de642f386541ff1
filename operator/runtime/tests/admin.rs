//! The admin endpoint over a real socket.
#![allow(clippy::unwrap_used)] // a failed step is a failed test

use prometheus::{IntCounter, Registry};
use runtime::{admin, readiness::Readiness};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn probes_and_metrics_are_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let registry = Registry::new();
    let counter = IntCounter::new("ebb_test_total", "A test.").unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    counter.inc();
    let readiness = Readiness::default();
    let guard = readiness.guard("control");
    let stop = CancellationToken::new();
    let server = tokio::spawn(admin::serve(listener, readiness, registry, stop.clone()));

    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
    let unready = get(address, "/readyz").await;
    assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
    assert!(unready.ends_with("not ready: control\n"), "{unready}");
    drop(guard);
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/metrics").await.contains("ebb_test_total 1"));
    assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));

    stop.cancel();
    server.await.unwrap();
}
