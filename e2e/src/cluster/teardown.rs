//! Removes a cluster, whatever is left of it: after a crash or a kill too, and without touching anything foreign.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::daemon::{self, Record};
use super::layout::Layout;
use super::{cgroup, shell};

/// Where the CNI library keeps results; its folder is the same for all.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// Where the kubelet links containers' logs; its folder is the same for all.
const LOG_LINKS: &str = "/var/log/containers";

/// Removes all of a cluster: processes, mounts, network, cgroups, folders.
pub(crate) async fn run(layout: &Layout) -> Result<()> {
    stop_daemons(layout).await;
    kill_rest(layout).await?;
    let sandboxes = sandboxes(layout);
    let (folders, owned) = ([layout.state(), layout.run()], layout.clone());
    forget_runtime(layout)?;
    remove_network(layout).await?;
    tokio::task::spawn_blocking(move || cgroup::remove(&owned)).await??;
    remove_entries(CNI_RESULTS, |path| {
        sandboxes.iter().any(|id| file_name(path).contains(id))
    });
    let logs = layout.state();
    remove_entries(LOG_LINKS, |path| {
        fs::read_link(path).is_ok_and(|target| target.starts_with(&logs))
    });
    for folder in folders {
        tokio::task::spawn_blocking(move || remove_folder(&folder)).await??;
    }
    Ok(())
}

/// Ends the daemons by their records: asks first, then forces.
async fn stop_daemons(layout: &Layout) {
    let records: Vec<(&str, Record)> = daemon::NAMES
        .iter()
        .filter_map(|name| Some((*name, Record::read(layout, name)?)))
        .collect();
    for (name, record) in &records {
        // Asked to end, the API server waits for its clients for up to a minute.
        let signal = if *name == "kube-apiserver" {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        };
        record.signal(signal);
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    while records.iter().any(|(_, record)| record.alive()) && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
    for (_, record) in &records {
        record.signal(Signal::SIGKILL);
    }
}

/// Kills what no record names: the pods' processes, their shims, and daemons whose record was lost. Repeats, since a
/// process may start another before it dies.
pub(crate) async fn kill_rest(layout: &Layout) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let rest = rest(layout);
        if rest.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("these processes of the cluster do not end: {rest:?}");
        }
        for pid in rest {
            daemon::send(pid, Signal::SIGKILL);
        }
        sleep(Duration::from_millis(30)).await;
    }
}

/// Removes what the container runtime's processes have left in the kernel and outside of the cluster's own folders: mounts, and the shims' sockets.
pub(crate) fn forget_runtime(layout: &Layout) -> Result<()> {
    let sockets = shim_sockets(layout);
    unmount(&[layout.state(), layout.run()])?;
    for socket in sockets {
        let _ = fs::remove_file(socket); // gone already where the shim ended by itself
    }
    Ok(())
}

fn rest(layout: &Layout) -> Vec<u32> {
    let state = format!("{}/", layout.state().display());
    let run = format!("{}/", layout.run().display());
    // By name too, or an editor that shows one of the cluster's files would count as a part of it. The kernel cuts
    // names off after 15 bytes.
    let parts = ["etcd", "hyperkube", "containerd", "containerd-shim"];
    let named = daemon::processes().filter(|(_, name, line)| {
        parts.contains(&name.trim_end_matches('-'))
            && (line.contains(&state) || line.contains(&run))
    });
    let mut pids: Vec<u32> = named.map(|(pid, ..)| pid).collect();
    pids.extend(cgroup::processes(layout));
    pids
}

/// The shims' sockets, which containerd keeps in a folder that all containerds share.
fn shim_sockets(layout: &Layout) -> Vec<PathBuf> {
    let tasks = layout
        .run()
        .join("containerd/io.containerd.runtime.v2.task/k8s.io");
    let bundles = fs::read_dir(tasks).into_iter().flatten().flatten();
    let addresses =
        bundles.filter_map(|bundle| fs::read_to_string(bundle.path().join("address")).ok());
    addresses
        .filter_map(|address| Some(PathBuf::from(address.trim().strip_prefix("unix://")?)))
        .collect()
}

/// The ids of the pods' sandboxes, by which the CNI library names what it keeps.
fn sandboxes(layout: &Layout) -> Vec<String> {
    let folder = layout
        .run()
        .join("containerd/io.containerd.grpc.v1.cri/sandboxes");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Unmounts everything below the folders, the latest mounts first.
fn unmount(folders: &[PathBuf]) -> Result<()> {
    let below = |path: &PathBuf| folders.iter().any(|folder| path.starts_with(folder));
    let mounts: Vec<PathBuf> = mount_points()?.into_iter().filter(below).collect();
    for mount in mounts.iter().rev() {
        // A mount that went away together with the one above it is no error; what remains is looked for below.
        let _ = umount2(mount, MntFlags::MNT_DETACH);
    }
    match mount_points()?.into_iter().find(below) {
        Some(mount) => bail!(
            "cannot unmount {}; do so by hand and repeat",
            mount.display()
        ),
        None => Ok(()),
    }
}

fn mount_points() -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot list the mounts")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .collect())
}

/// In the list of mounts, blanks and the like are three octal digits after a backslash.
fn unescape(path: &str) -> PathBuf {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    PathBuf::from(codes.iter().fold(path.to_owned(), |path, (code, plain)| {
        path.replace(code, plain)
    }))
}

async fn remove_network(layout: &Layout) -> Result<()> {
    if layout.netns_path().exists() {
        shell::run("ip", &["netns", "delete", &layout.name()]).await?;
    }
    // The namespace takes its end of the pair with it, and that the other; but only some time after its last process.
    let link = layout.host_link();
    if Path::new("/sys/class/net").join(&link).exists() {
        let removed = shell::run("ip", &["link", "delete", &link]).await;
        if Path::new("/sys/class/net").join(&link).exists() {
            removed?;
        }
    }
    Ok(())
}

fn remove_entries(folder: &str, ours: impl Fn(&Path) -> bool) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| ours(path)) {
        let _ = fs::remove_file(path); // a small file in a shared folder, which nothing refers to any more
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_mount_points_are_read() {
        assert_eq!(unescape("/home/a\\040b/c"), PathBuf::from("/home/a b/c"));
    }
}
