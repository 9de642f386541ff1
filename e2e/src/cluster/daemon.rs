//! The cluster's long-running processes: started apart from this program, found again by their records.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::sleep;

use super::layout::Layout;
use super::{cgroup, shell};

/// The processes of a cluster in the order in which they start.
pub(crate) const NAMES: [&str; 7] = [
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
];

/// A process to start in the node's network namespace.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
}

impl Daemon {
    /// A daemon as it runs now, to be started again in the same way.
    pub(crate) fn running(layout: &Layout, name: &str) -> Result<Self> {
        let name = NAMES
            .into_iter()
            .find(|n| *n == name)
            .with_context(|| format!("{name} is no part of the cluster"))?;
        let record = Record::read(layout, name).filter(Record::alive);
        let pid = record.with_context(|| format!("{name} does not run"))?.pid;
        let line = fs::read(format!("/proc/{pid}/cmdline"))?;
        let words = String::from_utf8(line).context("a command line that is not UTF-8")?;
        let mut words = words.trim_end_matches('\0').split('\0').map(String::from);
        let program = words.next().context("a process without a command line")?;
        Ok(Self {
            name,
            program: program.into(),
            args: words.collect(),
        })
    }

    /// Starts it in its own session, so that a Ctrl-C of this program does not reach it, and records it.
    pub(crate) fn start(&self, layout: &Layout) -> Result<()> {
        let path = log_path(layout, self.name);
        let log =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        // Both setsid and nsenter exec what follows, so that the child's pid stays the daemon's.
        let mut command = shell::command("setsid");
        command
            .arg("nsenter")
            .arg(format!("--net={}", layout.netns_path().display()))
            .arg("--")
            .arg(&self.program)
            .args(&self.args)
            .current_dir(layout.state())
            .env_clear() // the shell's proxies and Kubernetes settings are none of the cluster's
            .env("PATH", shell::search_path())
            .env("HOME", layout.state())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(false);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let pid = child
            .id()
            .with_context(|| format!("{} ended at once", self.name))?;
        cgroup::join_system(layout, pid)?;
        let record = Record::of(pid).with_context(|| format!("{} ended at once", self.name))?;
        fs::write(record_path(layout, self.name), record.text())?;
        Ok(())
    }
}

/// Which process a daemon is: its pid, and what shows that this pid is still the same process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) pid: u32,
    start: u64,
    boot: String,
}

impl Record {
    fn of(pid: u32) -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()?
            .trim()
            .to_owned();
        Some(Self {
            pid,
            start: start_time(pid)?,
            boot,
        })
    }

    fn text(&self) -> String {
        format!("{} {} {}\n", self.pid, self.start, self.boot)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (pid, start) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self {
            pid,
            start,
            boot: words.next()?.to_owned(),
        })
    }

    /// Reads a daemon's record, if it was ever started.
    pub(crate) fn read(layout: &Layout, name: &str) -> Option<Self> {
        Self::parse(&fs::read_to_string(record_path(layout, name)).ok()?)
    }

    /// Whether this very process still runs.
    pub(crate) fn alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Sends a signal, unless the process has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.alive() {
            send(self.pid, signal);
        }
    }
}

/// Sends a signal; that the process is gone already is no error.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// When a process started, in clock ticks since boot; nothing for one that has ended, even if not yet reaped.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, is in parentheses and may hold anything; the third is the state.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Waits until the check says yes. Gives up when the time is over or the daemon has ended, and then shows the end of
/// the daemon's log.
pub(crate) async fn wait<F, Fut>(
    layout: &Layout,
    daemon: &str,
    what: &str,
    limit: Duration,
    check: F,
) -> Result<()>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<bool>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let answer = check().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        let reason = match answer {
            Err(error) => format!(": {error:#}"),
            Ok(_) => String::new(),
        };
        if !Record::read(layout, daemon).is_some_and(|record| record.alive()) {
            bail!(
                "{daemon} ended while waiting for {what}{reason}\n{}",
                log_tail(layout, daemon)
            );
        }
        if Instant::now() > deadline {
            let seconds = limit.as_secs();
            bail!(
                "waited {seconds} s in vain for {what}{reason}\n{}",
                log_tail(layout, daemon)
            );
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn log_tail(layout: &Layout, daemon: &str) -> String {
    let path = log_path(layout, daemon);
    let text = fs::read(&path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
    format!("--- the end of {} ---\n{tail}", path.display())
}

fn log_path(layout: &Layout, name: &str) -> PathBuf {
    layout.logs().join(format!("{name}.log"))
}

fn record_path(layout: &Layout, name: &str) -> PathBuf {
    records(layout).join(name)
}

/// The folder with the daemons' records.
pub(crate) fn records(layout: &Layout) -> PathBuf {
    layout.state().join("pid")
}

/// Every process of the machine: its pid, its name, and its command line with spaces between the words.
pub(crate) fn processes() -> impl Iterator<Item = (u32, String, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let line = read_lossy(&entry.path().join("cmdline"))?.replace('\0', " ");
        Some((pid, name.trim().to_owned(), line))
    })
}

fn read_lossy(path: &Path) -> Option<String> {
    fs::read(path)
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_knows_its_process() {
        let own = Record::of(std::process::id()).expect("this process runs");
        assert!(own.alive());
        assert_eq!(Record::parse(&own.text()), Some(own.clone()));
        let reused = Record {
            start: own.start + 1,
            ..own
        };
        assert!(!reused.alive());
    }

    #[test]
    fn a_broken_record_is_none() {
        assert_eq!(Record::parse(""), None);
        assert_eq!(Record::parse("12 x y"), None);
    }
}
