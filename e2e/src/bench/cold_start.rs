//! One Function's first request beside the floor.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    bench::{floor, line, p50, percentile},
    scene::Scene,
    tests::phases,
};

/// Time for the machine to come to rest after pods have gone: their sandboxes are removed in the background.
const REST: Duration = Duration::from_millis(700);

pub(super) async fn run(scene: &Scene, rounds: usize) -> Result<()> {
    scene
        .function("ebb", json!({"scale": {"idleAfter": "1s"}}))
        .await?;
    floor::same_pod(scene, "same-pod", "ebb").await?;
    floor::plain_pod(scene, "plain").await?;
    println!(
        "{rounds} cold starts each, in turn: a raw patch of the pod that Ebb makes, a first request through Ebb, a raw patch of a plain Deployment"
    );
    let (mut same, mut ebb, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let mut parts: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..=rounds {
        // What ran just before leaves its traces on the machine, so each comes first, second and third in turn.
        let mut times = [Duration::ZERO; 3];
        for turn in 0..3 {
            let which = (round + turn) % 3;
            times[which] = match which {
                0 => raw(scene, "same-pod").await?,
                1 => through_ebb(scene, &mut parts).await?,
                _ => raw(scene, "plain").await?,
            };
        }
        let ms = times.map(|t| t.as_secs_f64() * 1000.0);
        if round == 0 {
            println!(
                "  warm-up   same pod {:>5.0}   Ebb {:>5.0}   plain {:>5.0} ms",
                ms[0], ms[1], ms[2]
            );
            parts.clear();
            continue;
        }
        println!(
            "  round {round:>2}  same pod {:>5.0}   Ebb {:>5.0}   plain {:>5.0} ms",
            ms[0], ms[1], ms[2]
        );
        same.push(times[0]);
        ebb.push(times[1]);
        plain.push(times[2]);
    }
    println!("{}", line("raw scale patch, the pod that Ebb makes", &same));
    println!("{}", line("first request through Ebb", &ebb));
    println!("{}", line("raw scale patch, plain Deployment", &plain));
    let shown: Vec<String> = parts
        .iter_mut()
        .map(|(name, ms)| format!("{name} {:.1}", median(ms)))
        .collect();
    println!("Ebb's phases, medians in ms: {}", shown.join(", "));
    verdict("p50 of Ebb / same pod", p50(&ebb) / p50(&same), 1.10);
    verdict(
        "p50 of Ebb / plain Deployment",
        p50(&ebb) / p50(&plain),
        0.5,
    );
    Ok(())
}

pub(super) fn verdict(what: &str, ratio: f64, bar: f64) {
    let met = if ratio <= bar { "met" } else { "MISSED" };
    println!("{what}: {ratio:.3} (bar {bar:.2}: {met})");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(values, 0.5)
}

async fn raw(scene: &Scene, name: &str) -> Result<Duration> {
    let took = floor::cold_start(scene, name).await?;
    floor::to_zero(scene, name).await?;
    tokio::time::sleep(REST).await;
    Ok(took)
}

async fn through_ebb(scene: &Scene, parts: &mut BTreeMap<String, Vec<f64>>) -> Result<Duration> {
    ensure!(
        scene.pods("ebb").await?.is_empty(),
        "the Function has pods before its cold start"
    );
    let answer = scene.get("ebb", "/").await?;
    for (name, ms) in phases(answer.expect(200)?)? {
        parts.entry(name).or_default().push(ms);
    }
    scene.wait_zero("ebb", Duration::from_secs(60)).await?;
    tokio::time::sleep(REST).await;
    Ok(answer.took)
}
