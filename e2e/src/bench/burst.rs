//! A burst of first requests to one Function at zero: how long after the first answer the others come.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::{
    bench::percentile,
    scene::Scene,
    tests::{burst, spread},
};

/// Milliseconds from the first answer within which 99 % should have come.
const BAR: f64 = 100.0;

pub(super) async fn run(scene: &Scene, requests: usize, rounds: usize) -> Result<()> {
    scene
        .function("hello", json!({"scale": {"idleAfter": "3s"}}))
        .await?;
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let held = burst(scene, "hello", requests).await?;
        println!(
            "round {round}: {requests} to a Function at zero: {}",
            spread(&held)
        );
        let direct = burst(scene, "hello", requests).await?;
        println!(
            "         {requests} to the same one warm: {}",
            spread(&direct)
        );
        cold.push(tail(&held));
        warm.push(tail(&direct));
        scene.wait_zero("hello", Duration::from_secs(60)).await?;
    }
    cold.sort_by(f64::total_cmp);
    warm.sort_by(f64::total_cmp);
    let (cold, warm) = (percentile(&cold, 0.5), percentile(&warm, 0.5));
    let met = if cold <= BAR { "met" } else { "MISSED" };
    println!(
        "p99 after the first answer, median of the rounds: {cold:.0} ms from zero (bar {BAR} ms: {met}), {warm:.0} ms warm"
    );
    Ok(())
}

/// Milliseconds from the first answer to the one by which 99 % had come.
fn tail(times: &[Duration]) -> f64 {
    let p99 = times[times.len() * 99 / 100];
    (p99 - times[0]).as_secs_f64() * 1000.0
}
