//! What the chart installs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde_json::json;

use crate::{client, cluster::Layout, install::NAMESPACE, scene::Scene};

pub(super) async fn pods_are_restricted_and_the_data_plane_has_no_token(
    scene: Scene,
) -> Result<()> {
    let label = [
        "label",
        "--overwrite",
        "--dry-run=server",
        "namespace",
        NAMESPACE,
        "pod-security.kubernetes.io/enforce=restricted",
    ];
    let shown = scene.cluster.kubectl(&label).await?;
    ensure!(!shown.contains("violate"), "{shown}");
    let of = ListParams::default().labels("app.kubernetes.io/component=activator");
    for pod in Api::<Pod>::namespaced(scene.client.clone(), NAMESPACE)
        .list(&of)
        .await?
    {
        let spec = pod.spec.context("a pod has a spec")?;
        let projected = spec.volumes.iter().flatten().any(|v| v.projected.is_some());
        ensure!(!projected, "an activator has a token of the cluster");
    }
    Ok(())
}

/// Names of metrics that docs/operations.md promises; each line of its table begins with one.
fn documented(process: &str) -> Result<Vec<String>> {
    let page = Layout::of_checkout()?.checkout().join("docs/operations.md");
    let page = std::fs::read_to_string(&page)
        .with_context(|| format!("cannot read {}", page.display()))?;
    let own = format!("| `ebb_{process}_");
    // What is told of each Function, the operator tells.
    let of_functions = |line: &str| process == "operator" && line.starts_with("| `ebb_function_");
    let names = page
        .lines()
        .filter(|line| line.starts_with(&own) || of_functions(line));
    Ok(names
        .filter_map(|line| line.split(['`', '{']).nth(1).map(String::from))
        .collect())
}

pub(super) async fn metrics_are_the_documented_ones(scene: Scene) -> Result<()> {
    scene
        .function("hello", json!({"scale": {"idleAfter": "1s"}}))
        .await?;
    scene.get("hello", "/").await?.expect(200)?;
    scene.wait_zero("hello", Duration::from_secs(20)).await?;
    for process in ["operator", "activator"] {
        let of = ListParams::default().labels(&format!("app.kubernetes.io/component={process}"));
        let mut shown = String::new();
        for pod in Api::<Pod>::namespaced(scene.client.clone(), NAMESPACE)
            .list(&of)
            .await?
        {
            let ip = pod
                .status
                .and_then(|s| s.pod_ip)
                .context("a pod has an address")?;
            let answer = client::get(format!("{ip}:8902").parse()?, "metrics", "/metrics").await?;
            shown.push_str(&answer.expect(200)?.text());
        }
        let documented = documented(process)?;
        ensure!(
            documented.len() > 5,
            "docs/operations.md lists only {documented:?}"
        );
        for name in &documented {
            ensure!(
                shown.contains(&format!("# TYPE {name} ")),
                "{name} is documented, but {process} has no such metric"
            );
        }
        for line in shown.lines().filter_map(|l| l.strip_prefix("# TYPE ebb_")) {
            let name = format!("ebb_{}", line.split(' ').next().unwrap_or_default());
            ensure!(documented.contains(&name), "{name} is not documented");
        }
    }
    Ok(())
}

pub(super) async fn rights_are_least(scene: Scene) -> Result<()> {
    let operator = format!("--as=system:serviceaccount:{NAMESPACE}:ebb-operator");
    let activator = format!("--as=system:serviceaccount:{NAMESPACE}:ebb-activator");
    let refused = [
        (&operator, "create", "secrets"),
        (&operator, "patch", "secrets"),
        (&operator, "delete", "pods"),
        (&operator, "create", "pods"),
        (&operator, "update", "functions.ebb.dev"),
        (&activator, "get", "pods"),
        (&activator, "get", "secrets"),
        (&activator, "list", "functions.ebb.dev"),
    ];
    for (who, verb, what) in refused {
        // kubectl's exit code is 1 for "no".
        let answer = scene.kubectl(&["auth", "can-i", verb, what, who]).await;
        ensure!(answer.is_err(), "{who} may {verb} {what}");
    }
    ensure!(
        scene
            .kubectl(&[
                "auth",
                "can-i",
                "patch",
                "deployments.apps/scale",
                &operator
            ])
            .await
            .is_ok(),
        "the operator may not scale"
    );
    // The tests' installation has TLS; without it nobody reads Secrets.
    let chart = Layout::of_checkout()?.checkout().join("charts/ebb");
    let chart = chart.to_str().context("the checkout's path is not UTF-8")?;
    let plain = scene.cluster.helm(&["template", "ebb", chart]).await?;
    ensure!(
        !plain.contains("resources: [secrets]"),
        "the operator may read Secrets although gateway.tls.enabled is false"
    );
    Ok(())
}
