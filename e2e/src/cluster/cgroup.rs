//! The cgroup that all pods of this cluster live in: one folder on cgroup v2, one per controller on v1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::layout::Layout;

const MOUNT: &str = "/sys/fs/cgroup";

/// Makes the cluster's cgroup.
pub(crate) fn create(layout: &Layout) -> Result<()> {
    let name = layout.name();
    if unified() {
        return create_unified(&Path::new(MOUNT).join(name));
    }
    for controller in controllers()? {
        let folder = controller.join(&name);
        make(&folder)?;
        // A new cpuset is empty, and no process may join an empty one.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if folder.join(file).exists() {
                let value = fs::read_to_string(controller.join(file))?;
                fs::write(folder.join(file), value.trim())
                    .with_context(|| format!("cannot write {}", folder.join(file).display()))?;
            }
        }
    }
    Ok(())
}

/// Puts a process of the node beside the pods, so that all of them together have a share of the CPU as a node's system services have, a third where
/// the pods want the rest. In the machine's root each of their threads would count as much as all pods.
pub(crate) fn join_system(layout: &Layout, pid: u32) -> Result<()> {
    let folder = cpu_root()?.join(layout.name()).join("system");
    make(&folder)?;
    join(&folder, pid)
}

/// As long as it lives, this process has the CPU of a pod of this cluster that requests a tenth of one, as Ebb's operator does.
#[derive(Debug)]
pub(crate) struct AsPod {
    folder: PathBuf,
    /// Where this process was before.
    before: PathBuf,
}

impl AsPod {
    /// Moves this process there.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn begin(layout: &Layout) -> Result<Self> {
        let root = cpu_root()?;
        let folder = root.join(layout.name()).join("kubepods/burstable/bench");
        make(&folder)?;
        // What the kubelet writes for 100m.
        let (file, share) = match unified() {
            true => ("cpu.weight", "4"),
            false => ("cpu.shares", "102"),
        };
        fs::write(folder.join(file), share)?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mut hierarchies = own.lines().filter_map(|line| line.split_once(':'));
        let own = hierarchies.find_map(|(_, rest)| {
            let (controllers, path) = rest.split_once(':')?;
            let is_cpu = controllers.split(',').any(|name| name == "cpu");
            (is_cpu || unified() && controllers.is_empty()).then_some(path)
        });
        let own = own.context("this process is in no cgroup of the cpu controller")?;
        let before = root.join(own.trim_start_matches('/'));
        join(&folder, std::process::id())?;
        Ok(Self { folder, before })
    }
}

impl Drop for AsPod {
    fn drop(&mut self) {
        let left = join(&self.before, std::process::id());
        if let Err(error) = left.and_then(|()| Ok(fs::remove_dir(&self.folder)?)) {
            eprintln!("{} stays: {error:#}", self.folder.display());
        }
    }
}

fn join(folder: &Path, pid: u32) -> Result<()> {
    let processes = folder.join("cgroup.procs");
    fs::write(&processes, pid.to_string())
        .with_context(|| format!("cannot write {}", processes.display()))
}

/// The root of the hierarchy that shares out the CPU.
fn cpu_root() -> Result<PathBuf> {
    if unified() {
        return Ok(PathBuf::from(MOUNT));
    }
    let mut roots = controllers()?.into_iter();
    let found = roots.find(|root| root.join("cpu.shares").exists());
    found.context("cgroup v1 has no cpu controller here")
}

/// The processes in the cluster's cgroup.
pub(crate) fn processes(layout: &Layout) -> Vec<u32> {
    let folders = folders(layout)
        .into_iter()
        .flat_map(|folder| below(&folder));
    let pids = folders.filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
    let mut pids: Vec<u32> = pids
        .flat_map(|text| {
            text.lines()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| *pid != 0); // a process outside of this pid namespace
    pids
}

/// Removes the cluster's cgroup; its processes have been killed, but may take a moment to be gone.
pub(crate) fn remove(layout: &Layout) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for folder in folders(layout).iter().flat_map(|folder| below(folder)) {
        loop {
            match fs::remove_dir(&folder) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) if Instant::now() > deadline => {
                    let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                    let pids = pids.split_whitespace().collect::<Vec<_>>().join(", ");
                    bail!(
                        "cannot remove the cgroup {} ({error}); processes in it: {pids}",
                        folder.display()
                    );
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    Ok(())
}

fn unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// The root folders of cgroup v1's controllers.
fn controllers() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let cgroups = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        (kind == "cgroup").then(|| PathBuf::from(path))
    });
    let found: Vec<PathBuf> = cgroups.collect();
    if found.is_empty() {
        bail!(
            "there are no cgroups below {MOUNT}; in a container they must be mounted writable (privileged)"
        );
    }
    Ok(found)
}

fn create_unified(folder: &Path) -> Result<()> {
    make(folder)?;
    for parent in [Path::new(MOUNT), folder] {
        let available = fs::read_to_string(parent.join("cgroup.controllers"))?;
        let control = parent.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&control)?;
        let enabled: Vec<&str> = enabled.split_whitespace().collect();
        for controller in available
            .split_whitespace()
            .filter(|name| !enabled.contains(name))
        {
            let written = fs::write(&control, format!("+{controller}"));
            if matches!(controller, "cpu" | "cpuset" | "memory" | "pids") {
                written.with_context(|| {
                    format!(
                        "cannot enable the cgroup controller {controller} in {}",
                        control.display()
                    )
                })?;
            }
        }
    }
    Ok(())
}

fn make(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make the cgroup {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The cluster's folder in each hierarchy, as far as it exists.
fn folders(layout: &Layout) -> Vec<PathBuf> {
    let mut roots = controllers().unwrap_or_default();
    roots.push(PathBuf::from(MOUNT));
    // On a hybrid machine the unified hierarchy is mounted beside the controllers.
    roots.push(Path::new(MOUNT).join("unified"));
    roots
        .into_iter()
        .map(|root| root.join(layout.name()))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// A folder and all below it, children first.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let children = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut all: Vec<PathBuf> = children.flat_map(|child| below(&child.path())).collect();
    all.push(folder.to_owned());
    all
}
