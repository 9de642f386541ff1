//! The cluster's processes with their flags and files.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};

use super::binaries::Binaries;
use super::daemon::Daemon;
use super::layout::{DNS, Layout, NODE, PODS, SERVICES};
use super::packages;
use super::pki::API_PORT;

/// What the flags and files depend on.
#[derive(Debug)]
pub(crate) struct Components<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) binaries: &'a Binaries,
    /// The node's address.
    pub(crate) node: Ipv4Addr,
}

impl Components<'_> {
    /// Writes the configuration files.
    pub(crate) fn write_files(&self) -> Result<()> {
        let state = self.layout.state();
        let files = [
            ("containerd.toml", include_str!("config/containerd.toml")),
            ("cni/pods.conflist", include_str!("config/pods.conflist")),
            ("kubelet.yaml", include_str!("config/kubelet.yaml")),
            ("kube-proxy.yaml", include_str!("config/kube-proxy.yaml")),
            ("coredns.yaml", include_str!("config/coredns.yaml")),
            ("resolv.conf", ""),
        ];
        for (name, template) in files {
            let path = state.join(name);
            fs::write(&path, self.fill(template)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn fill(&self, template: &str) -> Result<String> {
        let path = |path: PathBuf| path.display().to_string();
        let values = [
            ("state", path(self.layout.state())),
            ("run", path(self.layout.run())),
            ("name", self.layout.name()),
            ("cgroup", self.layout.cgroup()),
            ("node", NODE.to_owned()),
            ("pods", PODS.to_owned()),
            ("dns", DNS.to_owned()),
            ("pause", self.binaries.image("pause")),
            ("coredns", self.binaries.image("coredns")),
            (
                "cni",
                packages::cni_folder()
                    .context("there are no CNI plugins")?
                    .to_owned(),
            ),
            ("snapshotter", snapshotter(&self.layout.state())?.to_owned()),
        ];
        let fill = |text: String, (key, value): &(&str, String)| {
            text.replace(&format!("{{{{{key}}}}}"), value)
        };
        Ok(values.iter().fold(template.to_owned(), fill))
    }

    /// The store. It need not outlive a power cut.
    pub(crate) fn etcd(&self) -> Daemon {
        let client = "http://127.0.0.1:2379";
        let args = [
            format!("--data-dir={}", self.state("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        Daemon {
            name: "etcd",
            program: self.binaries.path("etcd"),
            args: args.into(),
        }
    }

    pub(crate) fn containerd(&self) -> Daemon {
        let args = ["--config".to_owned(), self.state("containerd.toml")];
        Daemon {
            name: "containerd",
            program: "containerd".into(),
            args: args.into(),
        }
    }

    pub(crate) fn api_server(&self) -> Daemon {
        let flags = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--bind-address=0.0.0.0".to_owned(),
            format!("--secure-port={API_PORT}"),
            format!("--advertise-address={}", self.node),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged".to_owned(),
            format!("--client-ca-file={}", self.pki("ca.crt")),
            format!("--tls-cert-file={}", self.pki("kube-apiserver.crt")),
            format!("--tls-private-key-file={}", self.pki("kube-apiserver.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!(
                "--service-account-key-file={}",
                self.pki("service-accounts.pub")
            ),
            format!(
                "--service-account-signing-key-file={}",
                self.pki("service-accounts.key")
            ),
            format!("--kubelet-certificate-authority={}", self.pki("ca.crt")),
            format!("--kubelet-client-certificate={}", self.pki("admin.crt")),
            format!("--kubelet-client-key={}", self.pki("admin.key")),
            // By default it would resolve the node's name, which no server knows.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ];
        self.kubernetes("kube-apiserver", flags.into())
    }

    pub(crate) fn controller_manager(&self) -> Daemon {
        let flags = [
            format!(
                "--kubeconfig={}",
                self.state("kube-controller-manager.conf")
            ),
            format!(
                "--service-account-private-key-file={}",
                self.pki("service-accounts.key")
            ),
            format!("--root-ca-file={}", self.pki("ca.crt")),
            format!("--cluster-signing-cert-file={}", self.pki("ca.crt")),
            format!("--cluster-signing-key-file={}", self.pki("ca.key")),
            // By default it would make this folder below /usr.
            format!(
                "--flex-volume-plugin-dir={}",
                self.state("kubelet/volume-plugins")
            ),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
        ];
        self.kubernetes("kube-controller-manager", flags.into())
    }

    pub(crate) fn scheduler(&self) -> Daemon {
        let flags = [
            format!("--kubeconfig={}", self.state("kube-scheduler.conf")),
            "--leader-elect=false".to_owned(),
        ];
        self.kubernetes("kube-scheduler", flags.into())
    }

    pub(crate) fn proxy(&self) -> Daemon {
        self.kubernetes(
            "kube-proxy",
            vec![format!("--config={}", self.state("kube-proxy.yaml"))],
        )
    }

    pub(crate) fn kubelet(&self) -> Daemon {
        let flags = [
            format!("--config={}", self.state("kubelet.yaml")),
            format!("--kubeconfig={}", self.state("kubelet.conf")),
            format!("--root-dir={}", self.state("kubelet")),
            format!("--cert-dir={}", self.state("kubelet/pki")),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={}", self.node),
        ];
        self.kubernetes("kubelet", flags.into())
    }

    fn kubernetes(&self, name: &'static str, flags: Vec<String>) -> Daemon {
        let args = std::iter::once(name.to_owned()).chain(flags).collect();
        Daemon {
            name,
            program: self.binaries.path("hyperkube"),
            args,
        }
    }

    fn state(&self, name: &str) -> String {
        self.layout.state().join(name).display().to_string()
    }

    fn pki(&self, name: &str) -> String {
        self.layout.pki().join(name).display().to_string()
    }
}

/// How containerd stacks layers. An overlay cannot lie on an overlay, as it would in a development container.
fn snapshotter(state: &Path) -> Result<&'static str> {
    let overlay = statfs(state)?.filesystem_type() == OVERLAYFS_SUPER_MAGIC;
    Ok(if overlay { "native" } else { "overlayfs" })
}
