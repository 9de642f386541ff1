//! The floor of a cold start: what Kubernetes itself needs from a scale patch to the first answer of the pod.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};

use crate::{
    client,
    scene::{Scene, eventually},
};

/// The port of the sample app.
const PORT: u16 = 8080;

/// How often a starting pod is asked.
const POLL: Duration = Duration::from_millis(2);

/// Makes a Deployment at zero with the pod spec that a Function's pods have.
pub(super) async fn same_pod(scene: &Scene, name: &str, function: &str) -> Result<()> {
    let shaped = scene
        .deployments(function)
        .await?
        .pop()
        .context("the Function has no Deployment")?;
    let template = shaped.spec.context("a Deployment has a spec")?.template;
    create(scene, name, serde_json::to_value(template.spec)?).await
}

/// Makes a Deployment at zero as one would write it without Ebb.
pub(super) async fn plain_pod(scene: &Scene, name: &str) -> Result<()> {
    let container = json!({"name": "app", "image": scene.image, "imagePullPolicy": "IfNotPresent", "env": [{"name": "PORT", "value": PORT.to_string()}]});
    create(scene, name, json!({"containers": [container]})).await
}

async fn create(scene: &Scene, name: &str, pod: Value) -> Result<()> {
    let deployment = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}}, "spec": pod}},
    }))?;
    scene
        .api::<Deployment>()
        .create(&PostParams::default(), &deployment)
        .await?;
    Ok(())
}

/// Scales to one, watches for the pod's address and asks it until it answers.
pub(super) async fn cold_start(scene: &Scene, name: &str) -> Result<Duration> {
    let pods: Api<Pod> = scene.api();
    let label = format!("app={name}");
    let listed = pods.list(&ListParams::default().labels(&label)).await?;
    ensure!(
        listed.items.is_empty(),
        "{name} has pods before its cold start"
    );
    let version = listed
        .metadata
        .resource_version
        .context("a list has a version")?;
    let mut events = std::pin::pin!(
        pods.watch(&WatchParams::default().labels(&label), &version)
            .await?
    );
    // The watch has taken the kept connection: without this the patch would wait for another TLS handshake, which Ebb's
    // operator never does.
    scene.api::<Deployment>().get_scale(name).await?;
    let started = Instant::now();
    scale(scene, name, 1).await?;
    while let Some(event) = events.try_next().await? {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else {
            continue;
        };
        if let Some(ip) = pod.status.and_then(|s| s.pod_ip) {
            answered(SocketAddr::new(ip.parse()?, PORT)).await?;
            return Ok(started.elapsed());
        }
    }
    anyhow::bail!("the watch of {name} ended before its pod had an address")
}

async fn answered(address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if let Ok(answer) = client::get(address, "floor", "/").await {
            answer.expect(200)?;
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    anyhow::bail!("{address} did not answer within a minute")
}

async fn scale(scene: &Scene, name: &str, replicas: i32) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    scene
        .api::<Deployment>()
        .patch_scale(name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// Scales to zero and waits until the pods have gone.
pub(super) async fn to_zero(scene: &Scene, name: &str) -> Result<()> {
    scale(scene, name, 0).await?;
    let of = ListParams::default().labels(&format!("app={name}"));
    let pods: Api<Pod> = scene.api();
    eventually(
        Duration::from_secs(60),
        &format!("{name} has no pods"),
        async || Ok(pods.list(&of).await?.items.is_empty().then_some(())),
    )
    .await
}
