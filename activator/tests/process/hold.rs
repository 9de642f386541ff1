//! Requests that come before their pod.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use crds::{
    control::{PodState, Readiness, Startup, ToActivator, ToOperator},
    names::FunctionKey,
};
use http::{Request, StatusCode};
use http_body_util::{Full, channel::Channel};
use tokio::time::Instant;

use crate::support::{
    backend::{Backend, nowhere},
    client::{self, Raw},
    eventually,
    operator::{bound, wake},
    told,
    world::{A_WHILE, World, free_port, serving_at},
};

#[tokio::test]
async fn a_held_request_is_served_when_a_pod_comes_and_its_time_is_accounted_for() {
    let mut world = World::new().await;
    let began = Instant::now();
    let held = tokio::spawn(client::get(world.address, "/hello"));
    assert_eq!(world.operator.hears("a wake", wake).await, 1);
    let address = nowhere();
    let startup = Startup {
        scaled_us: 1_000,
        scheduled_us: 3_000,
        started_us: 6_000,
    };
    let pods = world
        .pods()
        .pod("a", address, PodState::Starting)
        .startup(startup);
    world.tell(pods).await;
    tokio::time::sleep_until(began + Duration::from_millis(50)).await;
    let backend = Backend::at("a", address);
    let answer = held.await.unwrap();
    let took = began.elapsed();

    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "a"));
    let phases: Vec<(&str, f64)> = answer
        .header("server-timing")
        .split(", ")
        .map(|phase| phase.split_once(";dur=").unwrap())
        .map(|(name, ms)| (name, ms.parse().unwrap()))
        .collect();
    let names: Vec<_> = phases.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["queued", "scaled", "scheduled", "started", "answered"]
    );
    let sum: f64 = phases.iter().map(|(_, ms)| ms).sum();
    let took = took.as_secs_f64() * 1e3;
    assert!(sum > 45.0 && sum <= took, "{phases:?} in {took} ms");
    assert_eq!(
        phases[1..4].iter().map(|(_, ms)| *ms).collect::<Vec<_>>(),
        [1.0, 2.0, 3.0]
    );

    let probed = |frame: &ToOperator| match frame {
        ToOperator::Probed { pod, .. } => Some(pod.clone()),
        _ => None,
    };
    assert_eq!(world.operator.hears("a probe", probed).await, "a");
    let cold = |frame: &ToOperator| match frame {
        ToOperator::ColdStart(cold_start) => Some(cold_start.clone()),
        _ => None,
    };
    let cold = world.operator.hears("a cold start", cold).await;
    assert_eq!((cold.pod.as_str(), cold.status), ("a", 200));
    assert!((cold.phases.total_us() as f64 / 1e3 - sum).abs() < 0.01);
    assert_eq!(
        backend.connections(),
        1,
        "the probe's connection is the request's"
    );
    let warm = client::get(world.address, "/hello").await;
    assert_eq!(warm.header("server-timing"), "");
}

#[tokio::test]
async fn five_hundred_first_requests_send_one_wake_and_are_all_served() {
    let mut world = World::new().await;
    let get = || tokio::spawn(client::get(world.address, "/hello"));
    let requests: Vec<_> = (0..500).map(|_| get()).collect();
    world.held(500).await;
    let backend = Backend::start("a");
    let wakes = |world: &World| world.operator.heard_at(|frame| wake(frame).is_some());
    eventually("the wake is repeated", async || {
        (wakes(&world).len() >= 2).then_some(())
    })
    .await;
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    for request in requests {
        assert_eq!(request.await.unwrap().status, StatusCode::OK);
    }
    let wakes = wakes(&world);
    let early = wakes
        .iter()
        .filter(|at| **at < wakes[0] + Duration::from_millis(900));
    assert_eq!(early.count(), 1);
    assert!(wakes.len() <= 3, "one each second: {wakes:?}");
    assert_eq!(backend.seen().len(), 500);
}

#[tokio::test]
async fn a_wake_is_repeated_while_somebody_waits_and_no_longer() {
    let mut world = World::new().await;
    let wakes = |world: &World| world.operator.heard_at(|frame| wake(frame).is_some());
    let held = tokio::spawn(client::get(world.address, "/hello"));
    eventually("it is repeated twice", async || {
        (wakes(&world).len() == 3).then_some(())
    })
    .await;
    let heard = wakes(&world);
    let apart = |pair: &[Instant]| (pair[1] - pair[0]).as_secs_f64();
    let apart: Vec<_> = heard.windows(2).map(apart).collect();
    assert!(apart.iter().all(|apart| *apart > 0.9), "{apart:?}");
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    assert_eq!(held.await.unwrap().status, StatusCode::OK);
    world.tell(world.pods()).await;
    // That nothing comes can only be seen by waiting: half as long again as a repetition would take.
    tokio::time::sleep_until(heard[2] + Duration::from_millis(1_500)).await;
    assert_eq!(wakes(&world).len(), 3, "nobody waits");
    let held = tokio::spawn(client::get(world.address, "/hello"));
    eventually("another start begins", async || {
        (wakes(&world).len() == 4).then_some(())
    })
    .await;
    held.abort();
}

#[tokio::test]
async fn bodies_reach_a_function_at_zero_intact() {
    let mut world = World::new().await;
    let body = Bytes::from_iter((0..1 << 20).map(|i: u32| (i % 251) as u8));
    let post = || Request::post("/echo").header("host", "hello.shop");

    let with_length = post().body(Full::new(body.clone())).unwrap();
    let with_length = tokio::spawn(client::send(world.address, with_length));
    let stream = |piece: usize, of: Bytes, pause: Duration| {
        let (mut out, body) = Channel::<Bytes>::new(1);
        tokio::spawn(async move {
            for piece in of.chunks(piece) {
                out.send_data(Bytes::copy_from_slice(piece)).await.unwrap();
                tokio::time::sleep(pause).await;
            }
        });
        post().body(body).unwrap()
    };
    let chunked = stream(10_000, body.clone(), Duration::ZERO);
    let chunked = tokio::spawn(client::send(world.address, chunked));
    let short = body.slice(..64 << 10);
    let dripped = stream(2 << 10, short.clone(), Duration::from_millis(5));
    let dripped = tokio::spawn(client::send(world.address, dripped));
    world.held(3).await;

    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Starting);
    world.tell(pods).await;
    assert!(with_length.await.unwrap().body == body);
    assert!(chunked.await.unwrap().body == body);
    assert!(dripped.await.unwrap().body == short);
}

#[tokio::test]
async fn a_starting_pod_gets_requests_only_when_its_http_probe_passes() {
    let mut world = World::new().await;
    let held = tokio::spawn(client::get(world.address, "/hello"));
    let backend = Backend::start("a");
    let readiness = |path: &str| Readiness::Http {
        path: path.to_owned(),
        headers: vec![("x-probe".to_owned(), "1".to_owned())],
    };
    let pods = world.pods().pod("a", backend.address, PodState::Starting);
    world.tell(pods.clone().readiness(Readiness::Kubelet)).await;
    world.held(1).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(backend.connections(), 0, "only the kubelet can probe it");
    world.tell(pods.readiness(readiness("healthz?x=1"))).await;
    assert_eq!(held.await.unwrap().status, StatusCode::OK);
    let seen = backend.seen();
    assert_eq!(seen[0].uri, "/healthz?x=1");
    assert_eq!(seen[0].headers["x-probe"], "1");
    assert_eq!(seen[1].uri, "/hello");
}

#[tokio::test]
async fn a_full_queue_is_answered_503_and_the_others_go_on_waiting() {
    let mut world = World::with(&["--max-held-per-function=2"], |_| ()).await;
    let get = || tokio::spawn(client::get(world.address, "/hello"));
    let held = [get(), get()];
    world.held(2).await;
    let refused = client::get(world.address, "/hello").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.header("x-ebb-reason"), "queue-full");
    assert_eq!(refused.header("retry-after"), "1");
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    for request in held {
        assert_eq!(request.await.unwrap().status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place_at_once_and_nothing_is_forwarded() {
    let mut world = World::new().await;
    for head in [
        "GET /hello HTTP/1.1\r\nHost: hello.shop\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: hello.shop\r\nContent-Length: 100\r\n\r\nonly the beginning",
        "POST /echo HTTP/1.1\r\nHost: hello.shop\r\nContent-Length: 5\r\n\r\nwhole",
        "GET /hello HTTP/1.1\r\nHost: hello.shop\r\n\r\nGET /next HTTP/1.1\r\n",
    ] {
        let mut raw = Raw::connect(world.address).await;
        raw.write(head).await;
        world.held(1).await;
        drop(raw);
        let left = Instant::now();
        world.held(0).await;
        assert!(left.elapsed() < Duration::from_millis(50), "{head:?}");
    }
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    assert_eq!(
        client::get(world.address, "/last").await.status,
        StatusCode::OK
    );
    let paths: Vec<_> = backend
        .seen()
        .iter()
        .map(|seen| seen.uri.to_string())
        .collect();
    assert_eq!(paths, ["/last"]);
    assert_eq!(world.metric("ebb_activator_requests_gone_total").await, 4.0);
}

#[tokio::test]
async fn at_the_deadline_the_answer_says_what_keeps_the_pod() {
    let mut world = World::with(&[], |route| route.cold_start_ms = 300).await;
    let pods = world
        .pods()
        .problem("FailedScheduling", "0/3 nodes are available", false);
    world.tell(pods).await;
    let answer = client::get(world.address, "/hello").await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.header("x-ebb-reason"), "no-pod");
    assert_eq!(
        answer.sentence(),
        "no pod of shop/hello (revision hello-1) was ready in 0.3 s: FailedScheduling: 0/3 nodes are available"
    );
}

#[tokio::test]
async fn a_problem_that_waiting_does_not_cure_is_answered_early() {
    let mut world = World::new().await;
    let began = Instant::now();
    let held = tokio::spawn(client::get(world.address, "/hello"));
    world.held(1).await;
    let pods = world.pods();
    world
        .tell(pods.clone().problem("ErrImagePull", "wait", true))
        .await;
    world
        .tell(pods.problem("ImagePullBackOff", "no such image", true))
        .await;
    let answer = held.await.unwrap();
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.header("x-ebb-reason"), "pod-problem");
    assert!(
        answer
            .sentence()
            .ends_with("ImagePullBackOff: no such image"),
        "{answer:?}"
    );
    let took = began.elapsed().as_secs_f64();
    assert!((5.0..7.0).contains(&took), "{took} s");
}

#[tokio::test]
async fn a_function_without_any_revision_says_why() {
    let mut world = World::with(&[], |route| route.weights.clear()).await;
    let pods = world.pods().no_revision("InvalidTemplate", "no image");
    world.tell(pods).await;
    let answer = client::get(world.address, "/hello").await;
    assert_eq!(answer.header("x-ebb-reason"), "pod-problem");
    let sentence = answer.sentence();
    assert!(
        sentence.ends_with("shop/hello has no revision: InvalidTemplate: no image"),
        "{sentence}"
    );
}

#[tokio::test]
async fn deleting_a_function_ends_the_waiting_for_it() {
    let mut world = World::new().await;
    let mut kept = client::connect(world.address).await;
    let held = tokio::spawn(async move {
        let answer = client::on(&mut kept, client::request("/hello")).await;
        (kept, answer)
    });
    world.held(1).await;
    let function = world.function.clone();
    world.operator.tell(ToActivator::Remove { function }).await;
    let (_, answer) = held.await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("x-ebb-reason"), "removed");
    let gone = client::get(world.activator.gateway, "/hello").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn on_the_shared_port_the_host_chooses() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    let gateway = world.activator.gateway;
    assert_eq!(client::get(gateway, "/hello").await.text(), "a");
    for (host, status) in [("HELLO.shop:8080", 200), ("other.shop", 404)] {
        let mut request = client::request("/hello");
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = client::send(gateway, request).await;
        assert_eq!(answer.status, status, "{host}");
        // On the Function's own port any host will do.
        let mut request = client::request("/hello");
        request.headers_mut().insert("host", host.parse().unwrap());
        assert_eq!(client::send(world.address, request).await.status, 200);
    }
    let mut request = client::request("/hello");
    request
        .headers_mut()
        .insert("host", "other.shop".parse().unwrap());
    let answer = client::send(gateway, request).await;
    assert_eq!(answer.header("x-ebb-reason"), "unknown-host");
    assert!(answer.text().contains("other.shop"), "{answer:?}");
}

#[tokio::test]
async fn a_pod_that_refuses_connections_is_waited_for() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    assert_eq!(client::get(world.address, "/hello").await.text(), "a");
    backend.stop();
    let address = backend.address;
    crate::support::eventually("the pod refuses", async || {
        tokio::net::TcpStream::connect(address).await.err()
    })
    .await;
    let held = tokio::spawn(client::get(world.address, "/hello"));
    world.held(1).await;
    let _again = Backend::at("again", address);
    assert_eq!(held.await.unwrap().text(), "again");
}

#[tokio::test]
async fn a_second_pod_takes_what_the_first_refuses() {
    let mut world = World::new().await;
    let backend = Backend::start("b");
    let refusing = (
        std::net::Ipv4Addr::new(127, 0, 0, 2),
        backend.address.port(),
    )
        .into();
    let pods = told::pods(&world.function)
        .pod("a", refusing, PodState::Serving)
        .pod("b", backend.address, PodState::Serving);
    world.tell(pods).await;
    for _ in 0..4 {
        assert_eq!(client::get(world.address, "/hello").await.text(), "b");
    }
}

#[tokio::test]
async fn what_waits_is_shared_among_namespaces() {
    let mut world = World::with(&["--max-held=4"], |_| ()).await;
    let bank = FunctionKey::new("bank", "teller");
    let route = told::route(&bank, free_port());
    let address: SocketAddr = ([127, 0, 0, 1], route.port).into();
    let port = route.port;
    world.operator.tell(ToActivator::Route(route)).await;
    world.operator.tell(told::pods(&bank).frame()).await;
    let listens = |frame: &ToOperator| bound(frame).filter(|bound| *bound == port);
    world.operator.hears("its port is bound", listens).await;

    let mut shop = Vec::new();
    for count in 1..=4 {
        shop.push(tokio::spawn(client::get(world.address, "/hello")));
        world.held(count).await;
    }
    let refused = client::get(world.address, "/hello").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.header("x-ebb-reason"), "over-budget");
    assert_eq!(refused.header("retry-after"), "1");

    // The other namespace has less, so it takes the place of the newest.
    let teller = tokio::spawn(client::get(address, "/hello"));
    let shed = shop.pop().unwrap().await.unwrap();
    assert_eq!(shed.header("x-ebb-reason"), "over-budget");
    assert_eq!(
        shed.sentence(),
        "too many requests wait over all, and those in namespace shop have their share"
    );
    world.held(4).await;
    let bytes = world.metric("ebb_activator_held_bytes").await;
    assert!(bytes >= f64::from(4 * (16 << 10)), "{bytes}");

    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let pods = told::pods(&bank).pod("b", b.address, PodState::Serving);
    world.operator.tell(pods.frame()).await;
    assert_eq!(teller.await.unwrap().text(), "b");
    let _world = serving_at(world, a.address).await;
    for request in shop {
        assert_eq!(request.await.unwrap().text(), "a");
    }
}

#[tokio::test]
async fn what_waits_is_counted_with_all_of_its_head() {
    let world = World::new().await;
    let held = || async { world.metric("ebb_activator_held_bytes").await };
    let mut short = Raw::connect(world.address).await;
    short.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    world.held(1).await;
    let short = held().await;
    for (count, long) in [
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(50_000)),
        // It concerns this connection only, and no pod gets it.
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: {}\r\n\r\n",
            "x".repeat(50_000)
        ),
    ]
    .iter()
    .enumerate()
    {
        let before = held().await;
        let mut raw = Raw::connect(world.address).await;
        raw.write(long).await;
        world.held(2).await;
        let more = held().await - before;
        assert!(more >= short + 50_000.0, "{count}: {more}");
        drop(raw);
        world.held(1).await;
    }
}
