//! What `cargo e2e status` shows.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tokio::time::timeout;

use super::daemon::{NAMES, Record};
use super::layout::Layout;
use super::{Cluster, health, shell};

/// A cluster as it is at one moment.
#[derive(Debug)]
pub struct Status {
    name: String,
    kubeconfig: PathBuf,
    /// Each process and its pid, if it runs.
    processes: Vec<(&'static str, Option<u32>)>,
    api_ready: bool,
    node_ready: bool,
    dns_ready: bool,
    /// The size of the state folder, as `du` writes it, and its path.
    state: Option<(String, PathBuf)>,
}

impl Status {
    /// Looks at the cluster of this checkout, or that of `EBB_KUBECONFIG`.
    pub(crate) async fn observe() -> Result<Self> {
        if let Some(kubeconfig) = super::external() {
            let cluster = Cluster::external(kubeconfig.clone());
            return Self::of(
                "the cluster of EBB_KUBECONFIG".to_owned(),
                kubeconfig,
                Vec::new(),
                None,
                &cluster,
            )
            .await;
        }
        let layout = Layout::of_checkout()?;
        let pid = |name| {
            Record::read(&layout, name)
                .filter(Record::alive)
                .map(|record| record.pid)
        };
        let processes = NAMES.iter().map(|name| (*name, pid(name))).collect();
        let state = size(&layout).await;
        let cluster = Cluster::embedded(layout.clone());
        Self::of(
            layout.name(),
            layout.kubeconfig(),
            processes,
            state,
            &cluster,
        )
        .await
    }

    async fn of(
        name: String,
        kubeconfig: PathBuf,
        processes: Vec<(&'static str, Option<u32>)>,
        state: Option<(String, PathBuf)>,
        cluster: &Cluster,
    ) -> Result<Self> {
        let (mut api_ready, mut node_ready, mut dns_ready) = (false, false, false);
        if let Ok(client) = cluster.client().await {
            api_ready = soon(health::api_ready(&client)).await;
            node_ready = api_ready && soon(health::node_ready(&client)).await;
            dns_ready = api_ready && soon(health::dns_ready(&client)).await;
        }
        Ok(Self {
            name,
            kubeconfig,
            processes,
            api_ready,
            node_ready,
            dns_ready,
            state,
        })
    }

    /// Whether everything runs and is ready.
    pub fn healthy(&self) -> bool {
        let running = self.processes.iter().all(|(_, pid)| pid.is_some());
        running && self.api_ready && self.node_ready && self.dns_ready
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = |ready| if ready { "ready" } else { "not ready" };
        let whole = match (
            self.healthy(),
            self.processes.iter().any(|(_, pid)| pid.is_some()) || self.api_ready,
        ) {
            (true, _) => "up and healthy",
            (false, true) => "not healthy",
            (false, false) => "down; `cargo e2e up` starts it",
        };
        writeln!(out, "{}: {whole}", self.name)?;
        for (name, pid) in &self.processes {
            let pid = pid.map_or_else(|| "not running".to_owned(), |pid| format!("pid {pid}"));
            writeln!(out, "  {name:<24} {pid}")?;
        }
        writeln!(out, "  {:<24} {}", "API", ready(self.api_ready))?;
        writeln!(out, "  {:<24} {}", "node", ready(self.node_ready))?;
        writeln!(out, "  {:<24} {}", "DNS", ready(self.dns_ready))?;
        writeln!(out, "  {:<24} {}", "kubeconfig", self.kubeconfig.display())?;
        if let Some((size, path)) = &self.state {
            writeln!(out, "  {:<24} {size} in {}", "state", path.display())?;
        }
        Ok(())
    }
}

/// Whether a check says yes before anyone would lose patience.
async fn soon(check: impl Future<Output = Result<bool>>) -> bool {
    matches!(timeout(Duration::from_secs(3), check).await, Ok(Ok(true)))
}

/// The size of the state folder without what is mounted in it.
async fn size(layout: &Layout) -> Option<(String, PathBuf)> {
    let state = layout.state();
    let mut du = shell::command("du");
    // Files may vanish while du counts, which it reports as a failure beside the sum.
    let output = du
        .args(["--one-file-system", "--summarize", "--human-readable"])
        .arg(&state)
        .output()
        .await
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some((text.split_whitespace().next()?.to_owned(), state))
}
