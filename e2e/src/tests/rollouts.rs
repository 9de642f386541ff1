//! A changed template: the new revision beside the old, and no failed request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::scene::{Scene, eventually, names};

const SOON: Duration = Duration::from_secs(30);

/// Sends requests on kept and new connections until told to stop; returns how many were answered 200. Any other answer fails it.
fn callers(scene: &Scene, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<Result<usize>>> {
    let caller = |kept: bool| {
        let (scene, stop) = (scene.clone(), stop.clone());
        tokio::spawn(async move {
            let mut count = 0;
            let mut connection = scene.connect("hello").await?;
            while !stop.load(Ordering::Relaxed) {
                let answer = if kept {
                    connection.get("/sleep?ms=20").await?
                } else {
                    scene.get("hello", "/sleep?ms=20").await?
                };
                answer.expect(200)?;
                count += 1;
            }
            Ok(count)
        })
    };
    vec![caller(true), caller(true), caller(false)]
}

fn revision(scene: &Scene, number: &str) -> Value {
    let mut spec = scene.with_env(&[("REVISION", number)]);
    spec["scale"] = json!({"idleAfter": "2m"});
    spec
}

async fn serving(scene: &Scene) -> Result<String> {
    scene
        .kubectl(&[
            "get",
            "fn",
            "hello",
            "-o",
            "jsonpath={.status.servingRevision}",
        ])
        .await
}

async fn wait_moved(scene: &Scene, from: &str) -> Result<String> {
    eventually(
        SOON,
        &format!("another revision than {from} serves"),
        async || {
            let now = serving(scene).await?;
            Ok((now != from).then_some(now))
        },
    )
    .await
}

async fn wait_only(scene: &Scene, revision: &str) -> Result<()> {
    let alone =
        async || Ok((names(&scene.deployments("hello").await?) == [revision]).then_some(()));
    eventually(SOON, "the former revision is removed", alone).await
}

pub(super) async fn a_new_template_takes_over_without_a_failed_request(scene: Scene) -> Result<()> {
    scene.function("hello", revision(&scene, "1")).await?;
    scene.get("hello", "/").await?.expect(200)?;
    let mut now = serving(&scene).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let callers = callers(&scene, &stop);
    for number in ["2", "3"] {
        scene.apply("hello", revision(&scene, number)).await?;
        now = wait_moved(&scene, &now).await?;
        wait_only(&scene, &now).await?;
    }
    stop.store(true, Ordering::Relaxed);
    let mut count = 0;
    for caller in callers {
        count += caller.await??;
    }
    println!("  {count} requests over two rollouts, 0 failures");
    ensure!(count > 50, "only {count} requests were sent");
    Ok(())
}

pub(super) async fn a_broken_template_does_not_take_over(scene: Scene) -> Result<()> {
    scene.function("hello", revision(&scene, "1")).await?;
    scene.get("hello", "/").await?.expect(200)?;
    let first = serving(&scene).await?;
    let mut broken = scene.with_env(&[("CRASH", "1")]);
    broken["scale"] = json!({"idleAfter": "2m"});
    scene.apply("hello", broken).await?;
    let (reason, message) = scene
        .wait_condition("hello", "Ready", "False", SOON)
        .await?;
    ensure!(
        reason == "ContainerCrashed" && message.contains(&first),
        "{reason}: {message}"
    );
    scene.get("hello", "/").await?.expect(200)?;
    ensure!(
        serving(&scene).await? == first,
        "the broken revision took over"
    );
    // Going back mends it, and the broken one is removed.
    scene.apply("hello", revision(&scene, "1")).await?;
    scene.wait_condition("hello", "Ready", "True", SOON).await?;
    wait_only(&scene, &first).await?;
    scene.get("hello", "/").await?.expect(200)?;
    Ok(())
}

pub(super) async fn an_old_template_again(scene: Scene) -> Result<()> {
    scene.function("hello", revision(&scene, "1")).await?;
    scene.get("hello", "/").await?.expect(200)?;
    let first = serving(&scene).await?;
    scene.apply("hello", revision(&scene, "2")).await?;
    let second = wait_moved(&scene, &first).await?;
    scene.apply("hello", revision(&scene, "1")).await?;
    ensure!(
        wait_moved(&scene, &second).await? == first,
        "the same template has the same revision"
    );
    wait_only(&scene, &first).await
}
