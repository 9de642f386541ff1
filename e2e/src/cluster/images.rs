//! Images of static binaries, without a registry: built from scratch and imported into the cluster's containerd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;

use super::layout::Layout;
use super::{Cluster, shell};
use hello::fnv;

/// The user of an image that must bind a port below 1024.
pub(crate) const ROOT: &str = "0:0";
/// The user of all other images; its number is that of `nobody` in other images from scratch.
const NOBODY: &str = "65532:65532";

/// The static binaries that images are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The operator.
    pub operator: PathBuf,
    /// The activator.
    pub activator: PathBuf,
    /// The sample and test app.
    pub hello: PathBuf,
}

/// Builds the operator, the activator and the sample app as static release binaries of this machine's architecture.
pub async fn build_binaries() -> Result<Binaries> {
    let built = cargo_build(
        "release",
        &["operator", "activator", "hello"],
        &["operator", "activator", "ebb-hello"],
    )
    .await?;
    let [operator, activator, hello] = <[PathBuf; 3]>::try_from(built).map_err(|built| {
        anyhow::anyhow!("cargo built {} binaries instead of three", built.len())
    })?;
    Ok(Binaries {
        operator,
        activator,
        hello,
    })
}

/// Builds the activator alone, as the Dockerfile does: what it costs is measured with what people get.
pub(crate) async fn build_activator() -> Result<PathBuf> {
    let built = cargo_build("dist", &["activator"], &["activator"]).await?;
    built.into_iter().next().context("cargo built nothing")
}

/// Builds the sample app alone.
pub async fn build_hello() -> Result<PathBuf> {
    let built = cargo_build("release", &["hello"], &["ebb-hello"]).await?;
    built.into_iter().next().context("cargo built nothing")
}

/// Makes an image of a static binary, unless the cluster has it, and returns its reference.
///
/// The tag is a hash of the binary, so that a changed one is another image and an unchanged one costs nothing. In a
/// cluster of `EBB_KUBECONFIG` nothing is imported: there the reference is `$EBB_IMAGE_PREFIX/<name>:<version>`, with
/// this project's version, and the cluster must be able to pull it.
pub async fn load(cluster: &Cluster, name: &str, binary: &Path) -> Result<String> {
    let Some(layout) = cluster.layout() else {
        let prefix = std::env::var("EBB_IMAGE_PREFIX").context(
            "EBB_KUBECONFIG is set, so images cannot be imported; push them and set EBB_IMAGE_PREFIX, for example \
             to registry.example/ebb for registry.example/ebb/<name>",
        )?;
        return Ok(format!(
            "{}/{name}:{}",
            prefix.trim_end_matches('/'),
            env!("CARGO_PKG_VERSION")
        ));
    };
    let content = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let tag = format!("{:016x}", fnv::hash(&content));
    let reference = format!("localhost/{name}:{}", &tag[..10]);
    let wanted = format!("name=={reference}");
    if shell::output(ctr(layout).args(["images", "list", "--quiet", &wanted]))
        .await?
        .trim()
        == reference
    {
        return Ok(reference);
    }
    let folder = layout.state().join("images");
    fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("{name}.tar"));
    build_archive(binary, &reference, NOBODY, &archive).await?;
    import(layout, &archive).await?;
    fs::remove_file(&archive)?;
    Ok(reference)
}

/// Imports an archive into the cluster's containerd.
pub(crate) async fn import(layout: &Layout, archive: &Path) -> Result<()> {
    shell::output(ctr(layout).args(["images", "import"]).arg(archive)).await?;
    Ok(())
}

/// Writes an OCI archive with one binary in it, which is also the entrypoint.
pub(crate) async fn build_archive(
    binary: &Path,
    reference: &str,
    user: &str,
    archive: &Path,
) -> Result<()> {
    let work = archive.with_extension("build");
    let context = work.join("context");
    fs::create_dir_all(&context)?;
    fs::copy(binary, context.join("app"))
        .with_context(|| format!("cannot copy {}", binary.display()))?;
    let name = binary
        .file_name()
        .and_then(|name| name.to_str())
        .context("a binary has a name")?;
    let recipe = format!("FROM scratch\nCOPY app /{name}\nUSER {user}\nENTRYPOINT [\"/{name}\"]\n");
    fs::write(work.join("Dockerfile"), recipe)?;
    // Debian's own policy lies in a package that buildah only recommends.
    let policy = work.join("policy.json");
    fs::write(
        &policy,
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    )?;
    let buildah = |subcommand: &str| {
        let mut command = shell::command("buildah");
        command
            .arg("--root")
            .arg(work.join("root"))
            .arg("--runroot")
            .arg(work.join("run"));
        command
            .args(["--storage-driver", "vfs", subcommand, "--signature-policy"])
            .arg(&policy);
        command
    };
    let mut build = buildah("build");
    build
        .args([
            "--isolation",
            "chroot",
            "--quiet",
            "--tag",
            reference,
            "--file",
        ])
        .arg(work.join("Dockerfile"));
    shell::output(build.arg(&context)).await?;
    let target = format!("oci-archive:{}:{reference}", archive.display());
    shell::output(buildah("push").args(["--quiet", reference, &target])).await?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))
}

fn ctr(layout: &Layout) -> Command {
    let mut command = shell::command("ctr");
    command
        .arg("--address")
        .arg(layout.containerd_socket())
        .args(["--namespace", "k8s.io"]);
    command
}

/// Builds static binaries of this profile and returns their paths in the order of `binaries`.
async fn cargo_build(profile: &str, packages: &[&str], binaries: &[&str]) -> Result<Vec<PathBuf>> {
    let layout = Layout::of_checkout()?;
    let target = host_target().await?;
    let mut cargo = shell::command("cargo");
    cargo
        .current_dir(layout.checkout())
        .stderr(Stdio::inherit());
    // What the cargo that runs this program says about itself must not look like a change to the build scripts.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_")) {
        cargo.env_remove(name);
    }
    for name in [
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_BIN_NAME",
        "CARGO_PRIMARY_PACKAGE",
    ] {
        cargo.env_remove(name);
    }
    cargo
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .args(["build", "--profile", profile, "--target", &target]);
    cargo
        .arg("--message-format=json-render-diagnostics")
        .arg("--quiet");
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    cargo.args(binaries.iter().flat_map(|binary| ["--bin", binary]));
    let output = cargo.output().await.context("cannot start cargo")?;
    if !output.status.success() {
        bail!(
            "building {} failed; cargo's messages are above",
            binaries.join(", ")
        );
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let find = |name: &&str| {
        executable(&messages, name)
            .with_context(|| format!("cargo did not say where it put {name}"))
    };
    binaries.iter().map(find).collect()
}

/// The path of a binary in cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut made = messages.filter(|message| message["target"]["name"] == name);
    made.find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// The target triple of this machine. Named explicitly, cargo applies the flags for static binaries to them alone, and
/// not to build scripts and macros, which must be dynamic.
async fn host_target() -> Result<String> {
    let version = shell::run("rustc", &["--version", "--verbose"]).await?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host
        .context("`rustc --version --verbose` names no host")?
        .to_owned())
}
