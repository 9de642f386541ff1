//! HTTP/2 on both sides: with clients, with pods, and where one of them speaks HTTP/1.1.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use crds::control::{PodState, Protocol};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt as _, Empty, Full, channel::Channel};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{
    SOON,
    backend::Backend,
    client::{self, Raw},
    eventually,
    operator::wake,
    world::{World, serving},
};

async fn connect<B>(address: SocketAddr) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    let uri = format!("http://hello.shop{path}");
    Request::get(uri).body(Empty::new()).unwrap()
}

async fn whole(response: Response<Incoming>) -> (StatusCode, Bytes, Option<HeaderMap>) {
    let status = response.status();
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (status, collected.to_bytes(), trailers)
}

/// A world with one serving pod that speaks HTTP/2.
async fn serving_h2c() -> (World, Backend) {
    h2c_in(World::new().await).await
}

async fn h2c_in(mut world: World) -> (World, Backend) {
    let backend = Backend::h2c("a");
    let pods = world
        .pods()
        .pod("a", backend.address, PodState::Serving)
        .protocol(Protocol::H2c);
    world.tell(pods).await;
    (world, backend)
}

#[tokio::test]
async fn a_pod_of_http1_gets_what_it_would_from_a_client_of_http1() {
    let (world, backend) = serving().await;
    let mut connection = connect(world.address).await;
    let (mut out, body) = Channel::<Bytes>::new(1);
    let request = Request::post("http://hello.shop/echo?x=1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let sending = async {
        out.send_data(Bytes::from_static(b"one ")).await.unwrap();
        out.send_data(Bytes::from_static(b"two")).await.unwrap();
        drop(out);
    };
    let (response, ()) = tokio::join!(connection.send_request(request), sending);
    let response = response.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert!(response.headers().contains_key("x-request-id"));
    let (status, body, _) = whole(response).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"one two"[..]));
    let seen = backend.seen().pop().unwrap();
    assert_eq!(seen.uri, "/echo?x=1");
    assert_eq!(seen.headers["host"], "hello.shop");
    assert_eq!(seen.headers["cookie"], "a=1; b=2");
    assert_eq!(seen.headers["x-forwarded-host"], "hello.shop");
    assert_eq!(seen.headers["transfer-encoding"], "chunked");
    assert_eq!(seen.headers.get_all("cookie").iter().count(), 1);
}

#[tokio::test]
async fn trailers_and_the_gateway_and_answers_without_a_body_work() {
    for h2c in [false, true] {
        let (world, _backend) = match h2c {
            true => serving_h2c().await,
            false => serving().await,
        };
        let mut connection = connect(world.activator.gateway).await;
        let mut request = get("/trailers");
        request
            .headers_mut()
            .insert("te", "trailers".parse().unwrap());
        let response = connection.send_request(request).await.unwrap();
        let (_, body, trailers) = whole(response).await;
        assert_eq!(&body[..], b"data");
        assert_eq!(trailers.unwrap()["x-sum"], "42", "h2c: {h2c}");
        let none = connection.send_request(get("/none")).await.unwrap();
        assert_eq!(whole(none).await.0, StatusCode::NO_CONTENT);
        let unknown = Request::get("http://nobody.shop/").body(Empty::new());
        let unknown = connection.send_request(unknown.unwrap()).await.unwrap();
        assert_eq!(unknown.headers()["x-ebb-reason"], "unknown-host");
        assert_eq!(whole(unknown).await.0, StatusCode::NOT_FOUND);
    }
}

/// Both sides speak at once: each piece is answered before the next one is sent.
#[tokio::test]
async fn a_conversation_goes_both_ways_at_once() {
    for h2c in [false, true] {
        let (world, _backend) = match h2c {
            true => serving_h2c().await,
            false => serving().await,
        };
        let mut connection = connect(world.address).await;
        let (mut out, body) = Channel::<Bytes>::new(1);
        let request = Request::post("http://hello.shop/talk")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let response = connection.send_request(request.body(body).unwrap());
        let response = tokio::time::timeout(SOON, response).await.unwrap().unwrap();
        let mut answer = response.into_body();
        for piece in ["one", "two", "three"] {
            out.send_data(piece.into()).await.unwrap();
            let frame = tokio::time::timeout(SOON, answer.frame()).await.unwrap();
            assert_eq!(
                &frame.unwrap().unwrap().into_data().unwrap()[..],
                piece.as_bytes()
            );
        }
        drop(out);
        let last = answer.frame().await.unwrap().unwrap();
        // HTTP/1.1 carries only trailers that were announced.
        if h2c {
            assert_eq!(last.into_trailers().unwrap()["grpc-status"], "0");
        }
    }
}

#[tokio::test]
async fn a_client_of_http1_reaches_a_pod_of_http2() {
    let (world, backend) = serving_h2c().await;
    let mut raw = Raw::connect(world.address).await;
    raw.write(
        "POST /echo HTTP/1.1\r\nHost: hello.shop\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         4\r\nbody\r\n0\r\n\r\n",
    )
    .await;
    let answer = raw.read_all().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.ends_with("body"), "{answer}");
    let seen = backend.seen().pop().unwrap();
    assert_eq!(seen.uri.authority().unwrap(), "hello.shop");
    assert!(!seen.headers.contains_key("host"));
    assert!(!seen.headers.contains_key("transfer-encoding"));
    // A wish for another protocol is not fulfilled, and does no harm.
    let mut request = client::request("/hello");
    let headers = request.headers_mut();
    headers.insert("connection", "upgrade".parse().unwrap());
    headers.insert("upgrade", "websocket".parse().unwrap());
    assert_eq!(client::send(world.address, request).await.text(), "a");
}

#[tokio::test]
async fn many_requests_share_few_connections_to_a_pod_of_http2() {
    let (world, backend) = serving_h2c().await;
    let connection = connect(world.address).await;
    let requests = (0..200).map(|_| {
        let mut connection = connection.clone();
        tokio::spawn(async move {
            let response = connection.send_request(get("/gate")).await.unwrap();
            whole(response).await.0
        })
    });
    let requests: Vec<_> = requests.collect();
    world
        .metric_is("ebb_activator_requests_in_flight", 200.0)
        .await;
    eventually("all are in the pod", async || {
        (backend.seen().len() == 200).then_some(())
    })
    .await;
    // A hundred fit on one; each of those who may open one at once can find it full.
    assert!(backend.connections() <= 6, "{}", backend.connections());
    eventually("all are answered", async || {
        backend.open_all();
        requests.iter().all(|r| r.is_finished()).then_some(())
    })
    .await;
    for request in requests {
        assert_eq!(request.await.unwrap(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_connection_that_the_pod_closes_costs_no_request() {
    let (world, backend) = serving_h2c().await;
    for round in 1..=20 {
        let answer = client::get(world.address, "/hello").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        backend.hang_up();
        assert_eq!(backend.seen().len(), round);
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_while_it_is_held_leaves_its_place_and_its_neighbours() {
    let world = World::new().await;
    let mut connection = connect(world.address).await;
    let leaving = tokio::spawn(connection.send_request(get("/leaves")));
    world.held(1).await;
    let staying = tokio::spawn(connection.send_request(get("/stays")));
    world.held(2).await;
    world.operator.hears("a wake", wake).await;
    leaving.abort();
    world.held(1).await;
    let (_world, backend) = h2c_in(world).await;
    assert_eq!(staying.await.unwrap().unwrap().status(), StatusCode::OK);
    let paths: Vec<_> = backend
        .seen()
        .iter()
        .map(|s| s.uri.path().to_owned())
        .collect();
    assert_eq!(paths, ["/stays"]);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_cut_off_and_its_neighbours_are_not() {
    for h2c in [false, true] {
        let world = World::with(&[], |route| route.request_ms = 500).await;
        let (world, _backend) = match h2c {
            true => h2c_in(world).await,
            false => {
                let backend = Backend::start("a");
                let world = crate::support::world::serving_at(world, backend.address).await;
                (world, backend)
            }
        };
        let mut connection = connect(world.address).await;
        let flood = connection.send_request(get("/flood")).await.unwrap();
        world
            .metric_is("ebb_activator_requests_in_flight", 1.0)
            .await;
        world
            .metric_is("ebb_activator_requests_in_flight", 0.0)
            .await;
        let next = connection.send_request(get("/hello")).await.unwrap();
        assert_eq!(whole(next).await.0, StatusCode::OK);
        assert!(flood.into_body().collect().await.is_err());
    }
}

#[tokio::test]
async fn what_fails_is_told_in_grpcs_words() {
    let world = World::with(&[], |route| route.cold_start_ms = 50).await;
    let mut connection = connect(world.address).await;
    let request = Request::post("http://hello.shop/pkg.Service/Method")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")));
    let answer = connection.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let headers = answer.headers();
    assert_eq!(headers["grpc-status"], "14");
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["x-ebb-reason"], "no-pod");
    let message = headers["grpc-message"].to_str().unwrap();
    assert!(message.starts_with("no pod of shop/hello"), "{message}");
    assert!(answer.into_body().is_end_stream());
}

#[tokio::test]
async fn a_pod_that_does_not_speak_http2_is_named() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let pods = world
        .pods()
        .pod("a", backend.address, PodState::Serving)
        .protocol(Protocol::H2c);
    world.tell(pods).await;
    let answer = client::get(world.address, "/hello").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", answer.text());
    assert_eq!(answer.header("x-ebb-reason"), "pod-failed");
}

#[tokio::test]
async fn a_client_that_stops_within_the_preface_is_no_request() {
    let (world, _backend) = serving().await;
    // The first bytes of HTTP/2, one by one, and then others: a method that nobody has.
    let mut raw = Raw::connect(world.address).await;
    for piece in ["P", "R", "I"] {
        raw.write(piece).await;
        tokio::task::yield_now().await;
    }
    raw.write("NT / HTTP/1.1\r\nHost: hello.shop\r\nConnection: close\r\n\r\n")
        .await;
    let answer = raw.read_all().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    // HTTP/2 that goes on as something else is closed.
    let mut raw = Raw::connect(world.address).await;
    raw.write("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
    let mut rest = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut raw.0, &mut rest);
    tokio::time::timeout(SOON, reading).await.unwrap().unwrap();
    world
        .metric_is("ebb_activator_client_connections", 0.0)
        .await;
}

#[tokio::test]
async fn a_body_of_no_bytes_that_ends_late_reaches_a_pod_of_http1() {
    let (world, backend) = serving().await;
    let mut connection = connect(world.address).await;
    for length in [Some("0"), None] {
        let (out, body) = Channel::<Bytes>::new(1);
        let mut request = Request::post("http://hello.shop/echo");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let answer = connection.send_request(request.body(body).unwrap());
        drop(out);
        let answer = tokio::time::timeout(SOON, answer).await.unwrap().unwrap();
        let (status, body, _) = whole(answer).await;
        assert_eq!((status, body), (StatusCode::OK, Bytes::new()), "{length:?}");
    }
    assert!(backend.seen().iter().all(|seen| seen.body.is_empty()));
}

#[tokio::test]
async fn a_target_of_a_query_alone_gets_its_slash() {
    let (world, backend) = serving().await;
    let mut connection = connect(world.address).await;
    let request = Request::get("http://hello.shop?x=1").body(Empty::<Bytes>::new());
    let answer = connection.send_request(request.unwrap()).await.unwrap();
    assert_eq!(whole(answer).await.0, StatusCode::OK);
    let mut raw = Raw::connect(world.address).await;
    raw.write(
        "GET http://hello.shop?x=1 HTTP/1.1\r\nHost: hello.shop\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(raw.read_all().await.starts_with("HTTP/1.1 200"));
    let targets: Vec<String> = backend.seen().iter().map(|s| s.uri.to_string()).collect();
    assert_eq!(targets, ["/?x=1", "/?x=1"]);
}

#[tokio::test]
async fn a_client_of_http1_hears_when_its_talk_with_a_pod_of_http2_takes_too_long() {
    let world = World::with(&[], |route| route.request_ms = 500).await;
    let (world, _backend) = h2c_in(world).await;
    let mut raw = Raw::connect(world.address).await;
    raw.write("POST /talk HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        .await;
    raw.read_to("hi\r\n").await;
    // It has more to say, and the pod would listen; but the time is over.
    raw.read_all().await;
}

#[tokio::test]
async fn the_time_that_a_client_takes_to_send_its_body_is_not_the_pods() {
    let world = World::with(&[], |route| route.first_byte_ms = Some(400)).await;
    let (world, _backend) = h2c_in(world).await;
    let mut connection = connect(world.address).await;
    for (path, status) in [
        ("/echo", StatusCode::OK),
        ("/late", StatusCode::GATEWAY_TIMEOUT),
    ] {
        let (mut out, body) = Channel::<Bytes>::new(1);
        let request = Request::post(format!("http://hello.shop{path}"));
        let answer = connection.send_request(request.body(body).unwrap());
        tokio::spawn(async move {
            for _ in 0..7 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                out.send_data("x".into()).await.unwrap();
            }
        });
        let answer = tokio::time::timeout(SOON, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
}

#[tokio::test]
async fn answers_to_heads_that_nobody_reads_are_cut_off() {
    let world = World::with(&[], |route| route.request_ms = 500).await;
    let (world, _backend) = h2c_in(world).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    // The pod's answer to it has no end.
    let heads = "HEAD /wide HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    let sending =
        tokio::spawn(async move { while stream.write_all(heads.as_bytes()).await.is_ok() {} });
    tokio::time::timeout(SOON, sending).await.unwrap().unwrap();
    world
        .metric_is("ebb_activator_requests_in_flight", 0.0)
        .await;
}

#[tokio::test]
async fn a_client_of_http1_whose_body_a_pod_of_http2_has_still_is_not_told_that_it_may_go_on() {
    let world = World::with(&[], |route| route.first_byte_ms = Some(400)).await;
    let (world, _backend) = h2c_in(world).await;
    let mut raw = Raw::connect(world.address).await;
    raw.write("POST /late HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        .await;
    let answer = raw.read_all().await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}
