//! `cargo e2e demo`: the whole of Ebb in one go, as commands that can be repeated by hand.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    cluster::{Cluster, Layout, Progress},
    install,
    scene::eventually,
};

const NAMESPACE: &str = "shop";

/// Starts everything and shows a Function's way from zero to an answer and back.
///
/// # Errors
/// If a step fails, or the Function does not answer 200 or does not go back to zero.
pub async fn run() -> Result<()> {
    let progress = Progress::shown();
    title("A Kubernetes on this machine, Ebb in it");
    let cluster = Cluster::up(&progress).await?;
    let installed = install::install(&cluster, &progress).await?;
    let shell = Shell { cluster: &cluster };
    // A former demo's Function must not answer for this one.
    let fresh = ["delete", "namespace", NAMESPACE, "--ignore-not-found"];
    cluster.kubectl(&fresh).await?;

    title("A Function");
    let manifest = sample(&installed.hello_image)?;
    shell
        .run(&format!("kubectl create namespace {NAMESPACE}"))
        .await?;
    shell
        .run(&format!(
            "kubectl apply -n {NAMESPACE} -f {}",
            manifest.display()
        ))
        .await?;
    let ready = format!("kubectl wait -n {NAMESPACE} --for=condition=Ready fn/hello --timeout=30s");
    shell.run(&ready).await?;
    shell
        .run(&format!("kubectl get fn,pods -n {NAMESPACE}"))
        .await?;
    let pods = format!("kubectl get pods -n {NAMESPACE} -o name");
    if !shell.quiet(&pods).await?.trim().is_empty() {
        bail!("the Function has pods although nobody has called it");
    }

    title("The first request: it waits while a pod starts");
    let ip = shell
        .quiet(&format!(
            "kubectl get service hello -n {NAMESPACE} -o jsonpath={{.spec.clusterIP}}"
        ))
        .await?;
    // A moment passes until kube-proxy has heard of a new Service; before that its address leads nowhere.
    let connect = shell.inside(&format!("timeout 1 bash -c '</dev/tcp/{ip}/80'"));
    eventually(
        Duration::from_secs(30),
        "the Service's address can be reached",
        async || Ok(shell.quiet(&connect).await.ok()),
    )
    .await?;
    let curl = shell.inside(&format!(
        "curl -sS -i http://{ip}/ -w '\\n%{{time_total}} s\\n'"
    ));
    let answer = shell.run(&curl).await?;
    if !answer.starts_with("HTTP/1.1 200") {
        bail!("the first request was not answered 200");
    }
    timing(&answer);
    shell
        .run(&format!("kubectl get fn,pods -n {NAMESPACE}"))
        .await?;

    title("Nobody calls: back to zero after scale.idleAfter");
    eventually(
        Duration::from_secs(60),
        "the Function has no pods",
        async || Ok(shell.quiet(&pods).await?.trim().is_empty().then_some(())),
    )
    .await?;
    shell
        .run(&format!("kubectl get fn,pods -n {NAMESPACE}"))
        .await?;
    shell
        .run(&format!(
            "kubectl get events -n {NAMESPACE} --field-selector involvedObject.kind=Function"
        ))
        .await?;
    go_on(&cluster, &curl);
    Ok(())
}

/// The sample with the image that was built here, beside the cluster's state so that it can be applied again.
fn sample(image: &str) -> Result<std::path::PathBuf> {
    let layout = Layout::of_checkout()?;
    let source = layout.checkout().join("crds/samples/hello.yaml");
    let text = std::fs::read_to_string(&source)
        .with_context(|| format!("cannot read {}", source.display()))?;
    let target = layout.checkout().join("target/hello.yaml");
    std::fs::write(&target, text.replace("ebb-hello:0.1.0", image))?;
    let here = std::env::current_dir().unwrap_or_default();
    Ok(target
        .strip_prefix(&here)
        .map(Path::to_path_buf)
        .unwrap_or(target))
}

fn title(text: &str) {
    println!("\n=== {text}");
}

/// Where each millisecond went, from the answer's own header.
fn timing(answer: &str) {
    let header = answer.lines().find_map(|l| {
        l.to_ascii_lowercase()
            .strip_prefix("server-timing:")
            .map(String::from)
    });
    let Some(header) = header else { return };
    println!("Where the time went (Server-Timing):");
    for phase in header.split(',') {
        let Some((name, ms)) = phase.trim().split_once(";dur=") else {
            continue;
        };
        let what = match name {
            "queued" => "until the operator knew",
            "scaled" => "until the API server had taken the new count",
            "scheduled" => "until the pod had a node",
            "started" => "until the pod had an address",
            "answered" => "until the pod's answer",
            _ => "",
        };
        println!("  {name:<10} {ms:>8} ms  {what}");
    }
}

fn go_on(cluster: &Cluster, curl: &str) {
    title("Go on by hand");
    println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!(
        "  export PATH={}:$PATH   # kubectl and helm",
        cluster.bin_dir().display()
    );
    println!("  kubectl describe fn hello -n {NAMESPACE}");
    println!("  {curl}");
    println!("  cargo e2e down   # leaves nothing behind");
}

/// Runs commands as a person would, with the cluster's tools and kubeconfig.
struct Shell<'a> {
    cluster: &'a Cluster,
}

impl Shell<'_> {
    /// Prints the command, runs it and prints what it prints.
    async fn run(&self, command: &str) -> Result<String> {
        println!("\n$ {command}");
        let output = self.quiet(command).await?;
        println!("{}", output.trim_end());
        Ok(output)
    }

    async fn quiet(&self, command: &str) -> Result<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = tokio::process::Command::new("sh")
            .args(["-c", command])
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env(
                "PATH",
                format!("{}:{path}", self.cluster.bin_dir().display()),
            )
            .env("no_proxy", "*")
            .stdin(Stdio::null())
            .output()
            .await?;
        if !output.status.success() {
            bail!(
                "`{command}` failed: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A command as it is run where pods and services can be reached.
    fn inside(&self, command: &str) -> String {
        match self.cluster.netns_path() {
            Some(netns) => format!("nsenter --net={} {command}", netns.display()),
            None => command.to_owned(),
        }
    }
}
