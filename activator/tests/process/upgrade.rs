//! Connections that change their protocol, and pods that are busy without a request.

use std::net::SocketAddr;

use crds::control::{PodState, ToOperator};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    backend::Backend,
    client::Raw,
    operator::{drained, wake},
    world::{A_WHILE, World, serving_at},
};

/// A pod that changes the protocol of each connection and then sends back what it gets.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = head(&mut stream).await;
                if !head.to_ascii_lowercase().contains("upgrade: echo\r\n") {
                    return;
                }
                let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\nx-own: kept\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// The head of a message, byte for byte.
pub(crate) async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

pub(crate) async fn ask(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /socket HTTP/1.1\r\nhost: hello\r\nconnection: keep-alive, Upgrade\r\nupgrade: echo\r\nsec-websocket-key: abc\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

pub(crate) async fn carries(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, text.as_bytes());
}

#[tokio::test]
async fn an_upgrade_waits_for_a_pod_and_then_carries_bytes_both_ways() {
    let mut world = World::new().await;
    let mut stream = ask(world.address).await;
    world.operator.hears("a wake", wake).await;
    let pods = world.pods().pod("a", echo().await, PodState::Starting);
    world.tell(pods).await;
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    for line in ["connection: upgrade", "upgrade: echo", "x-own: kept"] {
        assert!(head.contains(line), "{line} is missing in {head}");
    }
    carries(&mut stream, "one").await;
    carries(&mut stream, "two").await;
    world
        .metric_is("ebb_activator_upgraded_connections", 1.0)
        .await;
    drop(stream);
    world
        .metric_is("ebb_activator_upgraded_connections", 0.0)
        .await;
    world
        .metric_is("ebb_activator_requests_in_flight", 0.0)
        .await;
}

#[tokio::test]
async fn an_upgraded_connection_keeps_its_pod() {
    let mut world = World::new().await;
    let pod = echo().await;
    let pods = world.pods().pod("a", pod, PodState::Serving);
    world.tell(pods).await;
    let mut stream = ask(world.address).await;
    head(&mut stream).await;
    let pods = world.pods().pod("a", pod, PodState::Draining).drain(3);
    world.tell(pods).await;
    carries(&mut stream, "still here").await;
    tokio::time::sleep(A_WHILE).await;
    assert!(world.operator.heard(drained).is_empty());
    drop(stream);
    assert_eq!(world.operator.hears("the drain's end", drained).await, 3);
}

#[tokio::test]
async fn an_upgraded_connection_that_is_not_counted_does_not() {
    let mut world = World::with(&[], |route| route.count_upgrades = false).await;
    let pod = echo().await;
    let pods = world.pods().pod("a", pod, PodState::Serving);
    world.tell(pods).await;
    let mut stream = ask(world.address).await;
    head(&mut stream).await;
    let pods = world.pods().pod("a", pod, PodState::Draining).drain(3);
    world.tell(pods).await;
    assert_eq!(world.operator.hears("the drain's end", drained).await, 3);
    carries(&mut stream, "as long as the pod lives").await;
}

#[tokio::test]
async fn an_upgraded_connection_is_one_of_as_many_as_there_may_be() {
    let world = World::with(&["--max-connections=1"], |_| ()).await;
    let world = serving_at(world, echo().await).await;
    let mut stream = ask(world.address).await;
    head(&mut stream).await;
    world
        .metric_is("ebb_activator_client_connections", 0.0)
        .await;
    let mut refused = Raw::connect(world.address).await;
    assert_eq!(refused.read_all().await, "");
    carries(&mut stream, "still here").await;
    drop(stream);
    world
        .metric_is("ebb_activator_upgraded_connections", 0.0)
        .await;
    let mut stream = ask(world.address).await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 101"));
}

fn busy(frame: &ToOperator) -> Option<u64> {
    match frame {
        ToOperator::Busy { drain, .. } => Some(*drain),
        _ => None,
    }
}

#[tokio::test]
async fn a_pod_that_says_that_it_is_busy_is_not_drained() {
    // `/hello` is answered 200, `/none` 204.
    for (path, is_busy) in [("/hello", true), ("/none", false)] {
        let probe = Some(path.to_owned());
        let mut world = World::with(&[], |route| route.keep_alive_probe = probe).await;
        let backend = Backend::start("a");
        let pods = world.pods().pod("a", backend.address, PodState::Draining);
        world.tell(pods.drain(5)).await;
        if is_busy {
            assert_eq!(world.operator.hears("the veto", busy).await, 5);
            assert!(world.operator.heard(drained).is_empty());
        } else {
            assert_eq!(world.operator.hears("the drain's end", drained).await, 5);
            assert!(world.operator.heard(busy).is_empty());
        }
        assert_eq!(backend.seen()[0].uri.path(), path);
    }
}
