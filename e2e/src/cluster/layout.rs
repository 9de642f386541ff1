//! Names and folders of this checkout's cluster, all derived from the checkout's path, so that the clusters of two
//! checkouts run side by side.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use hello::fnv;

/// The node's name.
pub(crate) const NODE: &str = "node";
/// Addresses of pods; the same in each cluster, since each has its own network namespace.
pub(crate) const PODS: &str = "10.244.0.0/22";
/// Addresses of services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The API server's service address, the first of [`SERVICES`].
pub(crate) const API_SERVICE: [u8; 4] = [10, 96, 0, 1];
/// CoreDNS's service address.
pub(crate) const DNS: &str = "10.96.0.10";

/// Names and folders of this checkout's cluster.
#[derive(Debug, Clone)]
pub struct Layout {
    checkout: PathBuf,
    hash: u64,
}

impl Layout {
    /// The layout of the checkout that `cargo e2e` was called in, or else of the one that this program was built from.
    /// The two differ when checkouts share a target folder, where cargo takes one's program for the other's.
    pub fn of_checkout() -> Result<Self> {
        let called = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let called = called.filter(|folder| folder.join("cluster/go.mod").is_file());
        let path = called
            .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")))
            .join("..");
        let checkout = path
            .canonicalize()
            .with_context(|| format!("the checkout {} is gone; build e2e again", path.display()))?;
        Ok(Self {
            hash: fnv::hash(checkout.as_os_str().as_encoded_bytes()),
            checkout,
        })
    }

    /// The workspace's root.
    pub fn checkout(&self) -> &Path {
        &self.checkout
    }

    /// A number that depends on the checkout's path alone.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The cluster's name, `ebb-` and six hex digits.
    pub fn name(&self) -> String {
        format!("ebb-{}", self.id())
    }

    fn id(&self) -> String {
        format!("{:06x}", (self.hash ^ (self.hash >> 24)) & 0xff_ffff)
    }

    /// Where the cluster keeps everything but its sockets.
    pub fn state(&self) -> PathBuf {
        self.checkout.join("target/cluster")
    }

    /// Sockets and containerd's mounts; a short path, since a socket's may have no more than 107 bytes.
    pub fn run(&self) -> PathBuf {
        Path::new("/run").join(self.name())
    }

    /// Held while a cluster of this checkout is being started or stopped. Outside of the state folder, which `down`
    /// removes.
    pub(crate) fn lock(&self) -> PathBuf {
        self.checkout.join("target/cluster.lock")
    }

    /// The components' logs.
    pub fn logs(&self) -> PathBuf {
        self.state().join("log")
    }

    /// Links to kubectl and helm.
    pub fn bin(&self) -> PathBuf {
        self.state().join("bin")
    }

    /// Certificates and keys.
    pub(crate) fn pki(&self) -> PathBuf {
        self.state().join("pki")
    }

    /// The admin's kubeconfig, which works from the machine's own network too.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state().join("kubeconfig")
    }

    /// containerd's socket.
    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.run().join("containerd.sock")
    }

    /// The network namespace that the node lives in.
    pub fn netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(self.name())
    }

    /// The veth pair's end on the machine. An interface's name has at most 15 bytes.
    pub(crate) fn host_link(&self) -> String {
        format!("ebb{}h", self.id())
    }

    /// The veth pair's end in the node's network namespace.
    pub(crate) fn node_link(&self) -> String {
        format!("ebb{}n", self.id())
    }

    /// The kubelet's cgroup root.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", self.name())
    }
}
