//! What Ebb stands on is away for a while: a process of the control plane, or the whole node.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{CLIENTS, SOON, cold_start, four_pods, running};
use crate::{
    load::Load,
    scene::{Scene, eventually},
    tests::wait_whole,
};

/// One process of the control plane is away; warm requests do not notice, and afterwards everything goes on.
pub(super) async fn control_plane(scene: &Scene, component: &str, away: Duration) -> Result<()> {
    scene
        .function("cold", json!({"scale": {"idleAfter": "1s"}}))
        .await?;
    cold_start(scene).await?;
    let load = four_pods(scene, json!({})).await?;
    let killed = scene.cluster.kill(component)?;
    println!("  {component} is away for {away:?}");
    sleep(away).await;
    let (ok, failed) = (load.ok(), load.failed());
    killed.start()?;
    println!("  {ok} warm requests meanwhile, {failed} failed");
    let back = Instant::now();
    eventually(SOON * 2, "the API server answers", async || {
        Ok(scene.kubectl(&["get", "--raw", "/readyz"]).await.ok())
    })
    .await?;
    println!(
        "  the API server answers {:?} after its return",
        back.elapsed()
    );
    let request = async {
        eventually(SOON * 2, "a Function starts from zero again", async || {
            Ok(cold_start(scene).await.ok())
        })
        .await
    };
    let raised = eventually(SOON * 2, "Ebb has raised the count", async || {
        let deployments = scene.deployments("cold").await?;
        let raised = |d: &Deployment| d.spec.as_ref().and_then(|s| s.replicas) > Some(0);
        Ok(deployments.iter().any(raised).then(|| back.elapsed()))
    });
    let (took, raised) = tokio::join!(request, raised);
    let (took, raised) = (took?, raised?);
    println!(
        "  Ebb has written the count of a first request {raised:?} after its return, the pod has answered after {:?} (a cold start of {took:?})",
        back.elapsed()
    );
    load.end().await.all_ok()?;
    running(scene, 4).await
}

/// A node that was off loses what was in flight. What counts is that nobody has to help it afterwards: the same Functions run with as many pods
/// as before, and sleeping ones can be woken.
pub(super) async fn reboot(scene: &Scene, off: Duration) -> Result<()> {
    scene
        .function("cold", json!({"scale": {"idleAfter": "1s"}}))
        .await?;
    cold_start(scene).await?;
    let load = four_pods(scene, json!({})).await?;
    scene.wait_zero("cold", SOON).await?;
    let dark = scene.cluster.power_cut().await?;
    println!("  the node is off for {off:?}");
    sleep(off).await;
    let back = Instant::now();
    dark.power_on().await?;
    println!(
        "  the API server answers {:?} after power is back",
        back.elapsed()
    );
    let before = load.ok();
    eventually(SOON * 3, "requests are answered again", async || {
        Ok((load.ok() > before + CLIENTS).then_some(()))
    })
    .await?;
    println!("  warm requests are answered after {:?}", back.elapsed());
    wait_whole(scene).await?;
    running(scene, 4).await?;
    println!(
        "  every part of Ebb and four pods are ready after {:?}",
        back.elapsed()
    );
    let took = eventually(SOON * 2, "a Function starts from zero again", async || {
        Ok(cold_start(scene).await.ok())
    })
    .await?;
    println!(
        "  a first request is answered after {:?} (a cold start of {took:?})",
        back.elapsed()
    );
    load.end().await;
    let load = Load::closed(scene, "busy", CLIENTS as usize, "/sleep?ms=100");
    sleep(Duration::from_secs(10)).await;
    let totals = load.end().await;
    println!(
        "  {} requests in the 10 s after that, {} failed",
        totals.ok, totals.failed
    );
    ensure!(totals.ok > 0, "nothing was answered");
    totals.all_ok().map(drop)
}
