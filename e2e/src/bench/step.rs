//! How soon the count follows a load that rises at one instant.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::wait::await_condition;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    bench::line,
    load::Load,
    scene::{Scene, names},
};

/// Requests at once that a pod is to have, and how many come. Each takes a second, so that the moment which a client needs between
/// two requests hardly lowers the average.
const TARGET: i32 = 10;
const CLIENTS: usize = 100;

/// Long enough for the one client before the step to be all that the windows know.
const BEFORE: Duration = Duration::from_secs(8);

pub(super) async fn run(scene: &Scene, rounds: usize) -> Result<()> {
    scene
        .function(
            "step",
            json!({"scale": {"target": TARGET, "idleAfter": "2s"}}),
        )
        .await?;
    let deployment = names(&scene.deployments("step").await?).remove(0);
    // 70 % of the target are aimed at.
    let needed = (CLIENTS as f64 / (f64::from(TARGET) * 0.7)).ceil() as i32;
    println!("from 1 to {CLIENTS} requests at once, {TARGET} a pod: until the count is {needed}");
    let mut times = Vec::new();
    for round in 1..=rounds {
        let one = Load::closed(scene, "step", 1, "/sleep?ms=1000");
        // At any moment of the second in which activators report.
        sleep(BEFORE + Duration::from_millis(fastrand::u64(0..1000))).await;
        let enough = move |d: Option<&Deployment>| {
            d.and_then(|d| d.spec.as_ref()?.replicas).unwrap_or(0) >= needed
        };
        let (api, name) = (scene.api::<Deployment>(), deployment.clone());
        let waiting = tokio::spawn(async move { await_condition(api, &name, enough).await });
        let step = Instant::now();
        let many = Load::closed(scene, "step", CLIENTS - 1, "/sleep?ms=1000");
        timeout(Duration::from_secs(30), waiting)
            .await
            .context("the count did not follow within 30 s")???;
        times.push(step.elapsed());
        sleep(Duration::from_secs(2)).await;
        many.end().await.all_ok()?;
        one.end().await.all_ok()?;
        println!(
            "  round {round}: {:.0} ms",
            times[round - 1].as_secs_f64() * 1000.0
        );
        scene.wait_zero("step", Duration::from_secs(60)).await?;
    }
    println!(
        "{} (bar: 1500 ms)",
        line("from the step to the count", &times)
    );
    Ok(())
}
