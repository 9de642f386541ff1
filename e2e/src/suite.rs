//! `cargo e2e test`: every test of the project, and one line that sums them up.

use std::{fmt, process::Stdio};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    cluster::{Cluster, Layout, Progress},
    conform, install,
    scene::LABEL,
    tests::Outcome,
};

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Runs the workspace's own tests (pure ones, and processes with real sockets), then the conformance tests, then the cluster tests, and prints the
/// sum.
///
/// # Errors
/// If one of them could not be run at all, or any test failed.
pub async fn run(filter: &str, only_cluster: bool) -> Result<()> {
    let mut sum = Outcome::default();
    if !only_cluster {
        let outcome = workspace(filter).await?;
        println!("workspace tests: {outcome}");
        sum.add(outcome);
        let outcome = conform::run(filter).await?;
        println!("conformance tests: {outcome}");
        sum.add(outcome);
    }
    let outcome = cluster(filter).await?;
    println!("cluster tests: {outcome}");
    sum.add(outcome);
    println!("\n{sum}");
    if sum.failed > 0 {
        bail!("{} tests failed", sum.failed);
    }
    if sum.passed == 0 {
        bail!("no test is named {filter:?}");
    }
    Ok(())
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Reads `N passed; N failed` as cargo prints it for each test binary, and `N passed, N failed` as [`inside`] does.
    fn parse(line: &str) -> Option<Self> {
        let count = |word: &str| {
            let before = line.split(word).next()?.trim_end();
            line.contains(word)
                .then(|| before.rsplit([' ', '.']).next()?.parse().ok())?
        };
        Some(Self {
            passed: count(" passed")?,
            failed: count(" failed")?,
        })
    }
}

/// `cargo test` over the workspace. It runs all test binaries even when one fails.
async fn workspace(filter: &str) -> Result<Outcome> {
    let mut command = Command::new("cargo");
    let checkout = Layout::of_checkout()?.checkout().to_path_buf();
    command.current_dir(checkout).args([
        "test",
        "--workspace",
        "--all-features",
        "--no-fail-fast",
        "--",
        filter,
    ]);
    let (mut sum, mut seen) = (Outcome::default(), false);
    let status = lines(&mut command, |line| {
        if let Some(outcome) = line.strip_prefix("test result:").and_then(Outcome::parse) {
            sum.add(outcome);
            seen = true;
        }
    })
    .await?;
    if !status && (sum.failed == 0 || !seen) {
        bail!("cargo test failed before it ran the tests, see above");
    }
    Ok(sum)
}

/// The cluster tests: the cluster and Ebb are brought up here, with the network of this machine; the tests run in a process of their own inside the
/// cluster's network namespace, where pods and services are reachable.
async fn cluster(filter: &str) -> Result<Outcome> {
    let progress = Progress::shown();
    let cluster = Cluster::up(&progress).await?;
    let installed = install::install(&cluster, &progress).await?;
    let mut command =
        Command::new(std::env::current_exe().context("cannot tell where this program lies")?);
    command.args(["inside", "--image", &installed.hello_image, "test", filter]);
    let mut last = None;
    lines(&mut command, |line| last = Outcome::parse(line).or(last)).await?;
    last.context("the cluster tests ended without a result, see above")
}

/// The part of [`run`] inside the network namespace. Prints how many passed as its last line.
///
/// # Errors
/// If what an earlier run left cannot be removed.
pub async fn inside(cluster: &Cluster, image: &str, filter: &str) -> Result<()> {
    remove_leftovers(cluster).await?;
    let outcome = crate::tests::run(cluster, image, filter).await;
    println!("{outcome}");
    Ok(())
}

/// Namespaces of runs that were killed.
async fn remove_leftovers(cluster: &Cluster) -> Result<()> {
    let namespaces = Api::<Namespace>::all(cluster.client().await?);
    for namespace in namespaces
        .list(&ListParams::default().labels(LABEL))
        .await?
    {
        namespaces
            .delete(&namespace.name_any(), &DeleteParams::default())
            .await?;
    }
    Ok(())
}

/// Runs a command, prints its output as it comes, and shows each line to `see`. True: it succeeded.
async fn lines(command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let output = child.stdout.take().context("a piped output")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        println!("{line}");
        see(&line);
    }
    Ok(child.wait().await?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_a_result() {
        let outcome = |passed, failed| Some(Outcome { passed, failed });
        assert_eq!(
            Outcome::parse(" ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"),
            outcome(12, 0)
        );
        assert_eq!(Outcome::parse("3 passed, 14 failed"), outcome(3, 14));
        assert_eq!(Outcome::parse("test api::x ... ok (1.0 s)"), None);
    }
}
