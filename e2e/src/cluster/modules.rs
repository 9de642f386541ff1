//! Programs of this project's Go modules, built once per machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use hello::fnv::Fnv;

use super::layout::Layout;
use super::progress::Progress;
use super::shell;

/// One of this project's Go modules.
#[derive(Debug)]
pub(crate) struct Module {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// A hash of all that is in it, which tells one state of it from another.
    pub(crate) tag: String,
    /// The machine's folder of its programs, which other checkouts of the same module use too.
    pub(crate) folder: PathBuf,
    cache: PathBuf,
}

impl Module {
    /// The module `e2e/NAME`.
    pub(crate) fn of(layout: &Layout, name: &str) -> Result<Self> {
        let path = layout.checkout().join("e2e").join(name);
        let cache = cache_folder()?.join(name);
        let tag = hash(&path)?;
        Ok(Self {
            folder: cache.join(&tag),
            path,
            tag,
            cache,
        })
    }

    /// Has `build` fill the folder, unless the machine has it. `says` tells what is being built.
    pub(crate) async fn ensure(
        &self,
        progress: &Progress,
        says: &str,
        build: impl AsyncFnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        if !shell::exists("go") {
            bail!(
                "building e2e/{} needs Go 1.26 or later, and there is no `go` on the PATH; see https://go.dev/dl/",
                self.path.file_name().unwrap_or_default().display()
            );
        }
        progress.say(says);
        // Apart, so that the final folder is complete or not there.
        let unfinished = self
            .cache
            .join(format!("unfinished-{}", std::process::id()));
        fs::create_dir_all(&unfinished)
            .with_context(|| format!("cannot make {}", unfinished.display()))?;
        progress
            .step("building the binaries", build(&unfinished))
            .await?;
        publish(&unfinished, &self.folder)
    }

    /// Compiles static programs into a folder; each package makes one of its last name.
    pub(crate) async fn compile(
        &self,
        into: &Path,
        link_flags: &str,
        packages: &[&str],
    ) -> Result<()> {
        let mut go = shell::command("go");
        go.current_dir(&self.path)
            .env("CGO_ENABLED", "0")
            .stdout(std::io::stderr());
        go.args(["build", "-trimpath", "-ldflags", link_flags, "-o"])
            .arg(format!("{}/", into.display()));
        shell::run_shown(go.args(packages)).await
    }
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
    Ok(cache.join("ebb"))
}

fn hash(module: &Path) -> Result<String> {
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
