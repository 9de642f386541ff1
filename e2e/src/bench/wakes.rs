//! Many Functions woken in a second: what the operator adds to the API server's own time.
//!
//! The pods run on a node without a kubelet, so that starting them costs next to nothing and the control plane alone is measured. Every request is
//! answered in the end, by one server for all pods.

mod answers;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    core::{ApiResource, DynamicObject},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    bench::{percentile, sorted_ms},
    client,
    cluster::{
        AsPod,
        fake::{self, FakeNode},
    },
    install,
    scene::{Scene, eventually},
};

/// Longest wait for all counts of a round.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a Function stays when it is idle. A round's last wake is over by then: the client that is compared with lowers nothing meanwhile either.
const STAYS: &str = "8s";

/// How often the client sends a patch that fails.
const TRIES: usize = 5;

/// When each Deployment was seen with pods.
type Seen = Arc<Mutex<BTreeMap<String, Instant>>>;

pub(super) async fn run(
    scene: &Scene,
    functions: usize,
    rates: &[u32],
    rounds: usize,
) -> Result<()> {
    let layout = scene.cluster.layout();
    let node = FakeNode::start(&scene.cluster).await?;
    let server = answers::serve().await?;
    let measured = async {
        // The client that is compared with would otherwise have the CPU of a process outside of the cluster, which is more than all pods together.
        // Not sooner: kwok would inherit it.
        let layout = layout.context("a fake node needs this checkout's own cluster")?;
        let _as_pod = AsPod::begin(layout)?;
        measure(scene, functions, rates, rounds).await
    }
    .await;
    server.abort();
    node.remove().await?;
    measured
}

async fn measure(scene: &Scene, functions: usize, rates: &[u32], rounds: usize) -> Result<()> {
    let ebb: Vec<String> = (0..functions).map(|i| format!("wake-{i}")).collect();
    let raw: Vec<String> = (0..functions).map(|i| format!("raw-{i}")).collect();
    println!("making {functions} Functions and as many Deployments");
    make(scene, &ebb, &raw).await?;
    let seen: Seen = Arc::default();
    let watching = tokio::spawn(watch(scene.clone(), seen.clone()));
    println!(
        "p50 and p99 in ms, medians of {rounds} rounds; bare: from a client's patch to the new count in a watch; Ebb: from a request to the same; wake: from the wake's arrival at the operator to the API server's answer (bar: 1.5 times bare, and p99 20 ms at 100)"
    );
    for &rate in rates {
        let count = functions.min(rate as usize * 4);
        let mut sides: [Vec<Quantiles>; 3] = Default::default();
        for round in 1..=rounds {
            let bare = patches(scene, &raw[..count], rate, &seen).await?;
            let began = k8s_openapi::jiff::Timestamp::now();
            let woken = requests(scene, &ebb[..count], rate, &seen).await?;
            let writes = writes(scene, began).await?;
            let found = [bare, woken, writes].map(|times| Quantiles::of(&times));
            println!(
                "    {rate:>3} a second, round {round}: {}",
                Quantiles::row(found)
            );
            sides
                .iter_mut()
                .zip(found)
                .for_each(|(side, q)| side.push(q));
        }
        let row = Quantiles::row(sides.map(|side| Quantiles::median(&side)));
        println!("  {rate:>3} a second, {count} of them: {row}");
    }
    watching.abort();
    Ok(())
}

/// Of the times of a round, in milliseconds.
#[derive(Clone, Copy)]
struct Quantiles {
    p50: f64,
    p99: f64,
}

impl Quantiles {
    fn of(times: &[Duration]) -> Self {
        let ms = sorted_ms(times);
        Self {
            p50: percentile(&ms, 0.5),
            p99: percentile(&ms, 0.99),
        }
    }

    fn median(rounds: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            percentile(&all, 0.5)
        };
        Self {
            p50: middle(|q| q.p50),
            p99: middle(|q| q.p99),
        }
    }

    /// The three sides in words.
    fn row([bare, ebb, wake]: [Self; 3]) -> String {
        let beside = |name: &str, side: Self| {
            let (p50, p99) = (side.p50 / bare.p50, side.p99 / bare.p99);
            format!(
                "{name} {:>6.1} {:>6.1} ({p50:.2} and {p99:.2} times)",
                side.p50, side.p99
            )
        };
        format!(
            "bare {:>6.1} {:>6.1}   {}   {}",
            bare.p50,
            bare.p99,
            beside("Ebb", ebb),
            beside("wake", wake)
        )
    }
}

/// How long the operators took from wakes to their writes since `began`, by their own logs.
async fn writes(scene: &Scene, began: k8s_openapi::jiff::Timestamp) -> Result<Vec<Duration>> {
    let since = format!("--since-time={began}");
    let logs = [
        "--namespace",
        install::NAMESPACE,
        "logs",
        "--selector=app.kubernetes.io/component=operator",
        "--tail=-1",
        &since,
    ];
    let logs = scene.cluster.kubectl(&logs).await?;
    let lines = logs
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let times: Vec<Duration> = lines
        .filter_map(|line| Some(Duration::from_micros(line["after_wake_us"].as_u64()?)))
        .collect();
    ensure!(
        !times.is_empty(),
        "the operators' logs have no start from zero"
    );
    Ok(times)
}

async fn make(scene: &Scene, ebb: &[String], raw: &[String]) -> Result<()> {
    let pod = fake::pod_spec();
    let spec =
        json!({"template": {"spec": pod}, "port": answers::PORT, "scale": {"idleAfter": STAYS}});
    stream::iter(ebb)
        .map(|name| scene.apply(name, spec.clone()))
        .buffer_unordered(8)
        .try_collect::<Vec<_>>()
        .await?;
    for name in ebb {
        scene.wait_condition(name, "Routed", "True", LIMIT).await?;
    }
    let mut pod = pod;
    pod["containers"] = json!([{"name": "app", "image": scene.image}]);
    for name in raw {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name}}, "spec": pod}},
        }))?;
        scene
            .api()
            .create(&PostParams::default(), &deployment)
            .await?;
    }
    // kube-proxy and the controllers come to rest.
    sleep(Duration::from_secs(5)).await;
    Ok(())
}

/// Notes when Deployments get pods. A Function's is known by the Function's name.
async fn watch(scene: Scene, seen: Seen) -> Result<()> {
    let kind = ApiResource::erase::<Deployment>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(scene.client.clone(), &scene.namespace, &kind);
    // An API server ends the watch of a client that does not keep up. What was missed is noted late, which is not in Ebb's favour.
    loop {
        let all = api.list(&ListParams::default()).await?;
        all.items.iter().for_each(|object| note(object, &seen));
        let version = all
            .metadata
            .resource_version
            .context("a list has a version")?;
        let mut events = std::pin::pin!(api.watch(&WatchParams::default(), &version).await?);
        while let Some(Ok(event)) = events.next().await {
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event {
                note(&object, &seen);
            }
        }
    }
}

fn note(object: &DynamicObject, seen: &Seen) {
    if object.data["spec"]["replicas"].as_u64().unwrap_or(0) == 0 {
        return;
    }
    let labels = object.metadata.labels.as_ref();
    let label = labels.and_then(|labels| labels.get("ebb.dev/function"));
    if let Some(name) = label.or(object.metadata.name.as_ref()) {
        seen.lock().entry(name.clone()).or_insert_with(Instant::now);
    }
}

/// Starts something for each name at this rate and returns how long it took until the watch showed pods.
async fn at_rate<F>(
    names: &[String],
    rate: u32,
    seen: &Seen,
    mut start: impl FnMut(String) -> F,
) -> Result<Vec<Duration>>
where
    F: Future<Output = ()> + Send + 'static,
{
    seen.lock().clear();
    let mut started = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for name in names {
        ticks.tick().await;
        started.insert(name.clone(), Instant::now());
        tasks.spawn(start(name.clone()));
    }
    let all = async || Ok((seen.lock().len() >= names.len()).then_some(()));
    eventually(LIMIT, "every count was raised", all).await?;
    tasks.shutdown().await;
    let seen = seen.lock();
    let times = started
        .iter()
        .filter_map(|(name, at)| Some(*seen.get(name)? - *at));
    let times: Vec<Duration> = times.collect();
    ensure!(times.len() == names.len(), "some counts were not seen");
    Ok(times)
}

async fn patches(scene: &Scene, names: &[String], rate: u32, seen: &Seen) -> Result<Vec<Duration>> {
    let api: Api<Deployment> = scene.api();
    let scale = |api: Api<Deployment>, name: String, replicas: i32| async move {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        // A count that was not lowered cannot be raised.
        for _ in 0..TRIES {
            let written = api
                .patch_scale(&name, &PatchParams::default(), &patch)
                .await;
            match written {
                Ok(_) => return,
                Err(error) => eprintln!("the client's patch of {name} has failed: {error}"),
            }
        }
    };
    let times = at_rate(names, rate, seen, |name| scale(api.clone(), name, 1)).await?;
    for name in names {
        scale(api.clone(), name.clone(), 0).await;
    }
    sleep(Duration::from_secs(8)).await;
    Ok(times)
}

async fn requests(
    scene: &Scene,
    names: &[String],
    rate: u32,
    seen: &Seen,
) -> Result<Vec<Duration>> {
    let mut addresses = BTreeMap::new();
    for name in names {
        addresses.insert(name.clone(), scene.address(name).await?);
    }
    let times = at_rate(names, rate, seen, |name| {
        let address = addresses[&name];
        async move { drop(client::get(address, "wake", "/").await) }
    })
    .await?;
    let asleep = async || {
        let all = scene
            .api::<Deployment>()
            .list(&ListParams::default().labels("ebb.dev/function"))
            .await?;
        let zero = |d: &Deployment| d.spec.as_ref().and_then(|s| s.replicas) == Some(0);
        Ok(all.items.iter().all(zero).then_some(()))
    };
    eventually(LIMIT, "all Functions are at zero again", asleep).await?;
    sleep(Duration::from_secs(8)).await;
    Ok(times)
}
