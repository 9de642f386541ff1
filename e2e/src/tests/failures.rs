//! Pods that do not start: the reason reaches the condition, an Event and the held request.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::scene::{Scene, eventually};

const SOON: Duration = Duration::from_secs(10);

/// Sends a request to a Function that cannot start and checks all three places. `says` must be in each.
async fn fails(scene: &Scene, spec: Value, reason: &str, says: &[&str]) -> Result<()> {
    let mut spec = spec;
    spec["timeouts"]["coldStart"] = json!("12s");
    scene.function("bad", spec).await?;
    let request = tokio::spawn({
        let scene = scene.clone();
        async move { scene.get("bad", "/").await }
    });
    let (found, message) = scene.wait_condition("bad", "Ready", "False", SOON).await?;
    ensure!(
        found == reason,
        "expected {reason}, Ready is False because {found}: {message}"
    );
    let wide = scene.kubectl(&["get", "fn", "bad", "-o", "wide"]).await?;
    let event = eventually(SOON, "an Event tells it", async || {
        let described = scene.kubectl(&["describe", "fn", "bad"]).await?;
        Ok(described
            .lines()
            .find(|line| line.contains("Warning") && line.contains(reason))
            .map(String::from))
    })
    .await?;
    let answer = request.await??;
    answer.expect(504)?;
    for words in says {
        ensure!(
            message.contains(words),
            "the condition does not say {words:?}: {message}"
        );
        ensure!(
            wide.contains(words),
            "kubectl get -o wide does not say {words:?}: {wide}"
        );
        ensure!(
            event.contains(words),
            "the Event does not say {words:?}: {event}"
        );
        ensure!(
            answer.text().contains(words),
            "the answer does not say {words:?}: {}",
            answer.text()
        );
    }
    Ok(())
}

fn image(image: &str) -> Value {
    json!({"template": {"spec": {"containers": [{"name": "app", "image": image}]}}})
}

pub(super) async fn wrong_image(scene: Scene) -> Result<()> {
    fails(
        &scene,
        image("registry.invalid/nope:1"),
        "ImagePullFailed",
        &["registry.invalid/nope:1"],
    )
    .await?;
    // The right image mends it, although the wrong one never served.
    scene.apply("bad", json!({})).await?;
    scene.get("bad", "/").await?.expect(200)?;
    scene.wait_condition("bad", "Ready", "True", SOON).await?;
    Ok(())
}

pub(super) async fn crashing_container(scene: Scene) -> Result<()> {
    fails(
        &scene,
        scene.with_env(&[("CRASH", "1")]),
        "ContainerCrashed",
        &["exited with code 3"],
    )
    .await
}

pub(super) async fn invalid_template(scene: Scene) -> Result<()> {
    let spec = json!({"template": {"spec": {"containers": [{"name": "app", "image": ""}]}}});
    fails(&scene, spec, "InvalidTemplate", &["image"]).await?;
    scene.apply("bad", json!({})).await?;
    scene.get("bad", "/").await?.expect(200)?;
    Ok(())
}

pub(super) async fn missing_config_map(scene: Scene) -> Result<()> {
    let mut spec = scene.with_env(&[]);
    spec["template"]["spec"]["containers"][0]["envFrom"] =
        json!([{"configMapRef": {"name": "nowhere"}}]);
    fails(&scene, spec, "ContainerNotCreated", &["nowhere"]).await
}

pub(super) async fn quota(scene: Scene) -> Result<()> {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": scene.namespace}, "spec": {"hard": {"pods": "0"}}});
    scene
        .cluster
        .kubectl_with_input(&["apply", "-f", "-"], &quota.to_string())
        .await?;
    fails(&scene, json!({}), "PodRefused", &["exceeded quota"]).await
}

pub(super) async fn unschedulable(scene: Scene) -> Result<()> {
    let mut spec = scene.with_env(&[]);
    spec["template"]["spec"]["nodeSelector"] = json!({"nowhere": "to-be-found"});
    fails(&scene, spec, "Unschedulable", &["node"]).await
}

pub(super) async fn name_of_a_foreign_service(scene: Scene) -> Result<()> {
    scene
        .kubectl(&["create", "service", "clusterip", "taken", "--tcp=80:80"])
        .await?;
    let before = scene
        .kubectl(&["get", "service", "taken", "-o", "jsonpath={.spec}"])
        .await?;
    scene.apply("taken", json!({})).await?;
    let (reason, message) = scene
        .wait_condition("taken", "Ready", "False", SOON)
        .await?;
    ensure!(reason == "ServiceConflict", "{reason}: {message}");
    let after = scene
        .kubectl(&["get", "service", "taken", "-o", "jsonpath={.spec}"])
        .await?;
    ensure!(before == after, "the foreign Service was changed");
    Ok(())
}
