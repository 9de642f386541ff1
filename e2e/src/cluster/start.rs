//! Starts a cluster, as much of it at a time as possible.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use tokio::try_join;

use super::binaries::{self, Binaries};
use super::components::Components;
use super::daemon::{self, wait};
use super::layout::Layout;
use super::progress::Progress;
use super::{Cluster, cgroup, health, images, network, packages, pki, shell, teardown};

/// A limit that only a broken machine reaches.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// Starts the cluster from nothing, after removing what an earlier one left.
pub(crate) async fn run(layout: &Layout, progress: &Progress) -> Result<()> {
    packages::ensure(progress).await?;
    let binaries = binaries::ensure(layout, progress).await?;
    if layout.state().exists() || layout.run().exists() || layout.netns_path().exists() {
        progress
            .step(
                "removing what is left of an earlier run",
                teardown::run(layout),
            )
            .await?;
    }
    make_folders(layout, &binaries)?;
    cgroup::create(layout)?;
    let node = progress
        .step("network", network::create(layout))
        .await?
        .node();
    pki::write(layout, node).context("cannot make the certificates")?;
    let components = Components {
        layout,
        binaries: &binaries,
        node,
    };
    components.write_files()?;

    for daemon in [
        components.etcd(),
        components.containerd(),
        components.api_server(),
    ] {
        daemon.start(layout)?;
    }
    let client = Cluster::embedded(layout.clone()).client().await?;
    try_join!(
        control_plane(&components, &client, progress),
        runtime(&components, progress)
    )?;
    components.kubelet().start(layout)?;
    let node = wait(layout, "kubelet", "the node to become ready", LIMIT, || {
        health::node_ready(&client)
    });
    progress.step("node", node).await?;
    let dns = wait(layout, "kubelet", "CoreDNS to become ready", LIMIT, || {
        health::dns_ready(&client)
    });
    progress.step("CoreDNS", dns).await
}

fn make_folders(layout: &Layout, binaries: &Binaries) -> Result<()> {
    let state = layout.state();
    for folder in [
        layout.logs(),
        layout.bin(),
        daemon::records(layout),
        state.join("cni"),
        state.join("kubelet"),
        layout.run(),
    ] {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    for tool in ["kubectl", "helm"] {
        symlink(binaries.path(tool), layout.bin().join(tool))?;
    }
    Ok(())
}

/// The API server, what works for it, and the addons.
async fn control_plane(
    components: &Components<'_>,
    client: &Client,
    progress: &Progress,
) -> Result<()> {
    let layout = components.layout;
    let ready = wait(
        layout,
        "kube-apiserver",
        "the API server to become ready",
        LIMIT,
        || health::api_ready(client),
    );
    progress.step("API server", ready).await?;
    for daemon in [
        components.controller_manager(),
        components.scheduler(),
        components.proxy(),
    ] {
        daemon.start(layout)?;
    }
    let manifest = layout.state().join("coredns.yaml");
    let mut kubectl = shell::command(layout.bin().join("kubectl"));
    kubectl.arg("--kubeconfig").arg(layout.kubeconfig()).args([
        "apply",
        "--server-side",
        "--filename",
    ]);
    progress
        .step("addons", shell::output(kubectl.arg(manifest)))
        .await?;
    Ok(())
}

/// containerd with the images that cannot be pulled.
async fn runtime(components: &Components<'_>, progress: &Progress) -> Result<()> {
    let layout = components.layout;
    let ready = wait(
        layout,
        "containerd",
        "containerd's socket",
        LIMIT,
        async || Ok(layout.containerd_socket().exists()),
    );
    progress.step("containerd", ready).await?;
    for name in ["pause", "coredns"] {
        let archive = components.binaries.archive(name);
        progress
            .step(&format!("image {name}"), images::import(layout, &archive))
            .await?;
    }
    Ok(())
}
