//! Runs the cluster tests: those that disturb nobody side by side, the others one after another.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use futures::{FutureExt, StreamExt, stream};

use crate::{
    cluster::Cluster,
    scene::Scene,
    tests::{Case, all},
};

/// Tests side by side. Each starts pods, and two cores start a handful at once.
const TOGETHER: usize = 4;

/// Longest time of one test.
const LIMIT: Duration = Duration::from_secs(300);

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
}

/// Runs all tests whose name contains `filter`. Must be called inside the cluster's network namespace.
pub async fn run(cluster: &Cluster, image: &str, filter: &str) -> Outcome {
    let (alone, together): (Vec<Case>, Vec<Case>) = all()
        .into_iter()
        .filter(|c| c.name.contains(filter))
        .partition(|c| c.alone);
    let mut outcome = Outcome::default();
    let mut running = stream::iter(together)
        .map(|case| one(cluster, image, case))
        .buffer_unordered(TOGETHER);
    while let Some(passed) = running.next().await {
        outcome.count(passed);
    }
    for case in alone {
        outcome.count(one(cluster, image, case).await);
    }
    outcome
}

impl Outcome {
    fn count(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

/// Runs one test in a namespace of its own and prints how it went.
async fn one(cluster: &Cluster, image: &str, case: Case) -> bool {
    let started = Instant::now();
    let result = staged(cluster, image, &case).await;
    let took = started.elapsed().as_secs_f64();
    match &result {
        Ok(()) => println!("test {} ... ok ({took:.1} s)", case.name),
        Err(error) => println!("test {} ... FAILED ({took:.1} s)\n{error:#}", case.name),
    }
    result.is_ok()
}

async fn staged(cluster: &Cluster, image: &str, case: &Case) -> Result<()> {
    let area = case.name.split("::").next().unwrap_or("e2e");
    let scene = Scene::open(cluster, image, area).await?;
    // A panic in one test must not take the others with it.
    let test =
        AssertUnwindSafe(tokio::time::timeout(LIMIT, (case.test)(scene.clone()))).catch_unwind();
    let result = match test.await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(anyhow!("not done within {LIMIT:?}")),
        Err(_) => Err(anyhow!("the test panicked, see above")),
    };
    let result = match result {
        Ok(()) => Ok(()),
        Err(error) => Err(anyhow!("{error:#}\n{}", scene.report().await)),
    };
    // A namespace that is left is labelled, and removed by the next run.
    let closed = scene.close().await;
    result.and(closed)
}
