//! What the machine must have: Debian's container tools, and a Go compiler for the rest.

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use super::progress::Progress;
use super::shell;

/// A program and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 8] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("buildah", "buildah"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
];

/// Folders in which distributions keep the CNI plugins.
const CNI: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// The folder of the CNI plugins.
pub(crate) fn cni_folder() -> Option<&'static str> {
    CNI.into_iter().find(|folder| {
        ["ptp", "host-local", "loopback"]
            .iter()
            .all(|plugin| std::path::Path::new(folder).join(plugin).is_file())
    })
}

/// Fails unless this runs as root, with a reason.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "{what} needs root (network namespaces, mounts and cgroups); run it as root or with `sudo -E`"
        );
    }
    Ok(())
}

/// Installs what is missing.
pub(crate) async fn ensure(progress: &Progress) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return require_root("the cluster");
    }
    install(progress, &missing).await
}

/// Installs what is missing of these programs, each with its package.
pub(crate) async fn ensure_also(progress: &Progress, programs: &[(&str, &str)]) -> Result<()> {
    let missing = programs
        .iter()
        .filter(|(program, _)| !shell::exists(program));
    let missing: Vec<_> = missing.map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(progress, &missing).await
}

async fn install(progress: &Progress, missing: &[&str]) -> Result<()> {
    let list = missing.join(" ");
    if !geteuid().is_root() {
        bail!(
            "these packages are missing: {list}. Installing them needs root; \
               run this as root or with `sudo -E`"
        );
    }
    if !shell::exists("apt-get") {
        bail!(
            "this machine lacks what Debian packages as: {list}. There is no apt-get here; install them by hand"
        );
    }
    progress.say(&format!("installing {list} by apt-get"));
    shell::run_shown(apt().arg("update").arg("-qq")).await?;
    shell::run_shown(
        apt()
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(missing),
    )
    .await
}

fn missing() -> Vec<&'static str> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !shell::exists(program))
        .map(|(_, package)| *package)
        .collect();
    if cni_folder().is_none() {
        missing.push("containernetworking-plugins");
    }
    missing.dedup();
    missing
}

fn apt() -> tokio::process::Command {
    let mut command = shell::command("apt-get");
    // What apt-get prints belongs to the progress, not to the output.
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::io::stderr());
    command
}
