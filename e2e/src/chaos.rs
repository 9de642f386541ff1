//! Breaking parts of Ebb, or of the cluster, again and again under load.

mod outages;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    bench::{line, p50},
    cluster::Cluster,
    load::{Counts, Load, ready},
    scene::{Scene, eventually},
    tests::{activator_processes, kill, leader_process, wait_whole},
};

const SOON: Duration = Duration::from_secs(60);

/// Clients of the load, each with one connection.
const CLIENTS: u64 = 20;

/// What can be broken.
#[derive(Debug, Clone, Subcommand)]
pub enum Chaos {
    /// SIGKILL to the leading operator every 20 seconds, under a load for 4 pods and with cold starts of another Function
    Leader {
        /// Seconds
        #[arg(long, default_value_t = 180)]
        seconds: u64,
    },
    /// SIGKILL to the activators in turn, then a rolling restart, then SIGKILL to both again and again
    Activators,
    /// SIGKILL to a process of the control plane, which then stays away
    ControlPlane {
        /// Which one
        #[arg(long, default_value = "kube-apiserver", value_parser = ["kube-apiserver", "etcd"])]
        component: String,
        /// Seconds for which it is away
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// A power cut of the only node: every process of the control plane, the node and the pods is gone at once, and comes back
    Reboot {
        /// Seconds for which it is off
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Pods come and go every second, under 1,000 requests a second
    Churn {
        /// Seconds
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
    /// Nothing breaks: a steady load just at the target, and how often the count changes
    Nothing {
        /// Seconds
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
}

/// Runs one of them. Must be called inside the cluster's network namespace.
///
/// # Errors
/// If a request was lost that must not be, or a count was wrong.
pub async fn run(cluster: &Cluster, image: &str, chaos: &Chaos) -> Result<()> {
    let scene = Scene::open(cluster, image, "chaos").await?;
    let result = match chaos {
        Chaos::Leader { seconds } => leader(&scene, Duration::from_secs(*seconds)).await,
        Chaos::Activators => activators(&scene).await,
        Chaos::ControlPlane { component, seconds } => {
            outages::control_plane(&scene, component, Duration::from_secs(*seconds)).await
        }
        Chaos::Reboot { seconds } => outages::reboot(&scene, Duration::from_secs(*seconds)).await,
        Chaos::Churn { seconds } => churn(&scene, Duration::from_secs(*seconds)).await,
        Chaos::Nothing { seconds } => nothing(&scene, Duration::from_secs(*seconds)).await,
    };
    if result.is_err() {
        eprintln!("{}", scene.report().await);
    }
    scene.close().await?;
    result
}

/// A Function with 4 pods, and its load.
async fn four_pods(scene: &Scene, scale: serde_json::Value) -> Result<Load> {
    let mut spec = json!({"scale": {"target": 5, "utilization": 100, "idleAfter": "5m"}});
    spec["scale"]
        .as_object_mut()
        .into_iter()
        .for_each(|all| all.extend(scale.as_object().cloned().unwrap_or_default()));
    scene.function("busy", spec).await?;
    let load = Load::closed(scene, "busy", CLIENTS as usize, "/sleep?ms=100");
    running(scene, 4).await?;
    Ok(load)
}

async fn running(scene: &Scene, pods: usize) -> Result<()> {
    let enough = async || Ok((ready(scene, "busy").await? >= pods).then_some(()));
    eventually(SOON, &format!("{pods} pods are ready"), enough).await
}

/// A first request from zero of the Function `cold`.
async fn cold_start(scene: &Scene) -> Result<Duration> {
    scene.wait_zero("cold", SOON).await?;
    let answer = scene.get("cold", "/").await?;
    answer.expect(200)?;
    Ok(answer.took)
}

async fn leader(scene: &Scene, lasts: Duration) -> Result<()> {
    scene
        .function("cold", json!({"scale": {"idleAfter": "1s"}}))
        .await?;
    let load = four_pods(scene, json!({})).await?;
    let mut undisturbed = Vec::new();
    for _ in 0..6 {
        undisturbed.push(cold_start(scene).await?);
    }
    println!("{}", line("cold starts undisturbed", &undisturbed));
    let counts = Counts::follow(scene, "busy");
    let start = Instant::now();
    let mut disturbed = Vec::new();
    let mut kills = 0;
    while start.elapsed() < lasts {
        if start.elapsed() >= Duration::from_secs(20) * kills {
            // Between two leaders nobody can be killed; the next round comes soon.
            if let Ok(pid) = leader_process(scene).await {
                kill(pid)?;
                kills += 1;
                println!(
                    "  {:>4.0} s: the leader is killed",
                    start.elapsed().as_secs_f64()
                );
            }
        }
        // Without a leader nothing goes to zero, so these come when one leads, and right after one was killed.
        match tokio::time::timeout(Duration::from_secs(15), cold_start(scene)).await {
            Ok(took) => disturbed.push(took?),
            Err(_) => println!("  {:>4.0} s: not at zero", start.elapsed().as_secs_f64()),
        }
    }
    let seen = counts.since(start);
    let totals = load.end().await;
    println!(
        "{}",
        line(
            &format!("cold starts with {kills} leaders killed"),
            &disturbed
        )
    );
    println!(
        "{} requests, {} failed; counts {seen:?}",
        totals.ok, totals.failed
    );
    let bound = p50(&undisturbed) * 1.5 + 1000.0;
    let late: Vec<_> = disturbed
        .iter()
        .filter(|t| t.as_secs_f64() * 1000.0 > bound)
        .collect();
    totals.all_ok()?;
    ensure!(
        seen.iter().all(|count| *count >= 4),
        "the count fell below what the load needs: {seen:?}"
    );
    ensure!(late.is_empty(), "cold starts over {bound:.0} ms: {late:?}");
    wait_whole(scene).await
}

async fn activators(scene: &Scene) -> Result<()> {
    let load = four_pods(scene, json!({})).await?;
    one_after_another(scene, &load).await?;
    rolling_restart(scene, &load).await?;
    load.end().await;
    both(scene).await
}

/// Each kill may cost the requests that are on that process's connections.
async fn one_after_another(scene: &Scene, load: &Load) -> Result<()> {
    for round in 0..4 {
        let pids = activator_processes(scene).await?;
        let pid = *pids
            .get(round % 2)
            .context("there are not two activators")?;
        let (failed, refused) = (load.failed(), load.refused());
        kill(pid)?;
        let killed = Instant::now();
        // Until kube-proxy knows, new connections are sent to the process that is gone.
        let mut last = (Instant::now(), refused);
        while last.0.elapsed() < Duration::from_secs(3) {
            sleep(Duration::from_millis(20)).await;
            if load.refused() != last.1 {
                last = (Instant::now(), load.refused());
            }
        }
        wait_whole(scene).await?;
        let (lost, unsent) = (load.failed() - failed, load.refused() - refused);
        println!(
            "  activator {pid} killed: {lost} requests on its connections lost; {unsent} times no connection, for {:?}",
            last.0 - killed
        );
        ensure!(
            lost <= CLIENTS,
            "more requests failed than were on its connections"
        );
    }
    Ok(())
}

async fn rolling_restart(scene: &Scene, load: &Load) -> Result<()> {
    let before = load.failed() + load.refused();
    let restart = [
        "--namespace",
        crate::install::NAMESPACE,
        "rollout",
        "restart",
        "deployment/ebb-activator",
    ];
    scene.cluster.kubectl(&restart).await?;
    wait_whole(scene).await?;
    sleep(Duration::from_secs(10)).await;
    let lost = load.failed() + load.refused() - before;
    println!("  rolling restart: {lost} requests failed");
    ensure!(lost == 0, "a graceful restart lost requests");
    Ok(())
}

/// Killed as often as they come back, so that there is none for a while: clients reach the pods meanwhile.
async fn both(scene: &Scene) -> Result<()> {
    let load = Load::closed(scene, "busy", CLIENTS as usize, "/sleep?ms=100");
    sleep(Duration::from_secs(2)).await;
    let gone = Instant::now();
    let mut open = None;
    while gone.elapsed() < Duration::from_secs(10) {
        for pid in activator_processes(scene).await? {
            // It may have ended by itself meanwhile.
            let _ = kill(pid);
        }
        let ok = load.ok();
        sleep(Duration::from_millis(100)).await;
        let routed = scene
            .kubectl(&[
                "get",
                "fn",
                "busy",
                "-o",
                "jsonpath={.status.conditions[?(@.type==\"Routed\")].reason}",
            ])
            .await?;
        if open.is_none() && routed == "FailOpen" && load.ok() > ok + 10 {
            open = Some(gone.elapsed());
        }
    }
    println!("  both gone: clients reach the pods after {open:?}");
    let (back, _) = eventually(
        Duration::from_secs(120),
        "activators are in the path again",
        async || {
            let routed = scene.wait_condition("busy", "Routed", "True", SOON).await?;
            Ok((routed.0 == "ActivatorsReady").then_some(routed))
        },
    )
    .await?;
    wait_whole(scene).await?;
    let before = load.failed();
    sleep(Duration::from_secs(5)).await;
    println!(
        "  {back}: {} requests failed in the next 5 s",
        load.failed() - before
    );
    load.end().await;
    let open = open.context("clients did not reach the pods")?;
    ensure!(
        open <= Duration::from_secs(2),
        "it took {open:?} until clients reached the pods"
    );
    Ok(())
}

/// The least number of pods goes up and down, and the count follows it at once both ways: each pod that goes is drained first.
async fn churn(scene: &Scene, lasts: Duration) -> Result<()> {
    let scale = json!({"metric": "rps", "target": 1000, "min": 2, "downDelay": "0s", "window": "6s", "panic": {"window": "6s"}});
    scene.function("busy", json!({"scale": scale})).await?;
    running(scene, 2).await?;
    let counts = Counts::follow(scene, "busy");
    let loads: Vec<Load> = (0..4)
        .map(|_| Load::open(scene, "busy", 250, "/sleep?ms=5"))
        .collect();
    let start = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for min in [5, 2, 4, 3].into_iter().cycle() {
        ticks.tick().await;
        if start.elapsed() >= lasts {
            break;
        }
        let patch = json!({"spec": {"scale": {"min": min}}}).to_string();
        let patch = ["patch", "fn", "busy", "--type=merge", "-p", &patch];
        scene.kubectl(&patch).await?;
    }
    let changes = counts.since(start).len();
    let (mut ok, mut lost, mut failures) = (0, 0, Vec::new());
    for load in loads {
        let totals = load.end().await;
        ok += totals.ok;
        lost += totals.failed + totals.refused;
        failures.extend(totals.failures);
    }
    println!("  {ok} requests while the count changed {changes} times: {lost} failed");
    ensure!(
        changes as u64 >= lasts.as_secs() / 4,
        "the count hardly changed"
    );
    ensure!(lost == 0, "requests were lost: {failures:?}");
    Ok(())
}

async fn nothing(scene: &Scene, lasts: Duration) -> Result<()> {
    // 20 requests at once of 5 a pod: the average lies on the edge between 4 pods and 5.
    let load = four_pods(scene, json!({})).await?;
    scene
        .function(
            "open",
            json!({"scale": {"metric": "rps", "target": 10, "utilization": 100}}),
        )
        .await?;
    let open = Load::open(scene, "open", 30, "/");
    sleep(Duration::from_secs(70)).await;
    let (closed_counts, open_counts) =
        (Counts::follow(scene, "busy"), Counts::follow(scene, "open"));
    let start = Instant::now();
    sleep(lasts).await;
    let seen = [closed_counts.since(start), open_counts.since(start)];
    load.end().await.all_ok()?;
    open.end().await.all_ok()?;
    println!("  counts of 20 requests at once, 5 a pod: {:?}", seen[0]);
    println!("  counts of 30 requests a second, 10 a pod: {:?}", seen[1]);
    ensure!(
        seen.iter().all(|s| s.len() <= 2),
        "more than one change in {lasts:?}: {seen:?}"
    );
    Ok(())
}
