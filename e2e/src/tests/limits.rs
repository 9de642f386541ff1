//! A limit of requests at once in a pod holds whatever happens around it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use serde_json::json;

use crate::{
    install::NAMESPACE,
    load::{Load, ready},
    scene::{Scene, eventually, names},
    tests::faults::{ebb_pods, wait_whole},
};

const SOON: Duration = Duration::from_secs(60);

/// Pods go one after another, and then the activators, of which one keeps the limit: no two requests meet, and none is lost.
pub(super) async fn no_two_requests_meet_in_a_pod(scene: Scene) -> Result<()> {
    let spec = json!({"concurrencyLimit": 1, "scale": {"min": 3, "max": 3}});
    scene.function("hello", spec).await?;
    let running = async || {
        eventually(SOON, "3 pods are ready", async || {
            Ok((ready(&scene, "hello").await? == 3).then_some(()))
        })
        .await
    };
    running().await?;
    let load = Load::closed(&scene, "hello", 30, "/alone?ms=5");
    let served = async |more: u64| {
        let wanted = load.ok() + more;
        eventually(SOON, "requests are answered", async || {
            Ok((load.ok() >= wanted).then_some(()))
        })
        .await
    };
    served(100).await?;
    for victim in names(&scene.pods("hello").await?) {
        let before = uids(&scene).await?;
        scene
            .api::<Pod>()
            .delete(&victim, &DeleteParams::default())
            .await?;
        eventually(SOON, "another pod runs", async || {
            let now = uids(&scene).await?;
            Ok((now.len() == 3 && now != before).then_some(()))
        })
        .await?;
        running().await?;
        served(100).await?;
    }
    let activators = names(&ebb_pods(&scene, "activator").await?);
    ensure!(activators.len() == 2, "activators: {activators:?}");
    for victim in activators {
        let api = Api::<Pod>::namespaced(scene.client.clone(), NAMESPACE);
        api.delete(&victim, &DeleteParams::default()).await?;
        served(100).await?;
        wait_whole(&scene).await?;
        served(100).await?;
    }
    let totals = load.end().await;
    println!(
        "  {} requests, one at a time in 3 pods, through 3 pods and 2 activators deleted: {} failed",
        totals.ok, totals.failed
    );
    totals.all_ok().map(drop)
}

async fn uids(scene: &Scene) -> Result<BTreeSet<String>> {
    let pods = scene.pods("hello").await?;
    let alive = pods
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    alive
        .map(|pod| pod.metadata.uid.context("a pod has a UID"))
        .collect()
}
