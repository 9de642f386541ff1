//! How long things may take.

use http::StatusCode;
use http_body_util::BodyExt as _;

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
