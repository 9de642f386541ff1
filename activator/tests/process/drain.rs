//! Taking pods away without losing a request.

use crds::control::PodState;
use http::StatusCode;
use http_body_util::BodyExt as _;

use crate::support::{
    backend::Backend,
    client, eventually,
    operator::{Operator, drained, wake},
    world::{A_WHILE, World},
};

#[tokio::test]
async fn drained_is_told_only_when_the_last_body_has_ended_and_to_new_operators_too() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    let mut connection = client::connect(world.address).await;
    let response = connection
        .send_request(client::request("/gate"))
        .await
        .unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    let pods = world.pods().pod("a", backend.address, PodState::Draining);
    world.tell(pods.drain(7)).await;
    tokio::time::sleep(A_WHILE).await;
    assert!(world.operator.heard(drained).is_empty());
    backend.open();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "end");
    assert_eq!(world.operator.hears("the drain's end", drained).await, 7);
    let other = Operator::connect(world.activator.control).await;
    assert_eq!(other.hears("the drain's end", drained).await, 7);
}

#[tokio::test]
async fn a_request_during_a_drain_wakes_and_goes_when_the_drain_is_cancelled() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let pods = world
        .pods()
        .pod("a", backend.address, PodState::Draining)
        .drain(1);
    world.tell(pods).await;
    assert_eq!(world.operator.hears("the drain's end", drained).await, 1);
    let held = tokio::spawn(client::get(world.address, "/hello"));
    world.operator.hears("a wake", wake).await;
    assert_eq!(backend.connections(), 0);
    let pods = world
        .pods()
        .pod("a", backend.address, PodState::Serving)
        .drain(2);
    world.tell(pods).await;
    assert_eq!(held.await.unwrap().status, StatusCode::OK);
    assert_eq!(world.operator.heard(drained), [1]);
}

#[tokio::test]
async fn a_drain_that_was_cancelled_is_never_told_to_be_over() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let pods = |world: &World, state, drain| {
        let pods = world.pods().pod("a", backend.address, state);
        pods.drain(drain)
    };
    world.tell(pods(&world, PodState::Serving, 0)).await;
    let late = tokio::spawn(client::get(world.address, "/late"));
    world
        .metric_is("ebb_activator_requests_in_flight", 1.0)
        .await;
    world.tell(pods(&world, PodState::Draining, 1)).await;
    // That a request is held shows that the drain has begun, and that it goes, that it is cancelled.
    let held = eventually("the drain has begun", async || {
        let request = tokio::spawn(client::get(world.address, "/hello"));
        eventually("it is answered or held", async || {
            let held = world.metric("ebb_activator_requests_held").await == 1.0;
            (held || request.is_finished()).then_some(())
        })
        .await;
        (!request.is_finished()).then_some(request)
    })
    .await;
    world.tell(pods(&world, PodState::Serving, 2)).await;
    assert_eq!(held.await.unwrap().text(), "a");
    backend.open();
    assert_eq!(late.await.unwrap().text(), "late");
    world.tell(pods(&world, PodState::Draining, 3)).await;
    assert_eq!(
        world.operator.hears("the third drain's end", drained).await,
        3
    );
    assert_eq!(world.operator.heard(drained), [3]);
}

#[tokio::test]
async fn a_new_cold_start_after_a_drain_wakes_at_once() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let first = tokio::spawn(client::get(world.address, "/hello"));
    world.operator.hears("a wake", wake).await;
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    first.await.unwrap();
    let pods = world.pods().pod("a", backend.address, PodState::Draining);
    world.tell(pods.drain(1)).await;
    world.operator.hears("the drain's end", drained).await;
    world.operator.forget();
    let asked = tokio::time::Instant::now();
    let second = tokio::spawn(client::get(world.address, "/hello"));
    world.operator.hears("a second wake", wake).await;
    assert!(asked.elapsed() < std::time::Duration::from_millis(500));
    second.abort();
}
