//! The count follows the load, and nothing is lost on the way.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    load::{Counts, Load, Logs, ready},
    scene::{Scene, eventually, names},
};

const SOON: Duration = Duration::from_secs(60);

/// How long a steady load lasts.
const STEADY: Duration = Duration::from_secs(60);

/// Time for a count to follow a load that has just begun.
const SETTLES: Duration = Duration::from_secs(15);

/// A load that needs exactly `need` pods at their targets keeps its count between `need - 1` and what the utilization makes of it.
async fn steady(scene: Scene, name: String, scale: Value, need: usize, load: Load) -> Result<()> {
    let counts = Counts::follow(&scene, &name);
    sleep(SETTLES).await;
    let start = Instant::now();
    sleep(STEADY).await;
    let seen = counts.since(start);
    load.end().await.all_ok()?;
    let most = (need as f64 / 0.7 * 1.1).ceil() as i32;
    println!("  {name}: a load for {need} pods {scale}: counts {seen:?}");
    ensure!(
        seen.iter()
            .all(|count| *count >= need as i32 - 1 && *count <= most),
        "a load for {need} pods had {seen:?}, not within {}..={most}",
        need - 1
    );
    Ok(())
}

pub(super) async fn concurrency_is_followed(scene: Scene) -> Result<()> {
    let scale = json!({"metric": "concurrency", "target": 6, "utilization": 70});
    let all = [2usize, 3, 4].map(async |need| {
        let name = format!("conc{need}");
        scene.function(&name, json!({"scale": scale})).await?;
        let load = Load::closed(&scene, &name, 6 * need, "/sleep?ms=250");
        steady(scene.clone(), name, scale.clone(), need, load).await
    });
    try_join_all(all).await.map(drop)
}

pub(super) async fn rps_is_followed(scene: Scene) -> Result<()> {
    let scale = json!({"metric": "rps", "target": 10});
    let all = [2usize, 3, 4].map(async |need| {
        let name = format!("rps{need}");
        // The pods run before the load begins. While they start, requests come to the activators in bursts, since client, activators and pods
        // share two cores; a burst is another load, and what it asks for is kept for a minute.
        let running = (need as f64 / 0.7).ceil() as usize;
        let mut first = scale.clone();
        first["min"] = json!(running);
        scene.function(&name, json!({"scale": first})).await?;
        let pods = format!("{running} pods of {name} are ready");
        eventually(SOON, &pods, async || {
            Ok((ready(&scene, &name).await? == running).then_some(()))
        })
        .await?;
        let load = Load::open(&scene, &name, 10 * need as u32, "/");
        // The pods stay until the load is known: else some would go, come again and make it a burst.
        eventually(SOON, "the load of three seconds was reported", async || {
            Ok((load.ok() >= 30 * need as u64).then_some(()))
        })
        .await?;
        scene.apply(&name, json!({"scale": scale})).await?;
        steady(scene.clone(), name, scale.clone(), need, load).await
    });
    try_join_all(all).await.map(drop)
}

/// 0 → 1 → 4 → 0 → 3 pods with nothing lost, and at zero the Function is ready and has no pods at all.
async fn up_down_up(scene: Scene, aggregation: &str) -> Result<()> {
    let scale = json!({"target": 2, "utilization": 100, "window": "6s", "downDelay": "0s", "idleAfter": "3s", "aggregation": aggregation});
    scene.function("hello", json!({"scale": scale})).await?;
    let counts = Counts::follow(&scene, "hello");
    let reaches = async |pods: i32| {
        eventually(SOON, &format!("the count is {pods}"), async || {
            Ok((counts.now() == pods).then_some(()))
        })
        .await
    };
    let first = Load::closed(&scene, "hello", 1, "/sleep?ms=100");
    reaches(1).await?;
    let more = Load::closed(&scene, "hello", 7, "/sleep?ms=100");
    reaches(4).await?;
    eventually(SOON, "4 pods are ready", async || {
        Ok((ready(&scene, "hello").await? == 4).then_some(()))
    })
    .await?;
    first.end().await.all_ok()?;
    more.end().await.all_ok()?;
    scene.wait_zero("hello", SOON).await?;
    let (reason, _) = scene.wait_condition("hello", "Ready", "True", SOON).await?;
    ensure!(reason == "ScaledToZero", "Ready for {reason}");
    owned_by_writing(&scene, "hello").await?;
    let again = Load::closed(&scene, "hello", 6, "/sleep?ms=100");
    reaches(3).await?;
    again.end().await.all_ok()?;
    Ok(())
}

/// The scaler owns the count because it wrote it, and had not to claim it by another write.
async fn owned_by_writing(scene: &Scene, function: &str) -> Result<()> {
    for deployment in scene.deployments(function).await? {
        let fields = deployment.metadata.managed_fields.unwrap_or_default();
        let own = fields
            .iter()
            .filter(|f| f.manager.as_deref() == Some("ebb-scaler"));
        let by: Vec<_> = own.filter_map(|f| f.operation.as_deref()).collect();
        ensure!(by == ["Update"], "the scaler owns the count by {by:?}");
    }
    Ok(())
}

pub(super) async fn up_down_up_linear(scene: Scene) -> Result<()> {
    up_down_up(scene, "linear").await
}

pub(super) async fn up_down_up_weighted(scene: Scene) -> Result<()> {
    up_down_up(scene, "weighted").await
}

/// From 8 pods to one while requests go on: each removed pod had nothing in flight when Kubernetes stopped it, by its own word.
pub(super) async fn the_way_down_loses_nothing(scene: Scene) -> Result<()> {
    // 68.8 a pod: 500 need eight pods and 125 two, with the room that a lower count keeps (`scale.downTolerance`) and some for noise.
    let scale = json!({"metric": "rps", "target": 86, "utilization": 80, "window": "6s", "downDelay": "0s"});
    scene.function("hello", json!({"scale": scale})).await?;
    let logs = Logs::follow(&scene, "hello");
    let mut loads: Vec<Load> = (0..4)
        .map(|_| Load::open(&scene, "hello", 125, "/sleep?ms=5"))
        .collect();
    let running = async |pods: usize| {
        eventually(SOON, &format!("{pods} pods are ready"), async || {
            Ok((ready(&scene, "hello").await? == pods).then_some(()))
        })
        .await
    };
    running(8).await?;
    let mut sent = 0;
    while loads.len() > 1 {
        sleep(Duration::from_secs(6)).await;
        if let Some(load) = loads.pop() {
            sent += load.end().await.all_ok()?.ok;
        }
    }
    running(2).await?;
    for load in loads {
        sent += load.end().await.all_ok()?.ok;
    }
    let stopped = eventually(SOON, "every removed pod has said how it went", async || {
        let lines = logs.lines().into_iter();
        let stopped: Vec<String> = lines.filter(|l| l.starts_with("SIGTERM")).collect();
        Ok((stopped.len() >= 6).then_some(stopped))
    })
    .await?;
    println!(
        "  {sent} requests, {} pods removed: {stopped:?}",
        stopped.len()
    );
    let idle = "SIGTERM with 0 requests in flight";
    ensure!(
        stopped.iter().all(|line| line == idle),
        "a removed pod had requests: {stopped:?}"
    );
    Ok(())
}

async fn generation(scene: &Scene, deployment: &str) -> Result<i64> {
    let path = [
        "get",
        "deployment",
        deployment,
        "-o",
        "jsonpath={.metadata.generation}",
    ];
    Ok(scene.kubectl(&path).await?.parse()?)
}

/// `kubectl scale`, an external server-side apply and an HPA on the Deployment: told to people, put back once, and no fight.
pub(super) async fn others_who_change_the_count_are_told_and_not_fought(
    scene: Scene,
) -> Result<()> {
    scene
        .function(
            "hello",
            json!({"scale": {"idleAfter": "10m", "downDelay": "0s"}}),
        )
        .await?;
    scene.get("hello", "/").await?.expect(200)?;
    let deployment = names(&scene.deployments("hello").await?).remove(0);
    scene
        .kubectl(&["scale", "deployment", &deployment, "--replicas=3"])
        .await?;
    let told = async |what: &str| {
        eventually(SOON, &format!("the status says {what:?}"), async || {
            let (reason, message) = scene
                .wait_condition("hello", "ScalingActive", "False", SOON)
                .await?;
            Ok((reason == "ReplicasChangedByOther" && message.contains(what)).then_some(()))
        })
        .await
    };
    told("kubectl").await?;
    let count = async || {
        let path = [
            "get",
            "deployment",
            &deployment,
            "-o",
            "jsonpath={.spec.replicas}",
        ];
        scene.kubectl(&path).await
    };
    eventually(SOON, "the count is put back", async || {
        Ok((count().await? == "1").then_some(()))
    })
    .await?;
    let hpa = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "other"},
        "spec": {"minReplicas": 3, "maxReplicas": 5, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]},
    });
    let before = generation(&scene, &deployment).await?;
    let hpa: k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler =
        serde_json::from_value(hpa)?;
    scene
        .api()
        .create(&kube::api::PostParams::default(), &hpa)
        .await?;
    told("kube-controller-manager").await?;
    told("leaves the count to it").await?;
    // The HPA looks every 15 seconds: two more times.
    sleep(Duration::from_secs(32)).await;
    let writes = generation(&scene, &deployment).await? - before;
    println!("  {writes} changes of the Deployment in the time of an HPA with minReplicas 3");
    ensure!(count().await? == "3", "the HPA's count was not left alone");
    ensure!(
        writes == 3,
        "{writes} changes instead of 3: the HPA's, Ebb's, the HPA's"
    );
    let described = scene.kubectl(&["describe", "fn", "hello"]).await?;
    ensure!(
        described.contains("ReplicasChangedByOther"),
        "no Event tells of it: {described}"
    );
    scene.get("hello", "/").await?.expect(200).map(drop)
}

/// A GitOps tool that applies a manifest with a count again and again: put back once, then left alone, as with any other.
pub(super) async fn an_external_apply_of_the_count_is_not_fought(scene: Scene) -> Result<()> {
    let scale = json!({"scale": {"idleAfter": "10m", "downDelay": "0s"}});
    scene.function("hello", scale).await?;
    scene.get("hello", "/").await?.expect(200)?;
    let deployment = names(&scene.deployments("hello").await?).remove(0);
    let before = generation(&scene, &deployment).await?;
    let manifest = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": deployment}, "spec": {"replicas": 2}});
    let api: kube::Api<Deployment> = scene.api();
    let apply = async || {
        let (params, patch) = (
            PatchParams::apply("gitops").force(),
            Patch::Apply(&manifest),
        );
        api.patch(&deployment, &params, &patch).await
    };
    apply().await?;
    let count = async |wanted: i32| {
        eventually(SOON, &format!("the count is {wanted}"), async || {
            let spec = api.get(&deployment).await?.spec;
            Ok((spec.and_then(|s| s.replicas) == Some(wanted)).then_some(()))
        })
        .await
    };
    count(1).await?;
    apply().await?;
    eventually(SOON, "the status names the manager", async || {
        let (reason, message) = scene
            .wait_condition("hello", "ScalingActive", "False", SOON)
            .await?;
        let named = message.contains("gitops") && message.contains("leaves the count to it");
        Ok((reason == "ReplicasChangedByOther" && named).then_some(()))
    })
    .await?;
    for _ in 0..20 {
        apply().await?;
        scene.get("hello", "/").await?.expect(200)?;
    }
    count(2).await?;
    let writes = generation(&scene, &deployment).await? - before;
    println!("  {writes} changes of the Deployment in the time of 22 applies");
    ensure!(
        writes == 3,
        "{writes} changes instead of 3: the first apply's, Ebb's, the second's"
    );
    Ok(())
}

pub(super) async fn kubectl_scale_sets_min(scene: Scene) -> Result<()> {
    scene.function("hello", json!({})).await?;
    scene
        .kubectl(&["scale", "fn", "hello", "--replicas=2"])
        .await?;
    eventually(SOON, "2 pods run", async || {
        Ok((ready(&scene, "hello").await? == 2).then_some(()))
    })
    .await?;
    let path = "jsonpath={.spec.scale.min} {.status.readyReplicas} {.status.selector}";
    eventually(SOON, "the scale subresource shows them", async || {
        let shown = scene.kubectl(&["get", "fn", "hello", "-o", path]).await?;
        Ok((shown == "2 2 ebb.dev/function=hello").then_some(()))
    })
    .await
}

/// A new revision's initial pods run before anybody calls, and go when nobody does.
pub(super) async fn initial_pods_run_at_first(scene: Scene) -> Result<()> {
    scene
        .function(
            "hello",
            json!({"scale": {"initial": 2, "downDelay": "6s", "idleAfter": "12s"}}),
        )
        .await?;
    eventually(SOON, "2 pods run", async || {
        Ok((ready(&scene, "hello").await? == 2).then_some(()))
    })
    .await?;
    scene.wait_zero("hello", SOON).await
}
