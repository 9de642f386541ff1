//! From zero to an answer, and back.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    client::{self, Answer},
    install::NAMESPACE,
    scene::{Scene, eventually, service_address},
};

/// The phases of a `Server-Timing` header in milliseconds.
pub(crate) fn phases(answer: &Answer) -> Result<BTreeMap<String, f64>> {
    let header = answer
        .headers
        .get("server-timing")
        .context("no Server-Timing header")?
        .to_str()?;
    header
        .split(',')
        .map(|metric| {
            let (name, duration) = metric.trim().split_once(";dur=").context("no dur")?;
            Ok((name.to_owned(), duration.parse()?))
        })
        .collect()
}

pub(super) async fn first_request_from_zero_and_back(scene: Scene) -> Result<()> {
    scene
        .function("hello", json!({"scale": {"idleAfter": "3s"}}))
        .await?;
    ensure!(
        scene.pods("hello").await?.is_empty(),
        "a new Function has no pods"
    );
    let answer = scene.get("hello", "/").await?;
    answer.expect(200)?;
    let phases = phases(&answer)?;
    for name in ["queued", "scaled", "scheduled", "started", "answered"] {
        ensure!(
            phases.contains_key(name),
            "phase {name} is missing in {phases:?}"
        );
    }
    ensure!(
        phases["scaled"] > 0.0 && phases["started"] > 0.0,
        "the operator's phases are missing: {phases:?}"
    );
    let (sum, took) = (
        phases.values().sum::<f64>(),
        answer.took.as_secs_f64() * 1000.0,
    );
    ensure!(
        sum <= took && took - sum < 50.0,
        "the phases add up to {sum:.1} ms of {took:.1} ms"
    );
    ensure!(
        !scene
            .get("hello", "/")
            .await?
            .headers
            .contains_key("server-timing"),
        "a warm request was not held"
    );
    let told = eventually(
        Duration::from_secs(10),
        "an Event tells of the cold start",
        async || {
            let said = scene.kubectl(&["describe", "fn", "hello"]).await?;
            Ok(said.contains("ColdStart").then_some(said))
        },
    );
    ensure!(
        told.await?.contains("first request from zero answered 200"),
        "the Event has no words"
    );
    scene
        .wait_condition("hello", "Active", "True", Duration::from_secs(5))
        .await?;
    scene.wait_zero("hello", Duration::from_secs(20)).await?;
    let (reason, _) = scene
        .wait_condition("hello", "Active", "False", Duration::from_secs(5))
        .await?;
    ensure!(reason == "ScaledToZero", "Active is False because {reason}");
    scene
        .wait_condition("hello", "Ready", "True", Duration::from_secs(5))
        .await?;
    scene.get("hello", "/").await?.expect(200)?;
    Ok(())
}

/// The burst of a whole company's clients at once: every one is answered, and it costs one scale write.
pub(super) async fn five_hundred_first_requests(scene: Scene) -> Result<()> {
    scene.function("hello", json!({})).await?;
    let times = burst(&scene, "hello", 500).await?;
    println!("  500 first requests: {}", spread(&times));
    let deployments = scene.deployments("hello").await?;
    ensure!(deployments.len() == 1, "one revision");
    let generation = deployments[0].metadata.generation.unwrap_or_default();
    // 1: created with no pods, 2: the one write.
    ensure!(
        generation == 2,
        "the Deployment was written {} times from zero",
        generation - 1
    );
    Ok(())
}

/// Sends requests to a Function, all at once and each on a connection of its own; returns when each was answered 200, counted from the moment when
/// the first was sent, in order.
pub(crate) async fn burst(scene: &Scene, name: &str, count: usize) -> Result<Vec<Duration>> {
    let address = scene.address(name).await?;
    let began = Instant::now();
    // A task each: in one task they would share one thread, and the client would become the bottleneck.
    let requests: Vec<_> = (0..count)
        .map(|_| {
            tokio::spawn(async move {
                client::get(address, "burst", "/").await?.expect(200)?;
                anyhow::Ok(began.elapsed())
            })
        })
        .collect();
    let mut times = Vec::new();
    for request in requests {
        times.push(request.await??);
    }
    times.sort();
    Ok(times)
}

/// The first, middle and last of sorted times, in words.
pub(crate) fn spread(times: &[Duration]) -> String {
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    format!(
        "first answer after {:.0?}, p50 {:.0?}, p99 {:.0?}, last {:.0?}",
        at(0),
        at(50),
        at(99),
        at(100)
    )
}

pub(super) async fn shared_port_chooses_by_host(scene: Scene) -> Result<()> {
    scene.function("hello", json!({})).await?;
    let gateway = service_address(&scene.client, NAMESPACE, "ebb-gateway").await?;
    let namespace = &scene.namespace;
    for host in [
        format!("hello.{namespace}"),
        format!("HELLO.{namespace}.svc:80"),
        format!("hello.{namespace}.svc.cluster.local"),
    ] {
        client::get(gateway, &host, "/")
            .await?
            .expect(200)
            .with_context(|| host.clone())?;
    }
    for host in [
        "unknown.example.com".to_owned(),
        format!("other.{namespace}"),
        "hello".to_owned(),
    ] {
        let answer = client::get(gateway, &host, "/").await?;
        answer.expect(404).with_context(|| host.clone())?;
        ensure!(
            answer.text().contains(&host),
            "the answer does not name the host: {}",
            answer.text()
        );
    }
    // On the Function's own port the Host does not matter.
    client::get(scene.address("hello").await?, "anything.example.com", "/")
        .await?
        .expect(200)?;
    Ok(())
}

pub(super) async fn a_readiness_probe_is_obeyed(scene: Scene) -> Result<()> {
    let mut spec = scene.with_env(&[("READY_DELAY_MS", "3000")]);
    let container = &mut spec["template"]["spec"]["containers"][0];
    container["readinessProbe"] =
        json!({"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1});
    container["ports"] = json!([{"containerPort": 8080}]);
    scene.function("hello", spec).await?;
    let answer = scene.get("hello", "/").await?;
    answer.expect(200)?;
    ensure!(
        answer.took > Duration::from_secs(3),
        "answered after {:?}, before the pod was ready",
        answer.took
    );
    ensure!(
        answer.took < Duration::from_secs(6),
        "answered only after {:?}",
        answer.took
    );
    Ok(())
}

pub(super) async fn min_pods_always_run(scene: Scene) -> Result<()> {
    scene
        .function("hello", json!({"scale": {"min": 2, "idleAfter": "1s"}}))
        .await?;
    let ready = async || {
        let shown = scene
            .kubectl(&[
                "get",
                "fn",
                "hello",
                "-o",
                "jsonpath={.status.readyReplicas}",
            ])
            .await?;
        Ok((shown == "2").then_some(()))
    };
    eventually(Duration::from_secs(20), "two pods are ready", ready).await?;
    ensure!(
        !scene
            .get("hello", "/")
            .await?
            .headers
            .contains_key("server-timing"),
        "nothing was held"
    );
    scene
        .apply("hello", json!({"scale": {"min": 0, "idleAfter": "1s"}}))
        .await?;
    scene.wait_zero("hello", Duration::from_secs(20)).await
}
