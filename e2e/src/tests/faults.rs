//! Parts of Ebb, or the Function itself, go away in the worst moment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    client::Answer,
    install::NAMESPACE,
    load::Load,
    process,
    scene::{Scene, eventually},
};

const SOON: Duration = Duration::from_secs(30);

fn request(scene: &Scene, path: &'static str) -> JoinHandle<Result<Answer>> {
    let scene = scene.clone();
    tokio::spawn(async move { scene.get("hello", path).await })
}

/// A Function whose pods listen only after a while, so that requests are surely held for that long.
async fn slow(scene: &Scene, milliseconds: &str) -> Result<()> {
    scene
        .function("hello", scene.with_env(&[("START_DELAY_MS", milliseconds)]))
        .await
}

/// Waits until the Function has a pod: its cold start is under way.
async fn wait_starting(scene: &Scene) -> Result<()> {
    let starting = async || Ok((!scene.pods("hello").await?.is_empty()).then_some(()));
    eventually(SOON, "a pod is starting", starting).await
}

pub(super) async fn ebb_pods(scene: &Scene, component: &str) -> Result<Vec<Pod>> {
    let of = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
    let pods = Api::<Pod>::namespaced(scene.client.clone(), NAMESPACE);
    let mut pods = pods.list(&of).await?.items;
    // Those that an earlier test has replaced serve what they have until their drain is over.
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(pods)
}

/// Waits until all of Ebb's pods are ready again, for the tests that follow.
pub(crate) async fn wait_whole(scene: &Scene) -> Result<()> {
    for part in ["operator", "activator"] {
        let deployment = format!("deployment/ebb-{part}");
        scene
            .cluster
            .kubectl(&[
                "--namespace",
                NAMESPACE,
                "rollout",
                "status",
                &deployment,
                // The kubelet waits up to five minutes before it starts again what was killed often.
                "--timeout=330s",
            ])
            .await?;
    }
    Ok(())
}

pub(super) async fn function_deleted_with_requests_held(scene: Scene) -> Result<()> {
    slow(&scene, "60000").await?;
    let held = request(&scene, "/");
    wait_starting(&scene).await?;
    scene
        .kubectl(&["delete", "fn", "hello", "--wait=false"])
        .await?;
    let answer = tokio::time::timeout(Duration::from_secs(10), held)
        .await
        .context("the held request was not answered")???;
    answer.expect(503)?;
    ensure!(
        answer.text().contains("deleted"),
        "the answer does not say why: {}",
        answer.text()
    );
    Ok(())
}

pub(super) async fn function_deleted_with_requests_in_flight(scene: Scene) -> Result<()> {
    scene.function("hello", json!({})).await?;
    scene.get("hello", "/").await?.expect(200)?;
    let in_flight = request(&scene, "/sleep?ms=4000");
    let dripping = request(&scene, "/drip?bytes=40000&ms=4000");
    // Both are in the pod when the next one is answered on a connection of its own.
    let mut probe = scene.connect("hello").await?;
    let arrived = eventually(SOON, "both requests are in the pod", async || {
        Ok(scene
            .get("hello", "/requests")
            .await?
            .text()
            .trim()
            .parse::<u32>()
            .ok()
            .filter(|n| *n >= 1))
    });
    arrived.await?;
    probe.get("/sleep?ms=500").await?.expect(200)?;
    scene
        .kubectl(&["delete", "fn", "hello", "--wait=false"])
        .await?;
    in_flight.await??.expect(200)?;
    let answer = dripping.await??;
    ensure!(
        answer.expect(200)?.body.len() == 40_000,
        "the body was cut to {} bytes",
        answer.body.len()
    );
    Ok(())
}

pub(super) async fn activator_deleted_during_a_cold_start(scene: Scene) -> Result<()> {
    slow(&scene, "3000").await?;
    let held: Vec<_> = (0..8).map(|_| request(&scene, "/")).collect();
    wait_starting(&scene).await?;
    let victim = ebb_pods(&scene, "activator")
        .await?
        .remove(0)
        .metadata
        .name
        .context("a pod has a name")?;
    Api::<Pod>::namespaced(scene.client.clone(), NAMESPACE)
        .delete(&victim, &DeleteParams::default())
        .await?;
    // New requests are answered, and those that the leaving activator holds too: it waits for them.
    scene.get("hello", "/").await?.expect(200)?;
    for request in held {
        request.await??.expect(200)?;
    }
    wait_whole(&scene).await
}

/// The process of the operator that holds the lease.
pub(crate) async fn leader_process(scene: &Scene) -> Result<i32> {
    let lease = Api::<Lease>::namespaced(scene.client.clone(), NAMESPACE)
        .get("ebb-operator")
        .await?;
    let holder = lease
        .spec
        .and_then(|s| s.holder_identity)
        .context("nobody holds the lease")?;
    let pods = ebb_pods(scene, "operator").await?;
    let pod = pods
        .iter()
        .find(|p| p.metadata.name.as_deref() == Some(&holder))
        .context("the leader has no pod")?;
    let uid = pod.metadata.uid.as_deref().context("a pod has a UID")?;
    process::find("operator", uid)
        .with_context(|| format!("no process of pod {holder} on this machine"))
}

/// The processes of the activators that run.
pub(crate) async fn activator_processes(scene: &Scene) -> Result<Vec<i32>> {
    let pods = ebb_pods(scene, "activator").await?;
    let uids = pods.iter().filter_map(|p| p.metadata.uid.as_deref());
    Ok(uids
        .filter_map(|uid| process::find("activator", uid))
        .collect())
}

/// Sends SIGKILL. A deletion of the pod would let it leave in order.
pub(crate) fn kill(pid: i32) -> Result<()> {
    use nix::{sys::signal, unistd::Pid};
    signal::kill(Pid::from_raw(pid), signal::Signal::SIGKILL)?;
    Ok(())
}

async fn kill_leader(scene: &Scene) -> Result<()> {
    kill(leader_process(scene).await?)
}

pub(super) async fn leader_killed_while_warm(scene: Scene) -> Result<()> {
    scene
        .function("hello", json!({"scale": {"idleAfter": "1m"}}))
        .await?;
    let mut kept = scene.connect("hello").await?;
    kept.get("/").await?.expect(200)?;
    kill_leader(&scene).await?;
    // Longer than the lease, so that another replica has taken over meanwhile.
    let end = tokio::time::Instant::now() + Duration::from_secs(15);
    let mut count = 0;
    while tokio::time::Instant::now() < end {
        kept.get("/sleep?ms=5").await?.expect(200)?;
        scene.get("hello", "/sleep?ms=5").await?.expect(200)?;
        count += 2;
    }
    println!("  {count} requests while the leader was killed and replaced, 0 failures");
    ensure!(scene.pods("hello").await?.len() == 1, "the count changed");
    wait_whole(&scene).await
}

pub(super) async fn leader_killed_during_a_cold_start(scene: Scene) -> Result<()> {
    scene.function("hello", json!({})).await?;
    // Killed first, so that no leader is there when the request comes: a follower has to wake the Function.
    kill_leader(&scene).await?;
    let answer = scene.get("hello", "/").await?;
    answer.expect(200)?;
    println!("  first request without a leader: {:?}", answer.took);
    ensure!(
        answer.took < Duration::from_secs(8),
        "it took {:?}, as long as a change of leader",
        answer.took
    );
    wait_whole(&scene).await?;
    // Killed while a pod is starting.
    slow(&scene, "3000").await?;
    scene
        .kubectl(&["delete", "pods", "--all", "--wait=false"])
        .await?;
    let held = request(&scene, "/");
    kill_leader(&scene).await?;
    held.await??.expect(200)?;
    wait_whole(&scene).await
}

/// Without any activator, clients reach the pods of a Function that runs; and when activators are back, they are in the path again.
pub(super) async fn no_activator_leaves_the_way_open(scene: Scene) -> Result<()> {
    scene
        .function("hello", json!({"scale": {"idleAfter": "5m"}}))
        .await?;
    scene.get("hello", "/").await?.expect(200)?;
    let scale = async |replicas: &str| {
        let count = format!("--replicas={replicas}");
        let args = [
            "--namespace",
            NAMESPACE,
            "scale",
            "deployment",
            "ebb-activator",
            &count,
        ];
        scene.cluster.kubectl(&args).await
    };
    let load = Load::closed(&scene, "hello", 2, "/sleep?ms=10");
    scale("0").await?;
    let (reason, message) = eventually(SOON, "clients are sent to the pods", async || {
        let routed = scene
            .wait_condition("hello", "Routed", "True", SOON)
            .await?;
        Ok((routed.0 == "FailOpen").then_some(routed))
    })
    .await?;
    let direct = scene.get("hello", "/headers").await;
    let restored = scale("2").await;
    direct?.expect(200)?;
    restored?;
    ensure!(
        message.contains("straight to the 1 pods"),
        "{reason}: {message}"
    );
    let back = async || {
        let routed = scene
            .wait_condition("hello", "Routed", "True", SOON)
            .await?;
        Ok((routed.0 == "ActivatorsReady").then_some(()))
    };
    eventually(SOON, "activators are in the path again", back).await?;
    let totals = load.end().await;
    println!(
        "  {} requests, {} of them failed, over {:?}: {:?}",
        totals.ok, totals.failed, totals.outage, totals.failures
    );
    scene.get("hello", "/").await?.expect(200)?;
    wait_whole(&scene).await
}
