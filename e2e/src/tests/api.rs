//! The API server refuses what is wrong, in words of the rule; and what a person sees of a Function.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{cluster::Layout, scene::Scene};

/// A mistake, and a part of the message that must name it.
#[expect(clippy::too_many_lines, reason = "a table")]
fn mistakes() -> Vec<(&'static str, Value, &'static str)> {
    let ports = |ports: Value| json!({"template": {"spec": {"containers": [{"name": "app", "image": "x", "ports": ports}]}}});
    let with = |mut spec: Value, port: Value| {
        spec["port"] = port;
        spec
    };
    let two = json!([{"containerPort": 1000, "name": "a"}, {"containerPort": 1001, "name": "b"}]);
    let both =
        json!([{"containerPort": 1000, "name": "http"}, {"containerPort": 1001, "name": "h2c"}]);
    vec![
        ("Hello", json!({}), "lower case"),
        ("1hello", json!({}), "starting with a letter"),
        (
            "a-name-that-is-too-long-for-the-names-of-its-revisions",
            json!({}),
            "at most 52 characters",
        ),
        (
            "hello",
            json!({"scale": {"min": 3, "max": 2}}),
            "scale.min must not be greater than scale.max",
        ),
        (
            "hello",
            json!({"concurrencyLimit": 0}),
            "concurrencyLimit is between 1 and 1000",
        ),
        (
            "hello",
            json!({"scale": {"min": -1}}),
            "greater than or equal to 0",
        ),
        (
            "hello",
            json!({"scale": {"max": 0}}),
            "greater than or equal to 1",
        ),
        (
            "hello",
            json!({"scale": {"max": 5000}}),
            "less than or equal to 1000",
        ),
        (
            "hello",
            json!({"scale": {"idleAfter": "0s"}}),
            "scale.idleAfter is between 1s and 24h",
        ),
        (
            "hello",
            json!({"scale": {"idleAfter": "soon"}}),
            "spec.scale.idleAfter",
        ),
        (
            "hello",
            json!({"scale": {"window": "1s"}}),
            "scale.window is between 6s and 1h",
        ),
        (
            "hello",
            json!({"scale": {"window": "10s", "panic": {"window": "20s"}}}),
            "scale.panic.window must not be longer than scale.window",
        ),
        (
            "hello",
            json!({"scale": {"panic": {"threshold": 100}}}),
            "greater than or equal to 110",
        ),
        (
            "hello",
            json!({"scale": {"target": 0}}),
            "scale.target is at least 0.01",
        ),
        (
            "hello",
            json!({"scale": {"utilization": 101}}),
            "less than or equal to 100",
        ),
        (
            "hello",
            json!({"scale": {"metric": "cpu"}}),
            "supported values",
        ),
        (
            "hello",
            json!({"scale": {"activation": 5, "max": 4}}),
            "scale.activation must not be greater than scale.max",
        ),
        (
            "hello",
            json!({"scale": {"initial": 5, "max": 4}}),
            "scale.initial must not be greater than scale.max",
        ),
        (
            "hello",
            json!({"scale": {"downDelay": "2h"}}),
            "scale.downDelay is at most 1h",
        ),
        (
            "hello",
            json!({"scale": {"maxDownRate": 1}}),
            "scale.maxDownRate is greater than 1",
        ),
        (
            "hello",
            json!({"scale": {"maxUpRate": 1}}),
            "scale.maxUpRate is greater than 1",
        ),
        (
            "hello",
            json!({"scale": {"keepAliveProbe": "busy"}}),
            "scale.keepAliveProbe is a path",
        ),
        (
            "hello",
            json!({"timeouts": {"coldStart": "0s"}}),
            "timeouts.coldStart is between 1s and 15m",
        ),
        (
            "hello",
            json!({"timeouts": {"request": "0s"}}),
            "timeouts.request is between 1s and 24h",
        ),
        (
            "hello",
            ports(two.clone()),
            "the template has several ports",
        ),
        ("hello", ports(both), "the template has several ports"),
        (
            "hello",
            with(ports(two), json!("c")),
            "spec.port names a port that exactly one container must declare",
        ),
        (
            "hello",
            json!({"port": 0}),
            "a port number is between 1 and 65535",
        ),
        (
            "hello",
            json!({"port": 70000}),
            "a port number is between 1 and 65535",
        ),
        (
            "hello",
            json!({"port": "a-name-longer-than-15"}),
            "at most 15 characters",
        ),
        (
            "hello",
            json!({"template": {"metadata": {"labels": {"ebb.dev/x": "y"}}}}),
            "labels under ebb.dev/ are Ebb's own",
        ),
        (
            "hello",
            json!({"template": {"spec": {"containers": []}}}),
            "spec.template.spec.containers",
        ),
        (
            "hello",
            json!({"hosts": ["*.example.com"]}),
            "wildcards are not supported in spec.hosts",
        ),
        (
            "hello",
            json!({"hosts": ["Shop.example.com"]}),
            "DNS names in lower case",
        ),
        (
            "hello",
            json!({"hosts": ["shop.example.com:443"]}),
            "without scheme, port and path",
        ),
        ("hello", json!({"hosts": ["shop"]}), "at least one dot"),
        (
            "hello",
            json!({"hosts": ["10.0.0.1"]}),
            "names, not IP addresses",
        ),
        (
            "hello",
            json!({"hosts": ["a.example", "a.example"]}),
            "Duplicate value",
        ),
        (
            "hello",
            json!({"hosts": (0..17).map(|n| format!("h{n}.example")).collect::<Vec<_>>()}),
            "must have at most 16 items",
        ),
        (
            "hello",
            json!({"tls": {"secretName": "cert"}}),
            "spec.tls needs spec.hosts",
        ),
        (
            "hello",
            json!({"hosts": [], "tls": {"secretName": "cert"}}),
            "spec.tls needs spec.hosts",
        ),
        (
            "hello",
            json!({"hosts": ["a.example"], "tls": {"secretName": "Not/A-Name"}}),
            "spec.tls.secretName is the name of a Secret",
        ),
        ("hello", json!({"scale": {"mni": 1}}), "unknown field"),
        (
            "hello",
            json!({"template": {"spec": {"contaners": []}}}),
            "unknown field",
        ),
    ]
}

pub(super) async fn refuses_what_is_wrong_in_the_rules_words(scene: Scene) -> Result<()> {
    for (name, spec, words) in mistakes() {
        let manifest = scene.manifest(name, spec.clone()).to_string();
        match scene
            .cluster
            .kubectl_with_input(&["apply", "-f", "-"], &manifest)
            .await
        {
            Ok(_) => bail!("kubectl apply took {name} with {spec}"),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(
                    said.contains(words),
                    "for {name} with {spec} expected {words:?}, kubectl said: {said}"
                );
            }
        }
    }
    Ok(())
}

pub(super) async fn takes_what_is_right(scene: Scene) -> Result<()> {
    let right = [
        json!({}),
        json!({"port": 1}),
        json!({"hosts": ["shop.example.com", "a.b", "xn--bcher-kva.example"], "tls": {"secretName": "shop.cert-1"}}),
        json!({"hosts": []}),
        json!({"scale": {"min": 0, "max": 1, "idleAfter": "1m30s"}, "timeouts": {"coldStart": "15m", "request": "24h"}}),
        json!({"port": "web", "template": {"spec": {"containers": [{"name": "app", "image": "x", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
            "ports": [{"containerPort": 1, "name": "web"}, {"containerPort": 2, "name": "metrics"}]}]}}}),
        json!({"template": {"spec": {"containers": [{"name": "app", "image": "x", "ports": [{"containerPort": 1, "name": "http"}, {"containerPort": 2}]},
            {"name": "side", "image": "y", "ports": [{"containerPort": 3}]}]}}}),
    ];
    for spec in right {
        let manifest = scene.manifest("right", spec.clone()).to_string();
        let args = ["apply", "--dry-run=server", "-f", "-"];
        scene
            .cluster
            .kubectl_with_input(&args, &manifest)
            .await
            .with_context(|| format!("{spec}"))?;
    }
    let samples = Layout::of_checkout()?.checkout().join("crds/samples");
    let samples = samples
        .to_str()
        .context("the checkout's path is not UTF-8")?
        .to_owned();
    scene
        .kubectl(&["apply", "--dry-run=server", "-f", &samples])
        .await?;
    Ok(())
}

pub(super) async fn explains_itself(scene: Scene) -> Result<()> {
    for (field, words) in [
        (
            "fn",
            "An HTTP container that runs only while somebody calls it",
        ),
        ("fn.spec.template", "service account token"),
        ("fn.spec.scale", "Default 60s. Between 1s and 24h"),
        ("fn.spec.timeouts.coldStart", "answered 504"),
        ("fn.status.conditions", "ScaledToZero"),
    ] {
        let said = scene.kubectl(&["explain", field]).await?;
        // kubectl wraps lines.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(
            said.contains(words),
            "kubectl explain {field} does not say {words:?}: {said}"
        );
    }
    Ok(())
}

pub(super) async fn shows_columns(scene: Scene) -> Result<()> {
    scene.function("hello", json!({})).await?;
    scene
        .wait_condition("hello", "Ready", "True", Duration::from_secs(10))
        .await?;
    let shown = scene
        .kubectl(&["get", "fn", "hello", "--no-headers"])
        .await?;
    let columns: Vec<&str> = shown.split_whitespace().collect();
    let url = format!("http://hello.{}.svc.cluster.local", scene.namespace);
    ensure!(
        columns[..6] == ["hello", "True", "ScaledToZero", &url, "0", "0"],
        "{shown}"
    );
    let listed = scene
        .kubectl(&["get", "functions.ebb.dev", "-o", "name"])
        .await?;
    ensure!(listed.trim() == "function.ebb.dev/hello", "{listed}");
    Ok(())
}
