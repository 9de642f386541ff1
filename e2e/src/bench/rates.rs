//! Functions woken one after another at a rate, until the one node is no longer as fast, beside raw patches at the same rates.

use std::time::Duration;

use anyhow::Result;
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use serde_json::json;
use tokio::time::{interval, sleep};

use crate::{
    bench::{floor, line, p50},
    client,
    scene::{Scene, eventually},
};

/// Wakes in a second.
const RATES: [u32; 5] = [1, 2, 4, 8, 16];

/// How long each rate lasts.
const LASTS: u32 = 6;

/// Time for the node to come to rest.
const REST: Duration = Duration::from_secs(5);

pub(super) async fn run(scene: &Scene) -> Result<()> {
    let most = (RATES[RATES.len() - 1] * LASTS) as usize;
    let ebb: Vec<String> = (0..most).map(|i| format!("rate-{i}")).collect();
    let raw: Vec<String> = (0..most).map(|i| format!("raw-{i}")).collect();
    for name in &ebb {
        scene
            .function(name, json!({"scale": {"idleAfter": "5s"}}))
            .await?;
    }
    for name in &raw {
        floor::same_pod(scene, name, &ebb[0]).await?;
    }
    // Kubernetes' controllers take a while to get to know so many new Deployments.
    let known = async || {
        let all = scene
            .api::<Deployment>()
            .list(&ListParams::default())
            .await?;
        let seen = |d: &Deployment| {
            d.status
                .as_ref()
                .and_then(|s| s.observed_generation)
                .is_some()
        };
        Ok(all.items.iter().all(seen).then_some(()))
    };
    eventually(Duration::from_secs(60), "all Deployments are known", known).await?;
    sleep(REST).await;
    let mut first: Option<(f64, f64)> = None;
    for rate in RATES {
        let count = (rate * LASTS) as usize;
        let floor = patches(scene, &raw[..count], rate).await?;
        let through = requests(scene, &ebb[..count], rate).await?;
        let (raw_ms, ebb_ms) = (p50(&floor), p50(&through));
        println!(
            "{}",
            line(&format!("{rate:>2} a second: raw patches"), &floor)
        );
        println!(
            "{}   ratio of p50 {:.2}",
            line(&format!("{rate:>2} a second: through Ebb"), &through),
            ebb_ms / raw_ms
        );
        let (raw_first, ebb_first) = *first.get_or_insert((raw_ms, ebb_ms));
        if raw_ms > 2.0 * raw_first && ebb_ms > 2.0 * ebb_first {
            println!("both have doubled: the node starts no more than {rate} pods a second");
            break;
        }
    }
    Ok(())
}

async fn patches(scene: &Scene, names: &[String], rate: u32) -> Result<Vec<Duration>> {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    let mut started = Vec::new();
    for name in names {
        ticks.tick().await;
        let (scene, name) = (scene.clone(), name.clone());
        started.push(tokio::spawn(async move {
            floor::cold_start(&scene, &name).await
        }));
    }
    let times = join_all(started)
        .await
        .into_iter()
        .map(|t| t?)
        .collect::<Result<Vec<_>>>()?;
    try_join_all(names.iter().map(|name| floor::to_zero(scene, name))).await?;
    sleep(REST).await;
    Ok(times)
}

async fn requests(scene: &Scene, names: &[String], rate: u32) -> Result<Vec<Duration>> {
    let mut addresses = Vec::new();
    for name in names {
        addresses.push(scene.address(name).await?);
    }
    let mut ticks = interval(Duration::from_secs(1) / rate);
    let mut started = Vec::new();
    for address in addresses {
        ticks.tick().await;
        started.push(tokio::spawn(client::get(address, "rate", "/")));
    }
    let mut times = Vec::new();
    for answer in join_all(started).await {
        times.push(answer??.expect(200)?.took);
    }
    let zero = names
        .iter()
        .map(|name| scene.wait_zero(name, Duration::from_secs(60)));
    try_join_all(zero).await?;
    sleep(REST).await;
    Ok(times)
}
