//! A Function's children: which there are, and that they are put back.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::scene::{Scene, eventually, names};

const SOON: Duration = Duration::from_secs(20);

async fn objects(scene: &Scene) -> Result<Vec<String>> {
    let kinds = "functions,deployments,replicasets,services,endpointslices,endpoints,pods,configmaps,secrets,serviceaccounts,leases,controllerrevisions";
    let shown = scene.kubectl(&["get", kinds, "-o", "name"]).await?;
    // Kubernetes itself puts these into each namespace.
    let own = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
    Ok(shown
        .lines()
        .filter(|line| !line.is_empty() && !own.contains(line))
        .map(String::from)
        .collect())
}

pub(super) async fn are_five_and_go_with_the_function(scene: Scene) -> Result<()> {
    scene
        .function("hello", json!({"scale": {"idleAfter": "1s"}}))
        .await?;
    scene.get("hello", "/").await?.expect(200)?;
    scene.wait_zero("hello", SOON).await?;
    let found = objects(&scene).await?;
    let kinds: Vec<&str> = found
        .iter()
        .filter_map(|o| o.split(['.', '/']).next())
        .collect();
    let wanted = [
        "function",
        "deployment",
        "replicaset",
        "service",
        "endpointslice",
    ];
    ensure!(
        kinds.len() == wanted.len() && wanted.iter().all(|k| kinds.contains(k)),
        "{found:?}"
    );
    scene.kubectl(&["delete", "fn", "hello"]).await?;
    let gone = async || Ok(objects(&scene).await?.is_empty().then_some(()));
    eventually(SOON, "nothing is left of the Function", gone).await
}

pub(super) async fn deleted_ones_come_back(scene: Scene) -> Result<()> {
    scene.function("hello", json!({})).await?;
    scene.get("hello", "/").await?.expect(200)?;
    let deployment = names(&scene.deployments("hello").await?).remove(0);
    for (kind, name) in [
        ("deployment", deployment.as_str()),
        ("endpointslice", "hello"),
        ("service", "hello"),
    ] {
        let uid = ["get", kind, name, "-o", "jsonpath={.metadata.uid}"];
        let before = scene.kubectl(&uid).await?;
        scene
            .kubectl(&["delete", kind, name, "--wait=false"])
            .await?;
        let back = async || Ok((scene.kubectl(&uid).await? != before).then_some(()));
        eventually(SOON, &format!("{kind} {name} is back"), back).await?;
    }
    scene.wait_condition("hello", "Ready", "True", SOON).await?;
    let answers = async || Ok((scene.get("hello", "/").await?.status == 200).then_some(()));
    eventually(SOON, "the Function answers again", answers).await?;
    let described = scene.kubectl(&["describe", "fn", "hello"]).await?;
    ensure!(
        described.contains("ChildRestored"),
        "no Event tells that a child was put back: {described}"
    );
    Ok(())
}

pub(super) async fn edited_ones_are_put_back(scene: Scene) -> Result<()> {
    scene.function("hello", json!({})).await?;
    let deployment = names(&scene.deployments("hello").await?).remove(0);
    let edits = [
        (
            "deployment",
            deployment.as_str(),
            r#"{"spec":{"template":{"spec":{"enableServiceLinks":true}}}}"#,
            "{.spec.template.spec.enableServiceLinks}",
            "false",
        ),
        (
            "service",
            "hello",
            r#"{"spec":{"ports":[{"name":"http","port":80,"targetPort":1}]}}"#,
            "{.spec.ports[0].port}",
            "80",
        ),
        (
            "endpointslice",
            "hello",
            r#"{"endpoints":[]}"#,
            "{.endpoints[0].conditions.ready}",
            "true",
        ),
    ];
    for (kind, name, patch, path, wanted) in edits {
        scene
            .kubectl(&["patch", kind, name, "--type=merge", "-p", patch])
            .await?;
        let jsonpath = format!("jsonpath={path}");
        let back = async || {
            Ok(
                (scene.kubectl(&["get", kind, name, "-o", &jsonpath]).await? == wanted)
                    .then_some(()),
            )
        };
        eventually(SOON, &format!("{kind} {name} is as it was"), back).await?;
    }
    let answers = async || Ok((scene.get("hello", "/").await?.status == 200).then_some(()));
    eventually(SOON, "the Function answers", answers).await
}
