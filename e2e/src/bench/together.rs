//! Many Functions woken at one instant beside as many raw patches at one instant.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use serde_json::json;

use crate::{
    bench::{cold_start::verdict, floor, line, p50, percentile},
    scene::Scene,
};

const REST: Duration = Duration::from_secs(3);

pub(super) async fn run(scene: &Scene, rounds: usize, herd: usize) -> Result<()> {
    let ebb: Vec<String> = (0..herd).map(|i| format!("herd-{i}")).collect();
    let raw: Vec<String> = (0..herd).map(|i| format!("raw-{i}")).collect();
    for name in &ebb {
        scene
            .function(name, json!({"scale": {"idleAfter": "5s"}}))
            .await?;
    }
    for name in &raw {
        floor::same_pod(scene, name, &ebb[0]).await?;
    }
    println!(
        "{herd} at one instant, {rounds} rounds in turn: raw patches of the pod that Ebb makes, first requests through Ebb"
    );
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        // Who comes second may find the machine busier: take turns.
        let (floor, through) = if round % 2 == 0 {
            let floor = raw_herd(scene, &raw).await?;
            (floor, ebb_herd(scene, &ebb).await?)
        } else {
            let through = ebb_herd(scene, &ebb).await?;
            (raw_herd(scene, &raw).await?, through)
        };
        let ratio = p50(&through) / p50(&floor);
        let name = if round == 0 {
            "warm-up".to_owned()
        } else {
            format!("round {round}")
        };
        println!("  {}", line(&format!("{name}: raw patches"), &floor));
        println!(
            "  {}   ratio of p50 {ratio:.3}",
            line(&format!("{name}: through Ebb"), &through)
        );
        if round > 0 {
            ratios.push(ratio);
        }
    }
    ratios.sort_by(f64::total_cmp);
    verdict(
        "median of the rounds' p50 ratios",
        percentile(&ratios, 0.5),
        1.15,
    );
    Ok(())
}

async fn raw_herd(scene: &Scene, names: &[String]) -> Result<Vec<Duration>> {
    let times = try_join_all(names.iter().map(|name| floor::cold_start(scene, name))).await?;
    try_join_all(names.iter().map(|name| floor::to_zero(scene, name))).await?;
    tokio::time::sleep(REST).await;
    Ok(times)
}

async fn ebb_herd(scene: &Scene, names: &[String]) -> Result<Vec<Duration>> {
    let mut addresses = Vec::new();
    for name in names {
        ensure!(
            scene.pods(name).await?.is_empty(),
            "{name} has pods before its cold start"
        );
        addresses.push((scene.address(name).await?, name));
    }
    let answers = try_join_all(
        addresses
            .iter()
            .map(|(address, name)| crate::client::get(*address, name, "/")),
    )
    .await?;
    let times = answers
        .iter()
        .map(|a| a.expect(200).map(|a| a.took))
        .collect::<Result<Vec<_>>>()?;
    try_join_all(
        names
            .iter()
            .map(|name| scene.wait_zero(name, Duration::from_secs(60))),
    )
    .await?;
    tokio::time::sleep(REST).await;
    Ok(times)
}
