//! A limit of requests at once in a pod.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use crds::control::{Keeper, Limit, PodState, ToOperator};
use http::{Request, StatusCode};
use http_body_util::Empty;
use tokio::task::JoinSet;

use crate::support::{
    backend::Backend, client, eventually, operator::wake, told::Pods, world::World,
};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The limit of 1, kept by one of the activators of these tests.
fn limit(term: u64, keeper: Option<u8>, busy: &[String]) -> Limit {
    let address = |number: u8| IpAddr::from([127, 0, 0, 1 + number]);
    Limit {
        per_pod: 1,
        term,
        keeper: keeper.map(|number| Keeper {
            activator: format!("activator-{number}"),
            address: address(number),
        }),
        busy: busy.to_vec(),
        activators: vec![address(0), address(1)],
    }
}

/// Three pods on one port, each at an address of its own.
fn three() -> Vec<Backend> {
    let first = Backend::at("a", "127.0.1.1:0".parse().unwrap());
    let port = first.address.port();
    let next = |number: u8| {
        Backend::at(
            NAMES[usize::from(number) - 1],
            ([127, 0, 1, number], port).into(),
        )
    };
    vec![first, next(2), next(3)]
}

fn serving(world: &World, backends: &[Backend]) -> Pods {
    let named = NAMES.iter().zip(backends);
    named.fold(world.pods(), |pods, (name, backend)| {
        pods.pod(name, backend.address, PodState::Serving)
    })
}

fn released(term: u64) -> impl Fn(&ToOperator) -> Option<Vec<String>> {
    move |frame| match frame {
        ToOperator::Released { term: of, busy, .. } if *of == term => Some(busy.clone()),
        _ => None,
    }
}

/// Clients that each send one request after another to `/alone`.
struct Clients {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU32>,
    tasks: JoinSet<BTreeMap<String, u32>>,
}

impl Clients {
    fn start(count: usize, addresses: &[SocketAddr]) -> Self {
        let (stop, good) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let mut tasks = JoinSet::new();
        for address in addresses.iter().cycle().take(count).copied() {
            let (stop, good) = (Arc::clone(&stop), Arc::clone(&good));
            tasks.spawn(async move {
                let mut bad = BTreeMap::new();
                let mut connection = client::connect(address).await;
                while !stop.load(Relaxed) {
                    let request = Request::get("/alone").header("host", "x");
                    let request = request.body(Empty::<Bytes>::new()).unwrap();
                    let answer = client::on(&mut connection, request).await;
                    if answer.status == StatusCode::OK {
                        good.fetch_add(1, Relaxed);
                    } else {
                        *bad.entry(format!("{} {}", answer.status, answer.text()))
                            .or_default() += 1;
                    }
                }
                bad
            });
        }
        Self { stop, good, tasks }
    }

    async fn served(&self, more: u32) {
        let wanted = self.good.load(Relaxed) + more;
        eventually("requests are answered", async || {
            (self.good.load(Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    /// Ends them; what they got that was not 200.
    async fn end(self) -> BTreeMap<String, u32> {
        self.stop.store(true, Relaxed);
        let all = self.tasks.join_all().await;
        all.into_iter()
            .flatten()
            .fold(BTreeMap::new(), |mut sum, (what, count)| {
                *sum.entry(what).or_default() += count;
                sum
            })
    }
}

#[tokio::test]
async fn no_two_requests_meet_in_a_pod_while_pods_come_and_go() {
    let mut world = World::new().await;
    let mut backends = three();
    let keeper = limit(1, Some(0), &[]);
    world
        .tell(serving(&world, &backends).limit(keeper.clone()))
        .await;
    let clients = Clients::start(100, &[world.address]);
    clients.served(200).await;
    for round in 0..30 {
        // One goes without a word, as a node does, and comes back as another pod.
        let dies = round % 3;
        backends[dies].stop();
        let mut pods = world.pods();
        for (number, backend) in backends.iter().enumerate().filter(|(n, _)| *n != dies) {
            pods = pods.pod(NAMES[number], backend.address, PodState::Serving);
        }
        world.tell(pods.limit(keeper.clone())).await;
        clients.served(10).await;
        let address = backends[dies].address;
        backends[dies] = eventually("the port is free", async || {
            let free = std::net::TcpListener::bind(address).is_ok();
            free.then(|| Backend::at(NAMES[dies], address))
        })
        .await;
        world
            .tell(serving(&world, &backends).limit(keeper.clone()))
            .await;
        clients.served(10).await;
    }
    let bad = clients.end().await;
    assert!(bad.keys().all(|what| what.starts_with("502")), "{bad:?}");
    assert!(
        bad.values().sum::<u32>() <= 30,
        "one for each that died: {bad:?}"
    );
}

#[tokio::test]
async fn no_two_requests_meet_in_a_pod_while_the_keeper_changes() {
    let mut first = World::new().await;
    let mut second = first.second().await;
    let backends = three();
    let clients = Clients::start(20, &[first.address, second.address]);
    for round in 0..40u64 {
        let (term, keeper) = (round + 1, (round % 2) as u8);
        let pods = serving(&first, &backends).limit(limit(term, None, &[]));
        first.tell(pods.clone()).await;
        second.tell(pods).await;
        let of_first = first.operator.hears("a release", released(term)).await;
        let of_second = second.operator.hears("a release", released(term)).await;
        let others = [of_second, of_first];
        let busy = &others[usize::from(keeper)];
        let pods = serving(&first, &backends).limit(limit(term, Some(keeper), busy));
        first.tell(pods.clone()).await;
        second.tell(pods).await;
        if busy.len() < backends.len() {
            clients.served(1).await;
        }
        // When what was in flight has ended all pods are the keeper's.
        let other = [&second, &first][usize::from(keeper)];
        eventually("all are released", async || {
            let busy = other.operator.heard(released(term)).pop()?;
            busy.is_empty().then_some(())
        })
        .await;
        let pods = serving(&first, &backends).limit(limit(term, Some(keeper), &[]));
        first.tell(pods.clone()).await;
        second.tell(pods).await;
        clients.served(20).await;
    }
    assert_eq!(clients.end().await, BTreeMap::new());
}

#[tokio::test]
async fn who_does_not_keep_the_limit_sends_on_and_tells_nothing_twice() {
    let mut first = World::new().await;
    let mut second = first.second().await;
    let backend = Backend::start("a");
    let pods = |world: &World| {
        let pods = world.pods().pod("a", backend.address, PodState::Serving);
        pods.limit(limit(1, Some(1), &[]))
    };
    second.tell(pods(&second)).await;
    first.tell(pods(&first)).await;
    first.operator.hears("a release", released(1)).await;
    let answer = client::get(first.address, "/hello").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "a"));
    let seen = backend.seen().remove(0);
    assert_eq!(
        seen.headers["x-forwarded-for"], "127.0.0.1",
        "one client, told once"
    );
    assert!(!seen.headers.contains_key("x-ebb-hops"));

    // A picture of before the present term names a keeper that is none any more.
    second.tell(second.pods().limit(limit(5, None, &[]))).await;
    second.operator.hears("a release", released(5)).await;
    second.tell(pods(&second)).await;
    let held = tokio::spawn(client::get(second.address, "/hello"));
    second.held(1).await;
    let newer = second.pods().pod("a", backend.address, PodState::Serving);
    second.tell(newer.limit(limit(6, Some(1), &[]))).await;
    assert_eq!(held.await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_finds_no_free_pod_in_time_is_told_so() {
    let mut world = World::with(&[], |route| route.cold_start_ms = 100).await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    world.tell(pods.limit(limit(1, Some(0), &[]))).await;
    let busy = tokio::spawn(client::get(world.address, "/late"));
    eventually("the pod has it", async || {
        (!backend.seen().is_empty()).then_some(())
    })
    .await;
    let refused = client::get(world.address, "/hello").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.header("x-ebb-reason"), "at-limit");
    assert_eq!(refused.header("retry-after"), "1");
    let woken = world.operator.heard(wake);
    assert!(woken.is_empty(), "no pod has to be started");
    backend.open();
    assert_eq!(busy.await.unwrap().status, StatusCode::OK);
    let after = client::get(world.address, "/hello").await;
    assert_eq!(after.header("server-timing"), "", "it was no cold start");
}

#[tokio::test]
async fn who_waits_for_a_busy_pod_asks_for_another_one_when_that_goes() {
    let mut world = World::new().await;
    let backend = Backend::start("a");
    let pods = world.pods().pod("a", backend.address, PodState::Serving);
    let keeper = limit(1, Some(0), &[]);
    world.tell(pods.limit(keeper.clone())).await;
    let busy = tokio::spawn(client::get(world.address, "/late"));
    eventually("the pod has it", async || {
        (!backend.seen().is_empty()).then_some(())
    })
    .await;
    let held = tokio::spawn(client::get(world.address, "/hello"));
    world.held(1).await;
    world.tell(world.pods().limit(keeper.clone())).await;
    world.operator.hears("a wake", wake).await;
    let other = Backend::start("b");
    let pods = world.pods().pod("b", other.address, PodState::Serving);
    world.tell(pods.limit(keeper)).await;
    assert_eq!(held.await.unwrap().text(), "b");
    backend.open();
    assert_eq!(busy.await.unwrap().status, StatusCode::OK);
}
