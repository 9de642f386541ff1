//! TLS on the shared port.

use std::time::Duration;

use bytes::Bytes;
use crds::{
    control::{PodState, ToActivator},
    names::FunctionKey,
};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    SOON,
    backend::Backend,
    client, eventually,
    operator::{Operator, bound, wake},
    tls::{Issued, issue, to},
    told,
    world::{World, free_port, serving_at},
};

/// What `hello` has besides its own names.
const HOSTS: [&str; 2] = ["a.example", "b.example"];

/// A world whose Function has hosts with a certificate.
async fn with_hosts() -> (World, Issued) {
    let mut world = World::with(&[], |route| {
        route.hosts.extend(HOSTS.map(String::from));
    })
    .await;
    let issued = issue(&HOSTS);
    certify(&mut world, &issued, &HOSTS).await;
    (world, issued)
}

/// The same with a pod that serves.
async fn serving() -> (World, Issued, Backend) {
    let (world, issued) = with_hosts().await;
    let backend = Backend::start("a");
    let world = serving_at(world, backend.address).await;
    (world, issued, backend)
}

/// Tells of a certificate and waits until it is served.
async fn certify(world: &mut World, issued: &Issued, hosts: &[&str]) {
    let frame = issued.frame(&world.function, hosts);
    world.operator.tell(frame).await;
    let gateway = world.activator.gateway;
    eventually("the certificate is served", async || {
        let connected = issued.try_connect(gateway, hosts[0], &["http/1.1"]).await;
        connected.ok()
    })
    .await;
}

/// Another Function, `shop/other`, with one host.
async fn other(world: &mut World, host: &str) -> (FunctionKey, Backend) {
    let function = FunctionKey::new("shop", "other");
    let mut route = told::route(&function, free_port());
    route.hosts.push(host.to_owned());
    let port = route.port;
    let backend = Backend::start("other");
    world.operator.tell(ToActivator::Route(route)).await;
    let pods = told::pods(&function).pod("o", backend.address, PodState::Serving);
    world.tell(pods).await;
    let listens = |frame: &_| bound(frame).filter(|bound| *bound == port);
    world.operator.hears("its port is bound", listens).await;
    (function, backend)
}

/// The error with which a handshake ends.
async fn refused(world: &World, issued: &Issued, name: &str) -> String {
    let connecting = issued.try_connect(world.activator.gateway, name, &["http/1.1"]);
    connecting.await.err().map(|e| e.to_string()).unwrap()
}

fn handshakes(result: &str) -> String {
    format!("ebb_activator_tls_handshakes_total{{result=\"{result}\"}}")
}

#[tokio::test]
async fn the_name_picks_the_certificate_and_a_name_without_one_is_refused() {
    let (mut world, issued, _backend) = serving().await;
    let (function, _other) = other(&mut world, "c.example").await;
    let gateway = world.activator.gateway;
    let unknown = refused(&world, &issued, "c.example").await;
    assert!(unknown.contains("UnrecognisedName"), "{unknown}");
    let second = issue(&["c.example"]);
    world
        .operator
        .tell(second.frame(&function, &["c.example"]))
        .await;
    let mut connection = eventually("both are served", async || {
        let stream = second.try_connect(gateway, "c.example", &[]).await.ok()?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .ok()?;
        tokio::spawn(connection);
        Some(sender)
    })
    .await;
    let answer = client::on(&mut connection, to("c.example", "/hello")).await;
    assert_eq!(answer.text(), "other");
    for host in HOSTS {
        let mut connection = issued.client(gateway, host).await;
        let answer = client::on(&mut connection, to(host, "/hello")).await;
        assert_eq!(answer.text(), "a");
    }
    // A client that connects to an address names no host.
    let nameless = refused(&world, &issued, "127.0.0.1").await;
    assert!(nameless.contains("UnrecognisedName"), "{nameless}");
    world.metric_is(&handshakes("no-name"), 1.0).await;
    assert!(world.metric(&handshakes("unknown-name")).await >= 1.0);
    assert!(world.metric(&handshakes("ok")).await >= 4.0);
}

#[tokio::test]
async fn a_certificate_is_served_only_for_hosts_of_its_own_function() {
    let (mut world, issued, _backend) = serving().await;
    let (function, _other) = other(&mut world, "c.example").await;
    let greedy = issue(&["a.example", "c.example", "nobody.example"]);
    let frame = greedy.frame(&function, &["a.example", "c.example", "nobody.example"]);
    world.operator.tell(frame).await;
    let gateway = world.activator.gateway;
    eventually("its own is served", async || {
        greedy.try_connect(gateway, "c.example", &[]).await.ok()
    })
    .await;
    issued.connect(gateway, "a.example").await;
    let nobody = refused(&world, &greedy, "nobody.example").await;
    assert!(nobody.contains("UnrecognisedName"), "{nobody}");
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_open_ones_go_on() {
    let (mut world, old, _backend) = serving().await;
    let gateway = world.activator.gateway;
    let mut before = old.client(gateway, "a.example").await;
    let resuming = old.connector(&["http/1.1"]);
    let connect = async || {
        let name = "a.example".try_into().unwrap();
        let stream = TcpStream::connect(gateway).await.unwrap();
        resuming.connect(name, stream).await
    };
    let mut first = connect().await.unwrap();
    // Tickets come with the first answer.
    let request = "GET /hello HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    first.write_all(request.as_bytes()).await.unwrap();
    first.read_to_end(&mut Vec::new()).await.unwrap();
    let new = issue(&HOSTS);
    certify(&mut world, &new, &HOSTS).await;
    let answer = client::on(&mut before, to("a.example", "/hello")).await;
    assert_eq!(answer.text(), "a");
    let resumed = connect().await;
    assert!(resumed.is_err(), "a session of the old one was resumed");
    let function = world.function.clone();
    world
        .operator
        .tell(ToActivator::NoCertificate { function })
        .await;
    eventually("there is none any more", async || {
        new.try_connect(gateway, "a.example", &[]).await.err()
    })
    .await;
    let plain = client::send(gateway, to("a.example", "/hello")).await;
    assert_eq!(plain.text(), "a");
}

#[tokio::test]
async fn a_connection_is_for_the_hosts_of_its_certificate() {
    let (mut world, issued, _backend) = serving().await;
    let (function, backend) = other(&mut world, "c.example").await;
    let gateway = world.activator.gateway;
    let mut connection = issued.client(gateway, "a.example").await;
    let own = client::on(&mut connection, to("B.example:443", "/hello")).await;
    assert_eq!(own.text(), "a");
    let wrong = client::on(&mut connection, to("c.example", "/hello")).await;
    assert_eq!(wrong.status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(wrong.header("x-ebb-reason"), "misdirected");
    let uncovered = client::on(&mut connection, to("hello.shop", "/hello")).await;
    assert_eq!(uncovered.status, StatusCode::MISDIRECTED_REQUEST);
    let nobody = client::on(&mut connection, to("d.example", "/hello")).await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
    let certificate = issue(&["c.example"]);
    let frame = certificate.frame(&function, &["c.example"]);
    world.operator.tell(frame).await;
    eventually("the other has one", async || {
        let connecting = certificate.try_connect(gateway, "c.example", &[]);
        connecting.await.ok()
    })
    .await;
    let still = client::on(&mut connection, to("c.example", "/hello")).await;
    assert_eq!(still.status, StatusCode::MISDIRECTED_REQUEST);
    assert!(backend.seen().is_empty());
}

#[tokio::test]
async fn what_is_spoken_is_agreed_on_in_the_handshake() {
    let (world, issued, backend) = serving().await;
    let gateway = world.activator.gateway;
    let connecting = issued.try_connect(gateway, "a.example", &["h2", "http/1.1"]);
    let stream = connecting.await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for host in HOSTS {
        let request = Request::get(format!("https://{host}/hello"));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "a");
        assert_eq!(backend.seen().pop().unwrap().headers["host"], host);
    }
    let nothing = issued.try_connect(gateway, "a.example", &["smtp"]).await;
    assert!(nothing.is_err());
    world.metric_is(&handshakes("failed"), 1.0).await;
}

#[tokio::test]
async fn pods_are_told_that_the_client_speaks_tls() {
    let (world, issued, backend) = serving().await;
    let mut connection = issued.client(world.activator.gateway, "a.example").await;
    client::on(&mut connection, to("a.example", "/hello")).await;
    let seen = backend.seen().pop().unwrap();
    assert_eq!(seen.headers["x-forwarded-proto"], "https");
    let forwarded = "for=127.0.0.1;host=\"a.example\";proto=https";
    assert_eq!(seen.headers["forwarded"], forwarded);
}

#[tokio::test]
async fn a_request_over_tls_waits_for_a_pod() {
    let (mut world, issued) = with_hosts().await;
    let mut connection = issued.client(world.activator.gateway, "a.example").await;
    let held =
        tokio::spawn(async move { client::on(&mut connection, to("a.example", "/hello")).await });
    world.operator.hears("a wake", wake).await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Starting);
    world.tell(pods).await;
    let answer = held.await.unwrap();
    assert_eq!(answer.text(), "a");
    assert!(answer.header("server-timing").contains("answered"));
}

#[tokio::test]
async fn a_client_that_leaves_with_its_body_unread_is_noticed() {
    let (world, issued) = with_hosts().await;
    let mut stream = issued.connect(world.activator.gateway, "a.example").await;
    let head = "POST /echo HTTP/1.1\r\nhost: a.example\r\ncontent-length: 300000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 100_000]).await.unwrap();
    stream.flush().await.unwrap();
    world.held(1).await;
    drop(stream);
    world.held(0).await;
    world
        .metric_is("ebb_activator_requests_gone_total", 1.0)
        .await;
}

#[tokio::test]
async fn an_upgrade_carries_bytes_both_ways_over_tls() {
    let (world, issued) = with_hosts().await;
    let pod = crate::upgrade::echo().await;
    let world = serving_at(world, pod).await;
    let mut stream = issued.connect(world.activator.gateway, "a.example").await;
    let request =
        "GET /socket HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    for text in ["one", "two"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut back = [0; 3];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text.as_bytes());
    }
    // The pod ends when its client does, and the client is told so properly.
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_large_answer_comes_whole_to_a_client_that_reads_slowly() {
    const LARGE: usize = 8 << 20;
    let (world, issued, _backend) = serving().await;
    let stream = issued.connect(world.activator.gateway, HOSTS[0]).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        let head = format!("POST /echo HTTP/1.1\r\nHost: {}\r\n", HOSTS[0]);
        let head = format!("{head}Content-Length: {LARGE}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&vec![b'x'; LARGE]).await.unwrap();
        write.flush().await.unwrap();
    };
    let reading = async {
        let (mut count, mut buffer) = (0, vec![0; 64 << 10]);
        // The connection stays open, so that nothing but the answer itself brings its last bytes.
        while count < LARGE {
            // A pause, so that the way to here is full all the time.
            tokio::time::sleep(Duration::from_micros(200)).await;
            let read = read.read(&mut buffer).await.unwrap();
            count += buffer[..read].iter().filter(|byte| **byte == b'x').count();
        }
    };
    let both = async { tokio::join!(writing, reading) };
    tokio::time::timeout(SOON, both).await.unwrap();
}

#[tokio::test]
async fn a_stopping_activator_says_goodbye() {
    let (world, issued, backend) = serving().await;
    let mut idle = issued.connect(world.activator.gateway, "a.example").await;
    let mut busy = issued.connect(world.activator.gateway, "a.example").await;
    let request = |path| format!("GET {path} HTTP/1.1\r\nhost: a.example\r\n\r\n");
    idle.write_all(request("/hello").as_bytes()).await.unwrap();
    busy.write_all(request("/gate").as_bytes()).await.unwrap();
    let mut first = [0; 12];
    for stream in [&mut idle, &mut busy] {
        stream.read_exact(&mut first).await.unwrap();
    }
    let ending = tokio::spawn(world.activator.shut_down());
    // An end without `close_notify` would be an error here.
    let mut rest = Vec::new();
    timeout(SOON, idle.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    backend.open();
    timeout(SOON, busy.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("end"));
    ending.await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_does_not_get_on_is_given_up() {
    let (world, _issued) = with_hosts().await;
    let mut stream = TcpStream::connect(world.activator.gateway).await.unwrap();
    stream.write_all(&[0x16, 3, 1]).await.unwrap();
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "it is still open");
    world.metric_is(&handshakes("late"), 1.0).await;
}

#[tokio::test]
async fn a_functions_own_port_stays_plain() {
    let (world, issued, _backend) = serving().await;
    let connecting = issued.try_connect(world.address, "a.example", &[]);
    assert!(connecting.await.is_err());
    assert_eq!(client::get(world.address, "/hello").await.text(), "a");
}

#[tokio::test]
async fn the_control_port_has_the_certificate_that_is_in_its_file_now() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = |name: &str| folder.join(format!("control-{}-{name}", std::process::id()));
    let (certificate, key) = (file("tls.crt"), file("tls.key"));
    let write = |issued: &Issued| {
        std::fs::write(&certificate, &issued.chain).unwrap();
        std::fs::write(&key, &issued.key).unwrap();
    };
    let name = crds::control::SERVER_NAME;
    let old = issue(&[name]);
    write(&old);
    let activator = crate::support::world::activator(&[
        &format!("--control-certificate-file={}", certificate.display()),
        &format!("--control-key-file={}", key.display()),
    ]);
    let stream = old.try_connect(activator.control, name, &["h2"]).await;
    let mut operator = Operator::over(stream.unwrap(), activator.control).await;
    let new = issue(&[name]);
    write(&new);
    assert!(
        old.try_connect(activator.control, name, &["h2"])
            .await
            .is_err()
    );
    let stream = new.try_connect(activator.control, name, &["h2"]).await;
    let mut second = Operator::over(stream.unwrap(), activator.control).await;
    for operator in [&mut operator, &mut second] {
        operator.sync(None).await;
    }
    let plain = TcpStream::connect(activator.control).await.unwrap();
    assert!(
        Operator::try_over(plain, activator.control, crate::support::operator::TOKEN)
            .await
            .is_none()
    );
}
