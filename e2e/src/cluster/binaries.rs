//! Kubernetes, etcd, CoreDNS and helm, built once per machine from the Go modules of `e2e/cluster`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::images;
use super::layout::Layout;
use super::progress::Progress;
use super::shell;
use hello::fnv::Fnv;

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
    let module = layout.checkout().join("e2e/cluster");
    let cache = cache_folder()?;
    let tag = module_hash(&module)?;
    let binaries = Binaries {
        folder: cache.join(&tag),
        tag,
    };
    if binaries.folder.is_dir() {
        return Ok(binaries);
    }
    if !shell::exists("go") {
        bail!(
            "building Kubernetes needs Go 1.26 or later, and there is no `go` on the PATH; see https://go.dev/dl/"
        );
    }
    progress.say("building Kubernetes, etcd, CoreDNS and helm from Go modules; about ten minutes the first time");
    let unfinished = cache.join(format!("unfinished-{}", std::process::id()));
    fs::create_dir_all(&unfinished)
        .with_context(|| format!("cannot make {}", unfinished.display()))?;
    let built = build(&module, &unfinished, &binaries);
    progress.step("building the binaries", built).await?;
    publish(&unfinished, &binaries.folder)?;
    Ok(binaries)
}

/// Compiles into the unfinished folder, so that the final one is complete or not there.
async fn build(module: &Path, unfinished: &Path, binaries: &Binaries) -> Result<()> {
    let version = kubernetes_version(module)?;
    let minor = version
        .split('.')
        .nth(1)
        .context("a version has three parts")?;
    let flags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={version} \
         -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor={minor} \
         -X k8s.io/client-go/pkg/version.gitVersion={version}"
    );
    let mut go = shell::command("go");
    go.current_dir(module)
        .env("CGO_ENABLED", "0")
        .stdout(std::io::stderr());
    go.args(["build", "-trimpath", "-ldflags", &flags, "-o"])
        .arg(format!("{}/", unfinished.display()));
    shell::run_shown(go.args(PACKAGES)).await?;
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

/// Moves a finished folder to its place. That another checkout was faster is fine: both have built the same.
fn publish(unfinished: &Path, folder: &Path) -> Result<()> {
    let moved = fs::rename(unfinished, folder);
    if moved.is_err() && folder.is_dir() {
        return Ok(fs::remove_dir_all(unfinished)?);
    }
    moved.with_context(|| format!("cannot move the binaries to {}", folder.display()))
}

fn cache_folder() -> Result<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("XDG_CACHE_HOME")
        .or_else(|| Some(set("HOME")?.join(".cache")))
        .context(
            "neither XDG_CACHE_HOME nor HOME is set, so there is no folder for the built binaries",
        )?;
    Ok(cache.join("ebb/cluster"))
}

fn module_hash(module: &Path) -> Result<String> {
    let mut files = vec![module.join("go.mod"), module.join("go.sum")];
    for entry in
        fs::read_dir(module).with_context(|| format!("cannot read {}", module.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            let inner = fs::read_dir(path)?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<Vec<_>>>()?;
            files.extend(
                inner
                    .into_iter()
                    .filter(|path| path.extension().is_some_and(|kind| kind == "go")),
            );
        }
    }
    files.sort();
    let mut hash = Fnv::default();
    for file in files {
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        hash.write(file.strip_prefix(module)?.as_os_str().as_encoded_bytes());
        hash.write(&text);
    }
    Ok(format!("{:016x}", hash.finish()))
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
