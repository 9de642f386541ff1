//! Kubernetes, etcd, CoreDNS and helm, built once per machine from the Go modules of `e2e/cluster`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::images;
use super::layout::Layout;
use super::modules::Module;
use super::progress::Progress;

/// The Go packages to build; each makes a binary of its last name.
const PACKAGES: [&str; 5] = [
    "./hyperkube",
    "./etcd",
    "./coredns",
    "./pause",
    "helm.sh/helm/v4/cmd/helm",
];

/// The machine's folder of built binaries, and of the images of the two that run in pods.
#[derive(Debug)]
pub(crate) struct Binaries {
    /// The folder, which other checkouts of the same Go modules use too.
    pub(crate) folder: PathBuf,
    tag: String,
}

impl Binaries {
    /// The path of one of them.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The reference of the image made of one of them.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("localhost/{name}:{}", self.tag)
    }

    /// The archive of that image.
    pub(crate) fn archive(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.tar"))
    }
}

/// Builds the binaries, unless the machine has those of the same Go modules already.
pub(crate) async fn ensure(layout: &Layout, progress: &Progress) -> Result<Binaries> {
    let module = Module::of(layout, "cluster")?;
    let binaries = Binaries {
        folder: module.folder.clone(),
        tag: module.tag.clone(),
    };
    let says = "building Kubernetes, etcd, CoreDNS and helm from Go modules; about ten minutes the first time";
    let build = async |into: &Path| build(&module, into, &binaries).await;
    module.ensure(progress, says, build).await?;
    Ok(binaries)
}

async fn build(module: &Module, unfinished: &Path, binaries: &Binaries) -> Result<()> {
    let version = kubernetes_version(&module.path)?;
    let minor = version
        .split('.')
        .nth(1)
        .context("a version has three parts")?;
    let flags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={version} \
         -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor={minor} \
         -X k8s.io/client-go/pkg/version.gitVersion={version}"
    );
    module.compile(unfinished, &flags, &PACKAGES).await?;
    // hyperkube acts as kubectl when it is called so.
    std::os::unix::fs::symlink("hyperkube", unfinished.join("kubectl"))?;
    for name in ["pause", "coredns"] {
        let archive = unfinished.join(format!("{name}.tar"));
        images::build_archive(
            &unfinished.join(name),
            &binaries.image(name),
            images::ROOT,
            &archive,
        )
        .await?;
    }
    Ok(())
}

fn kubernetes_version(module: &Path) -> Result<String> {
    let text = fs::read_to_string(module.join("go.mod"))?;
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    Ok(version
        .context("e2e/cluster/go.mod requires no k8s.io/kubernetes")?
        .trim()
        .to_owned())
}
