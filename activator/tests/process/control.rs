//! Operators and the control port.

use crds::control::{PodState, ToActivator, ToOperator};
use http::StatusCode;

use crate::support::{
    backend::Backend,
    client, eventually,
    operator::{Operator, bound, wake},
    told,
    world::{self, World, free_port},
};

#[tokio::test]
async fn ready_only_when_an_operator_has_told_everything() {
    let activator = world::activator(&[]);
    let ready = async || client::get(activator.admin, "/readyz").await;
    assert_eq!(ready().await.text(), "not ready: control\n");
    let mut operator = Operator::connect(activator.control).await;
    let name = |frame: &ToOperator| match frame {
        ToOperator::Hello { activator } => Some(activator.clone()),
        _ => None,
    };
    assert_eq!(operator.hears("hello", name).await, "activator-0");
    assert_eq!(ready().await.status, StatusCode::SERVICE_UNAVAILABLE);
    operator.sync(None).await;
    eventually("readiness", async || {
        (ready().await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_needs_the_token_that_is_in_the_file_now() {
    let activator = world::activator(&[]);
    let refused = Operator::try_connect(activator.control, "wrong").await;
    assert_eq!(refused.err(), Some(StatusCode::UNAUTHORIZED));
    let refused = Operator::try_connect(activator.control, "").await;
    assert_eq!(refused.err(), Some(StatusCode::UNAUTHORIZED));
    Operator::connect(activator.control).await;
}

#[tokio::test]
async fn without_operators_it_serves_on_with_what_it_knows() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    assert_eq!(client::get(world.address, "/hello").await.text(), "a");
    let next = Operator::connect(world.activator.control).await;
    drop(std::mem::replace(&mut world.operator, next));
    world.metric_is("ebb_activator_control_sessions", 1.0).await;
    assert_eq!(client::get(world.address, "/hello").await.text(), "a");
    // The new operator knows nothing of the Function, and as soon as it has said so the Function is gone.
    assert_eq!(
        world.operator.hears("the port", bound).await,
        world.route.port
    );
    world.operator.sync(Some(2)).await;
    world.metric_is("ebb_activator_functions", 0.0).await;
}

#[tokio::test]
async fn the_leader_with_the_highest_epoch_is_followed() {
    let mut world = World::new().await;
    let (old, new) = (Backend::start("old"), Backend::start("new"));
    let served_by = async |address, name: &str| {
        let what = format!("answers come from {name}");
        eventually(&what, async || {
            (client::get(address, "/hello").await.text() == name).then_some(())
        })
        .await;
    };
    let pods = world.pods().pod("old", old.address, PodState::Serving);
    world.tell(pods).await;
    served_by(world.address, "old").await;

    let mut other = Operator::connect(world.activator.control).await;
    other.tell(ToActivator::Route(world.route.clone())).await;
    let pods = world.pods().pod("new", new.address, PodState::Serving);
    other.tell(pods.frame()).await;
    other.sync(None).await;
    world.metric_is("ebb_activator_control_sessions", 2.0).await;
    served_by(world.address, "old").await;
    // It becomes the leader while the old one still believes to be.
    other.tell(ToActivator::Lead { epoch: Some(2) }).await;
    served_by(world.address, "new").await;
    let pods = world.pods().pod("old", old.address, PodState::Serving);
    world.tell(pods).await;
    served_by(world.address, "new").await;
    drop(other);
    served_by(world.address, "old").await;
}

#[tokio::test]
async fn every_operator_hears_a_wake() {
    let world = World::new().await;
    let other = Operator::connect(world.activator.control).await;
    other.hears("the port", bound).await;
    let held = tokio::spawn(client::get(world.address, "/hello"));
    other.hears("a wake", wake).await;
    world.operator.hears("a wake", wake).await;
    held.abort();
}

#[tokio::test]
async fn a_function_can_change_its_port_and_a_taken_port_is_told_and_retried() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    let port = free_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    world.route.port = port;
    let route = ToActivator::Route(world.route.clone());
    world.operator.tell(route).await;
    let failed = |frame: &ToOperator| match frame {
        ToOperator::BindFailed { port, .. } => Some(*port),
        _ => None,
    };
    assert_eq!(world.operator.hears("a failure", failed).await, port);
    drop(taken);
    let now_bound = |frame: &ToOperator| bound(frame).filter(|bound| *bound == port);
    world.operator.hears("the new port", now_bound).await;
    let moved = ([127, 0, 0, 1], port).into();
    assert_eq!(client::get(moved, "/hello").await.text(), "a");
    assert!(tokio::net::TcpStream::connect(world.address).await.is_err());
}

#[tokio::test]
async fn stats_tell_of_active_functions_and_once_that_they_are_idle() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods).await;
    let late = tokio::spawn(client::get(world.address, "/late"));
    let stats = |frame: &ToOperator| match frame {
        ToOperator::Stats { functions } => functions.first().cloned(),
        _ => None,
    };
    let busy = world.operator.hears("activity", stats).await;
    assert_eq!((busy.in_flight, busy.queued, busy.idle_ms), (1, 0, 0));
    assert!(busy.rps > 0.0, "{busy:?}");
    assert!(
        busy.concurrency > 0.0 && busy.concurrency <= 1.0,
        "{busy:?}"
    );
    backend.open();
    late.await.unwrap();
    let idle = |frame: &ToOperator| stats(frame).filter(|stats| stats.concurrency == 0.0);
    let idle = world.operator.hears("idleness", idle).await;
    assert_eq!((idle.in_flight, idle.rps), (0, 0.0));
    assert!(idle.idle_ms > 0);
}

#[tokio::test]
async fn a_function_that_is_told_again_after_its_removal_serves_again() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    for _ in 0..3 {
        let function = world.function.clone();
        world.operator.tell(ToActivator::Remove { function }).await;
        world
            .operator
            .tell(ToActivator::Route(world.route.clone()))
            .await;
        let pods = told::pods(&world.function).pod("a", backend.address, PodState::Serving);
        world.operator.forget();
        world.tell(pods).await;
        world.operator.hears("the port", bound).await;
        assert_eq!(client::get(world.address, "/hello").await.text(), "a");
    }
}
