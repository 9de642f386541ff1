//! A power cut of the node: every process of the cluster is gone at once, and what a real node keeps in memory with it.

use std::fs;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{
    Cluster,
    daemon::{self, Daemon, Record, wait},
    health,
    layout::Layout,
    start::LIMIT,
    teardown,
};

/// A node without power.
#[derive(Debug)]
pub struct Dark {
    layout: Layout,
    daemons: Vec<Daemon>,
}

impl Cluster {
    /// Ends the control plane, the node's processes and all pods at one blow, with the mounts and sockets that they had.
    ///
    /// # Errors
    /// If one of them does not run, or the cluster is not this checkout's own.
    pub async fn power_cut(&self) -> Result<Dark> {
        let layout = self
            .layout
            .clone()
            .context("only this checkout's own cluster is switched off")?;
        let running = daemon::NAMES
            .iter()
            .map(|name| Daemon::running(&layout, name));
        let daemons = running.collect::<Result<Vec<_>>>()?;
        for record in daemon::NAMES
            .iter()
            .filter_map(|name| Record::read(&layout, name))
        {
            record.signal(Signal::SIGKILL);
        }
        teardown::kill_rest(&layout).await?;
        teardown::forget_runtime(&layout)?;
        // A boot begins with an empty /run.
        fs::remove_dir_all(layout.run()).context("cannot empty the node's /run")?;
        fs::create_dir_all(layout.run())?;
        Ok(Dark { layout, daemons })
    }
}

impl Dark {
    /// Starts everything again, as an init system would: what needs the API server when that answers.
    ///
    /// # Errors
    /// If something does not start.
    pub async fn power_on(self) -> Result<()> {
        let needs_api =
            |daemon: &Daemon| !matches!(daemon.name, "etcd" | "containerd" | "kube-apiserver");
        let (later, first): (Vec<_>, Vec<_>) = self.daemons.into_iter().partition(needs_api);
        for daemon in &first {
            daemon.start(&self.layout)?;
        }
        let client = Cluster::embedded(self.layout.clone()).client().await?;
        wait(
            &self.layout,
            "kube-apiserver",
            "the API server to answer",
            LIMIT,
            || health::api_ready(&client),
        )
        .await?;
        for daemon in &later {
            daemon.start(&self.layout)?;
        }
        Ok(())
    }
}
