//! Commands of the machine, run to their end, with errors that show what the command had to say.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A command that finds the tools of administrators even where the shell does not, and ends with this program.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// This program's PATH and the folders of administrators.
pub(crate) fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// Runs a command and returns its output.
pub(crate) async fn output(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let output = command
        .output()
        .await
        .with_context(|| format!("cannot start `{name}`"))?;
    checked(&name, output)
}

/// Runs a command with this input and returns its output.
pub(crate) async fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let name = describe(command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading its input has failed, which its exit code tells better than this would.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    checked(&name, child.wait_with_output().await?)
}

/// Runs a program with these arguments and returns its output.
pub(crate) async fn run(program: &str, args: &[&str]) -> Result<String> {
    output(command(program).args(args)).await
}

/// Runs a command that takes its time, with its output where the person sees it.
pub(crate) async fn run_shown(command: &mut Command) -> Result<()> {
    let name = describe(command);
    let status = command
        .status()
        .await
        .with_context(|| format!("cannot start `{name}`"))?;
    if !status.success() {
        bail!("`{name}` failed ({status}); what it printed is above");
    }
    Ok(())
}

/// Whether this program is found on the PATH.
pub(crate) fn exists(program: &str) -> bool {
    search_path()
        .split(':')
        .any(|folder| !folder.is_empty() && Path::new(folder).join(program).is_file())
}

fn describe(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn checked(name: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{name}` failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
