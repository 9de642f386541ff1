//! What an idle Function costs: objects in the API server, and memory in Ebb's processes.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde_json::json;

use crate::{install::NAMESPACE, scene::Scene};

/// Functions created at once.
const CONCURRENT: usize = 8;

/// Time for the processes' memory to settle.
const REST: Duration = Duration::from_secs(5);

pub(super) async fn run(scene: &Scene, functions: usize) -> Result<()> {
    scene.function("one", json!({})).await?;
    let kinds = "functions,deployments,replicasets,services,endpointslices,pods";
    println!(
        "objects of one idle Function:\n{}",
        scene.kubectl(&["get", kinds, "-o", "name"]).await?
    );
    tokio::time::sleep(REST).await;
    let before = memory(scene).await?;
    stream::iter(0..functions)
        .map(|i| async move { scene.function(&format!("idle-{i}"), json!({})).await })
        .buffer_unordered(CONCURRENT)
        .try_collect::<Vec<()>>()
        .await?;
    tokio::time::sleep(REST).await;
    println!("resident memory with {functions} more idle Functions:");
    for (pod, after) in memory(scene).await? {
        let Some(before) = before.get(&pod) else {
            continue;
        };
        let each = after.saturating_sub(*before) as f64 / functions as f64;
        println!("  {pod:<34} {before:>7} kB -> {after:>7} kB, {each:>5.1} kB a Function");
    }
    Ok(())
}

/// Resident kilobytes of each of Ebb's processes, by pod.
async fn memory(scene: &Scene) -> Result<BTreeMap<String, u64>> {
    let of = ListParams::default().labels("app.kubernetes.io/name=ebb");
    let pods = Api::<Pod>::namespaced(scene.client.clone(), NAMESPACE)
        .list(&of)
        .await?;
    let mut found = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.context("a pod has a name")?;
        let uid = pod.metadata.uid.context("a pod has a UID")?;
        if let Some(kilobytes) = ["operator", "activator"]
            .iter()
            .find_map(|p| crate::process::find(p, &uid))
            .and_then(resident)
        {
            found.insert(name, kilobytes);
        }
    }
    Ok(found)
}

fn resident(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
