//! `cargo e2e fuzz`: builds the fuzz targets with libFuzzer, on stable Rust, and runs them.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use futures::{StreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::cluster::{
    Layout, Progress, packages,
    shell::{output, run_shown},
};

/// Has the compiler count each edge that is taken and show what is compared, as libFuzzer wants it; what `cargo fuzz build --sanitizer none` passes.
const COVERAGE: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Without it branches are folded into one, which hides that a part of a condition was met.
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
];

/// Targets that run side by side.
const TOGETHER: usize = 2;

/// Seconds that one input may take, and MiB that a target may. Both are far more than it needs.
const LONGEST: u32 = 10;
const LARGEST: u32 = 1024;

/// Most bytes of all inputs in the repository.
const MOST: u64 = 200_000;

/// What shows an end that is not good: so many last lines.
const LAST_LINES: usize = 80;

/// What to run, and how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Fuzz {
    /// Only this one
    target: Option<Target>,
    /// Seconds for each; 0 tries only the inputs that are there
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// What chance begins with; another number tries other inputs
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Take the inputs that reach something new into the repository, and leave out those that do not
    #[arg(long)]
    keep: bool,
}

/// What can be fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// A client's connection, through the whole activator to a strict pod
    Request,
    /// What a pod answers
    Answer,
    /// Which Function a request is for
    Host,
    /// Frames of the control stream
    Frames,
    /// `Forwarded`, `X-Forwarded-*` and who is trusted
    Forwarded,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Answer => "answer",
            Self::Host => "host",
            Self::Frames => "frames",
            Self::Forwarded => "forwarded",
        }
    }

    /// Longest input. Longer ones say nothing more, and make each try slower.
    fn longest(self) -> u32 {
        match self {
            Self::Request | Self::Answer | Self::Frames => 2048,
            Self::Host | Self::Forwarded => 512,
        }
    }
}

/// Where things lie.
struct Folders {
    /// Of the targets' crate.
    source: PathBuf,
    built: PathBuf,
    programs: PathBuf,
}

/// How a run went.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    executions: u64,
    /// Edges of the code that were taken, and those with how often and with what.
    edges: u64,
    features: u64,
    /// The input that broke something.
    broken: Option<PathBuf>,
}

/// Builds the targets and runs them.
///
/// # Errors
/// If they cannot be built, or an input breaks something; its file is named.
pub async fn run(fuzz: &Fuzz) -> Result<()> {
    let progress = Progress::shown();
    packages::ensure_also(&progress, &[("c++", "g++")]).await?;
    let folders = build(&progress).await?;
    let targets = match fuzz.target {
        Some(target) => vec![target],
        None => Target::value_variants().to_vec(),
    };
    let folders = &folders;
    let runs = targets.iter().map(|target| one(folders, *target, fuzz));
    let reports: Vec<_> = stream::iter(runs).buffered(TOGETHER).collect().await;
    let mut broken = Vec::new();
    for (target, report) in targets.iter().zip(reports) {
        let report = report.with_context(|| format!("fuzzing {}", target.name()))?;
        broken.extend(report.broken.map(|file| file.display().to_string()));
    }
    if !broken.is_empty() {
        bail!(
            "these inputs break what must hold, see above: {}",
            broken.join(", ")
        );
    }
    let size = size(&folders.source.join("corpus"))?;
    ensure!(
        size <= MOST,
        "the inputs in {} have {size} bytes, more than {MOST}: delete some",
        folders.source.join("corpus").display()
    );
    Ok(())
}

async fn build(progress: &Progress) -> Result<Folders> {
    let root = Layout::of_checkout()?.checkout().to_path_buf();
    let built = root.join("target/fuzz");
    let about = output(Command::new("rustc").arg("-vV")).await?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not tell what machine this is")?;
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(&root)
        .args(["build", "--locked", "--package=fuzz", "--bins"])
        .args(["--profile=fuzz", "--target-dir"])
        .arg(&built)
        // With a target the flags do not reach build scripts and macros.
        .args(["--target", host])
        .env("RUSTFLAGS", COVERAGE.join(" "));
    progress
        .step("building the fuzz targets", run_shown(&mut cargo))
        .await?;
    Ok(Folders {
        source: root.join("activator/fuzz"),
        programs: built.join(host).join("fuzz"),
        built,
    })
}

/// Runs one target, and prints how it went.
async fn one(folders: &Folders, target: Target, fuzz: &Fuzz) -> Result<Report> {
    let name = target.name();
    let inputs = folders.source.join("corpus").join(name);
    // What is new is found once, and stays until the target folder goes.
    let found = folders.built.join("found").join(name);
    let broken = folders.built.join("broken");
    for folder in [&inputs, &found, &broken] {
        fs::create_dir_all(folder)?;
    }
    let length = match fuzz.seconds {
        0 => "-runs=0".to_owned(),
        seconds => format!("-max_total_time={seconds}"),
    };
    let words = folders.source.join(format!("words/{name}"));
    let mut command = command(folders, target);
    command
        .args([&length, "-print_final_stats=1"])
        .arg(format!("-seed={}", fuzz.seed))
        .arg(format!("-artifact_prefix={}/{name}-", broken.display()))
        .arg(format!("-dict={}", words.display()))
        .args([&found, &inputs]);
    let report = watch(&mut command).await?;
    println!(
        "fuzz {name}: {} executions in {} s, {} edges, {} features{}",
        report.executions,
        fuzz.seconds,
        report.edges,
        report.features,
        if report.broken.is_some() {
            ", BROKEN"
        } else {
            ""
        }
    );
    if fuzz.keep && report.broken.is_none() {
        keep(folders, target, &inputs, &found).await?;
    }
    Ok(report)
}

fn command(folders: &Folders, target: Target) -> Command {
    let mut command = Command::new(folders.programs.join(format!("fuzz-{}", target.name())));
    // A backtrace is longer than what is shown of the end, and would hide what broke.
    command
        .env("RUST_BACKTRACE", "0")
        .arg(format!("-max_len={}", target.longest()))
        .arg(format!("-timeout={LONGEST}"))
        .arg(format!("-rss_limit_mb={LARGEST}"));
    command
}

/// Leaves the fewest of both folders' inputs that reach all that they reach.
async fn keep(folders: &Folders, target: Target, inputs: &Path, found: &Path) -> Result<()> {
    let fewest = folders.built.join("fewest").join(target.name());
    if fewest.exists() {
        fs::remove_dir_all(&fewest)?;
    }
    fs::create_dir_all(&fewest)?;
    let mut merge = command(folders, target);
    merge
        .arg("-set_cover_merge=1")
        .args([fewest.as_path(), inputs, found]);
    let report = watch(&mut merge).await?;
    ensure!(report.broken.is_none(), "an input breaks something");
    fs::remove_dir_all(inputs)?;
    fs::create_dir_all(inputs)?;
    let mut kept = 0;
    for file in fs::read_dir(&fewest)? {
        let file = file?;
        fs::copy(file.path(), inputs.join(file.file_name()))?;
        kept += 1;
    }
    println!("fuzz {}: {kept} inputs are kept", target.name());
    Ok(())
}

/// Runs a target to its end and reads what it says.
async fn watch(command: &mut Command) -> Result<Report> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let said = child.stderr.take().context("a piped output")?;
    let mut lines = BufReader::new(said).split(b'\n');
    let (mut report, mut last) = (Report::default(), VecDeque::new());
    while let Some(line) = lines.next_segment().await? {
        let line = String::from_utf8_lossy(&line).into_owned();
        report.read(&line);
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    let status = child.wait().await?;
    if !status.success() {
        last.iter().for_each(|line| eprintln!("{line}"));
        ensure!(report.broken.is_some(), "it ended with {status}, see above");
    }
    Ok(report)
}

impl Report {
    /// Reads one line of libFuzzer's.
    fn read(&mut self, line: &str) {
        let number = |name: &str| -> Option<u64> {
            let (_, rest) = line.split_once(name)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        self.executions = number("stat::number_of_executed_units: ").unwrap_or(self.executions);
        if line.starts_with('#') {
            self.edges = number(" cov: ").unwrap_or(self.edges);
            self.features = number(" ft: ").unwrap_or(self.features);
        }
        if let Some((_, file)) = line.split_once("Test unit written to ") {
            self.broken = Some(file.into());
        }
    }
}

/// Bytes of all files in a folder's folders.
fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for inner in fs::read_dir(folder)? {
        for file in fs::read_dir(inner?.path())? {
            sum += file?.metadata()?.len();
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_libfuzzer_says() {
        let mut report = Report::default();
        for line in [
            "#4096\tpulse  cov: 12 ft: 34 corp: 5/6b lim: 4 exec/s: 2048 rss: 30Mb",
            "#5000\tNEW    cov: 13 ft: 35 corp: 6/9b lim: 4 exec/s: 2048 rss: 30Mb",
            "==1== ERROR: libFuzzer: deadly signal",
            "artifact_prefix='x/'; Test unit written to x/crash-1",
            "stat::number_of_executed_units: 5001",
        ] {
            report.read(line);
        }
        let expected = Report {
            executions: 5001,
            edges: 13,
            features: 35,
            broken: Some("x/crash-1".into()),
        };
        assert_eq!(report, expected);
    }
}
