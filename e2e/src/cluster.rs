//! A real Kubernetes with one node, run as plain processes in a network namespace of this machine.
//!
//! With `EBB_KUBECONFIG` the cluster of that file takes its place: then nothing is started or stopped, and images must
//! be where `EBB_IMAGE_PREFIX` says (see [`images::load`]).

use std::convert::Infallible;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::time::timeout;

mod binaries;
mod cgroup;
mod components;
mod daemon;
pub mod fake;
mod health;
pub mod images;
mod layout;
pub(crate) mod modules;
mod network;
pub(crate) mod packages;
mod pki;
mod progress;
mod reboot;
pub(crate) mod shell;
mod start;
mod status;
mod teardown;

pub(crate) use cgroup::AsPod;
pub use layout::Layout;
pub use progress::Progress;
pub use reboot::Dark;
pub use status::Status;

/// Set for a program that was started anew inside the node's network namespace.
const INSIDE: &str = "EBB_INSIDE_NETNS";

/// A running cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    kubeconfig: PathBuf,
    /// Nothing for a cluster that this program has not started.
    layout: Option<Layout>,
}

/// A process of the cluster that was killed.
#[derive(Debug)]
pub struct Killed {
    layout: Layout,
    daemon: daemon::Daemon,
}

impl Killed {
    /// Starts it again as it was.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(self) -> Result<()> {
        self.daemon.start(&self.layout)
    }
}

impl Cluster {
    /// Starts this checkout's cluster, unless it runs already.
    pub async fn up(progress: &Progress) -> Result<Self> {
        if external().is_some() {
            return Self::attach().await;
        }
        packages::require_root("the cluster")?;
        let layout = Layout::of_checkout()?;
        let _lock = lock(&layout, progress).await?;
        let cluster = Self::embedded(layout.clone());
        if cluster.is_healthy().await {
            return Ok(cluster);
        }
        progress
            .step(
                &format!("cluster {}", layout.name()),
                start::run(&layout, progress),
            )
            .await?;
        Ok(cluster)
    }

    /// Stops this checkout's cluster and removes every trace of it.
    pub async fn down(progress: &Progress) -> Result<()> {
        if external().is_some() {
            progress.say("EBB_KUBECONFIG is set; its cluster stays as it is");
            return Ok(());
        }
        packages::require_root("stopping the cluster")?;
        let layout = Layout::of_checkout()?;
        let _lock = lock(&layout, progress).await?;
        progress
            .step(
                &format!("removing cluster {}", layout.name()),
                teardown::run(&layout),
            )
            .await
    }

    /// The cluster that is up already.
    pub async fn attach() -> Result<Self> {
        if let Some(kubeconfig) = external() {
            let cluster = Self::external(kubeconfig);
            let ready = timeout(
                Duration::from_secs(10),
                health::api_ready(&cluster.client().await?),
            )
            .await;
            ready
                .context("no answer within 10 s")
                .and_then(|ready| ready)
                .with_context(|| {
                    format!(
                        "the cluster of EBB_KUBECONFIG ({}) cannot be used",
                        cluster.kubeconfig.display()
                    )
                })?;
            return Ok(cluster);
        }
        let cluster = Self::embedded(Layout::of_checkout()?);
        if !cluster.is_healthy().await {
            bail!(
                "the cluster is not up; run `cargo e2e up` (and `cargo e2e status` for what is wrong with it)"
            );
        }
        Ok(cluster)
    }

    /// Ends one of the cluster's processes with SIGKILL; it stays away until it is started again.
    ///
    /// # Errors
    /// If it does not run, or the cluster is not this checkout's own.
    pub fn kill(&self, component: &str) -> Result<Killed> {
        let layout = self
            .layout
            .clone()
            .context("only the processes of this checkout's own cluster are killed")?;
        let daemon = daemon::Daemon::running(&layout, component)?;
        let record = daemon::Record::read(&layout, component).context("it has no record")?;
        record.signal(nix::sys::signal::Signal::SIGKILL);
        Ok(Killed { layout, daemon })
    }

    /// What runs, and how well.
    pub async fn status() -> Result<Status> {
        Status::observe().await
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// A client with the admin's rights.
    pub async fn client(&self) -> Result<Client> {
        // Two providers are linked in, so that rustls does not choose by itself. The second call finds it set.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let file = Kubeconfig::read_from(&self.kubeconfig)
            .with_context(|| format!("cannot read {}", self.kubeconfig.display()))?;
        let mut config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        if self.layout.is_some() {
            config.proxy_url = None; // the shell's proxy does not know this machine's veth pair
        }
        Ok(Client::try_from(config)?)
    }

    /// Runs kubectl and returns what it prints.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.tool("kubectl", args, "").await
    }

    /// Runs kubectl with this text as its input, as for `apply -f -`, and returns what it prints.
    pub async fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        self.tool("kubectl", args, input).await
    }

    /// Runs helm and returns what it prints.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        self.tool("helm", args, "").await
    }

    async fn tool(&self, name: &str, args: &[&str], input: &str) -> Result<String> {
        let path = self.bin_dir().join(name);
        let mut command = shell::command(if path.exists() { path } else { name.into() });
        command.env("KUBECONFIG", &self.kubeconfig).args(args);
        if self.layout.is_some() {
            for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
                command.env_remove(proxy);
            }
        }
        shell::output_with_input(&mut command, input).await
    }

    /// A folder with kubectl and helm. It is empty for a cluster of `EBB_KUBECONFIG`, whose own tools are on the PATH.
    pub fn bin_dir(&self) -> PathBuf {
        self.layout.as_ref().map(Layout::bin).unwrap_or_default()
    }

    /// The node's network namespace, from which pods and services can be reached. None for `EBB_KUBECONFIG`.
    pub fn netns_path(&self) -> Option<PathBuf> {
        self.layout.as_ref().map(Layout::netns_path)
    }

    /// Names and folders. None for `EBB_KUBECONFIG`.
    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    /// Makes sure that this program runs in the node's network namespace, in which pods' addresses, ClusterIPs and
    /// NodePorts are reachable: elsewhere it starts itself anew there, with the same arguments, and does not return.
    /// With `EBB_KUBECONFIG` it does nothing.
    pub fn reexec_inside(&self) -> Result<()> {
        let Some(netns) = self.netns_path() else {
            return Ok(());
        };
        if same_file(&netns, Path::new("/proc/self/ns/net"))? {
            return Ok(());
        }
        if std::env::var_os(INSIDE).is_some() {
            bail!(
                "nsenter did not enter {}; unset {INSIDE} if it comes from your shell",
                netns.display()
            );
        }
        let program = std::env::current_exe().context("cannot tell where this program lies")?;
        let mut command = std::process::Command::new("nsenter");
        command
            .arg(format!("--net={}", netns.display()))
            .arg("--")
            .arg(program);
        command
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .env("PATH", shell::search_path());
        let error: Result<Infallible, _> = Err(command.exec());
        error
            .map(|never| match never {})
            .context("cannot start nsenter")
    }

    fn embedded(layout: Layout) -> Self {
        Self {
            kubeconfig: layout.kubeconfig(),
            layout: Some(layout),
        }
    }

    fn external(kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig,
            layout: None,
        }
    }

    async fn is_healthy(&self) -> bool {
        let Some(layout) = &self.layout else {
            return false;
        };
        let alive = |name| daemon::Record::read(layout, name).is_some_and(|record| record.alive());
        if !daemon::NAMES.into_iter().all(alive) {
            return false;
        }
        let answers = async {
            let client = self.client().await?;
            anyhow::Ok(
                health::api_ready(&client).await?
                    && health::node_ready(&client).await?
                    && health::dns_ready(&client).await?,
            )
        };
        matches!(timeout(Duration::from_secs(5), answers).await, Ok(Ok(true)))
    }
}

/// The kubeconfig of a cluster to use instead of the embedded one.
fn external() -> Option<PathBuf> {
    std::env::var_os("EBB_KUBECONFIG")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// Waits until no other program starts or stops this checkout's cluster.
async fn lock(layout: &Layout, progress: &Progress) -> Result<File> {
    let path = layout.lock();
    fs::create_dir_all(layout.checkout().join("target"))?;
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            progress.say("waiting for another `cargo e2e` that starts or stops the cluster")
        }
        Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the cluster"),
    }
    tokio::task::spawn_blocking(move || file.lock().map(|()| file))
        .await?
        .context("cannot lock the cluster")
}

fn same_file(a: &Path, b: &Path) -> Result<bool> {
    let look = |path: &Path| {
        fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))
    };
    let (a, b) = (look(a)?, look(b)?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}
