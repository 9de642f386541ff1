//! Ending without losing a request.

use crds::control::PodState;
use http::StatusCode;
use http_body_util::BodyExt as _;

use crate::support::{backend::Backend, client, eventually, operator::wake, world::World};

#[tokio::test]
async fn requests_in_pods_and_in_line_finish() {
    let world = World::new().await;
    let held = tokio::spawn(client::get(world.address, "/hello"));
    world.operator.hears("a wake", wake).await;
    let (address, pods) = (world.address, world.pods());
    let mut operator = world.operator;
    let ending = tokio::spawn(world.activator.shut_down());
    eventually("new connections are refused", async || {
        tokio::net::TcpStream::connect(address).await.err()
    })
    .await;
    assert!(!ending.is_finished());
    // The control stream is still there, so that the pod can come.
    let backend = Backend::start("a");
    let pods = pods.pod("a", backend.address, PodState::Serving);
    operator.tell(pods.frame()).await;
    let answer = held.await.unwrap();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (StatusCode::OK, "close")
    );
    ending.await.unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off_at_the_deadline() {
    let mut world = World::with(&["--drain-timeout=0.3"], |_| ()).await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    let mut connection = client::connect(world.address).await;
    let response = connection
        .send_request(client::request("/gate"))
        .await
        .unwrap();
    let body = tokio::spawn(response.into_body().collect());
    world.activator.shut_down().await;
    assert!(body.await.unwrap().is_err());
}

#[tokio::test]
async fn during_the_delay_it_is_unready_and_still_serves() {
    let mut world = World::with(&["--drain-delay=1"], |_| ()).await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    assert_eq!(
        client::get(world.address, "/hello")
            .await
            .header("connection"),
        ""
    );
    let (address, admin) = (world.address, world.activator.admin);
    let ending = tokio::spawn(world.activator.shut_down());
    eventually("unready", async || {
        let ready = client::get(admin, "/readyz").await;
        (ready.text() == "not ready: shutting down\n").then_some(())
    })
    .await;
    let answer = client::get(address, "/hello").await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (StatusCode::OK, "close")
    );
    ending.await.unwrap();
}
