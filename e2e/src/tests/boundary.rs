//! The moment in which a Function goes to zero is the one in which a request is easiest to lose.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use tokio::time::Instant;

use crate::{client::Connection, scene::Scene};

const LASTS: Duration = Duration::from_secs(180);

/// Requests at random gaps around `idleAfter`, on kept and new connections: none fails, and the Function really went to zero again and again.
pub(super) async fn no_request_is_lost_around_zero(scene: Scene) -> Result<()> {
    scene
        .function("hello", json!({"scale": {"idleAfter": "2s"}}))
        .await?;
    let done = Arc::new(AtomicBool::new(false));
    let pods = tokio::spawn(count_pods(scene.clone(), done.clone()));
    let mut kept: Option<Connection> = None;
    let (mut sent, mut held) = (0, 0);
    let end = Instant::now() + LASTS;
    while Instant::now() < end {
        let answer = if fastrand::bool() {
            scene.get("hello", "/").await?
        } else {
            if kept.is_none() {
                kept = Some(scene.connect("hello").await?);
            }
            match kept.as_mut() {
                Some(connection) => connection.get("/").await?,
                None => continue,
            }
        };
        answer.expect(200)?;
        sent += 1;
        held += usize::from(answer.headers.contains_key("server-timing"));
        tokio::time::sleep(Duration::from_secs_f64(1.5 + fastrand::f64())).await;
    }
    done.store(true, Ordering::Relaxed);
    let cycles = pods.await??;
    println!("  {sent} requests, {held} of them held, {cycles} pods started from zero, 0 failures");
    ensure!(cycles >= 20, "only {cycles} cycles to zero and back");
    Ok(())
}

/// How many different pods the Function had; with at most one at a time each is a cycle.
async fn count_pods(scene: Scene, done: Arc<AtomicBool>) -> Result<usize> {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    while !done.load(Ordering::Relaxed) {
        let pods: Vec<Pod> = scene.pods("hello").await?;
        seen.extend(pods.iter().map(ResourceExt::name_any));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(seen.len())
}
