//! How long things may take.

use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::time::sleep;

use crate::support::{
    backend::Backend,
    client::{self, Raw},
    world::{World, serving_at},
};

#[tokio::test]
async fn a_pod_that_takes_too_long_is_cut_off() {
    let world = World::with(&[], |route| route.request_ms = 200).await;
    let backend = Backend::start("a");
    let world = serving_at(world, backend.address).await;
    let late = client::get(world.address, "/late").await;
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(late.header("x-ebb-reason"), "request-timeout");
    let mut connection = client::connect(world.address).await;
    let response = connection
        .send_request(client::request("/gate"))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.into_body().collect().await.is_err());
    world
        .metric_is("ebb_activator_requests_in_flight", 0.0)
        .await;
}

#[tokio::test]
async fn a_pod_that_does_not_begin_is_cut_off_and_one_that_has_begun_is_not() {
    let world = World::with(&[], |route| route.first_byte_ms = Some(200)).await;
    let backend = Backend::start("a");
    let world = serving_at(world, backend.address).await;
    let late = client::get(world.address, "/late").await;
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(late.header("x-ebb-reason"), "request-timeout");
    assert!(late.text().contains("within 200ms"), "{}", late.text());
    // Seven pieces, a tenth of a second apart.
    let drip = client::get(world.address, "/drip").await;
    assert_eq!(drip.text(), "dripdripdripdripdripdripdrip");
}

#[tokio::test]
async fn a_pod_that_falls_silent_is_cut_off_and_one_that_goes_on_is_not() {
    let world = World::with(&[], |route| route.idle_ms = Some(400)).await;
    let backend = Backend::start("a");
    let world = serving_at(world, backend.address).await;
    let drip = client::get(world.address, "/drip").await;
    assert_eq!(drip.text(), "dripdripdripdripdripdripdrip");
    let mut raw = Raw::connect(world.address).await;
    raw.write("GET /gate HTTP/1.1\r\nHost: hello.shop\r\n\r\n")
        .await;
    let answer = raw.read_all().await;
    // Aborted: no last chunk, and no text of ours.
    assert!(answer.ends_with("6\r\nbegin \r\n"), "{answer}");
    world
        .metric_is("ebb_activator_requests_in_flight", 0.0)
        .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_does_not_keep_the_pod() {
    let world = World::with(&[], |route| route.request_ms = 500).await;
    let backend = Backend::start("a");
    let world = serving_at(world, backend.address).await;
    let mut raw = Raw::connect(world.address).await;
    raw.write("GET /flood HTTP/1.1\r\nHost: hello.shop\r\n\r\n")
        .await;
    raw.read_to("\r\n\r\n").await;
    world
        .metric_is("ebb_activator_requests_in_flight", 1.0)
        .await;
    world
        .metric_is("ebb_activator_requests_in_flight", 0.0)
        .await;
    world
        .metric_is("ebb_activator_client_connections", 0.0)
        .await;
}

/// The head of a request whose body comes in seven bytes.
const SEVEN: &str = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n";

#[tokio::test]
async fn the_time_that_a_client_takes_to_send_its_body_is_not_the_pods() {
    let world = World::with(&[], |route| route.first_byte_ms = Some(400)).await;
    let backend = Backend::start("a");
    let world = serving_at(world, backend.address).await;
    let mut raw = Raw::connect(world.address).await;
    raw.write(SEVEN).await;
    for _ in 0..7 {
        sleep(Duration::from_millis(100)).await;
        raw.write("x").await;
    }
    let answer = raw.read_to("xxxxxxx").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // From its end on it is.
    let late = SEVEN.replace("/echo", "/late");
    raw.write(&format!("{late}xxxxxx")).await;
    sleep(Duration::from_millis(500)).await;
    raw.write("x").await;
    let answer = raw.read_to(")\n").await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("within 400ms"), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_send_its_body_is_told_that_it_was_too_slow() {
    let world = World::with(&[], |route| route.request_ms = 500).await;
    let backend = Backend::start("a");
    let world = serving_at(world, backend.address).await;
    let mut raw = Raw::connect(world.address).await;
    raw.write(&format!("{SEVEN}xxx")).await;
    let answer = raw.read_all().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.contains("\r\nx-ebb-reason: body-timeout\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.contains("within 500ms"), "{answer}");
    world
        .metric_is("ebb_activator_requests_in_flight", 0.0)
        .await;
}

#[tokio::test]
async fn a_pod_that_hangs_while_its_client_could_say_more_is_named() {
    let world = World::with(&[], |route| route.first_byte_ms = Some(400)).await;
    let backend = Backend::start("a");
    let world = serving_at(world, backend.address).await;
    let mut raw = Raw::connect(world.address).await;
    // Nobody knows whether this is all that it says before it has heard something.
    raw.write("POST /late HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        .await;
    let answer = raw.read_all().await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("within 400ms"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}
