//! `cargo e2e`: a real one-node Kubernetes on this machine, and what runs against it.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use e2e::{
    Cluster, Progress,
    bench::{self, Bench},
    chaos::{self, Chaos},
    conform, demo,
    fuzz::{self, Fuzz},
    install, suite,
};

/// A real one-node Kubernetes on this machine, and what runs against it.
#[derive(Debug, Parser)]
#[command(name = "cargo e2e", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the cluster; returns at once if it is already up
    Up,
    /// Stop the cluster and remove every trace of it
    Down,
    /// Show each component, the node and the kubeconfig; exit code 1 unless all is well
    Status,
    /// Install Ebb and show a Function's way from zero to an answer and back
    Demo,
    /// Build the images and install or upgrade Ebb
    Install,
    /// Run all tests
    Test {
        /// Run only tests whose name contains this
        #[arg(default_value = "")]
        filter: String,
        /// Run only the cluster tests
        #[arg(long)]
        only_cluster: bool,
    },
    /// Try the activator with the testers of HTTP/2 and gRPC, beside nginx, and with WebSockets; needs no cluster
    Conform {
        /// Run only the parts whose name contains this: h2spec, grpc, edges, websocket
        #[arg(default_value = "")]
        filter: String,
    },
    /// Measure
    Bench {
        #[command(subcommand)]
        bench: Bench,
    },
    /// Look for inputs that break what strangers reach; exit code 1 if there is one. Needs no cluster
    Fuzz(Fuzz),
    /// Break parts of Ebb or of the cluster again and again under load; exit code 1 if a request is lost that must not be
    Chaos {
        #[command(subcommand)]
        chaos: Chaos,
    },
    /// Run something inside the cluster's network namespace; for the commands above
    #[command(hide = true)]
    Inside {
        /// Reference of the sample app's image
        #[arg(long)]
        image: String,
        #[command(subcommand)]
        what: Inside,
    },
}

#[derive(Debug, Subcommand)]
enum Inside {
    /// The cluster tests
    Test { filter: String },
    /// A measurement
    Bench {
        #[command(subcommand)]
        bench: Bench,
    },
    /// Breaking things
    Chaos {
        #[command(subcommand)]
        chaos: Chaos,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    let done = match command {
        Command::Up => up().await,
        Command::Down => Cluster::down(&Progress::shown()).await,
        Command::Status => return status().await,
        Command::Demo => demo::run().await,
        Command::Install => install().await.map(drop),
        Command::Test {
            filter,
            only_cluster,
        } => suite::run(&filter, only_cluster).await,
        Command::Conform { filter } => conform::run_alone(&filter).await,
        Command::Bench { bench } if bench.is_alone() => bench.run_alone(),
        Command::Bench { bench } => {
            bench.prepare().await?;
            installed_inside("bench").await
        }
        Command::Fuzz(fuzz) => fuzz::run(&fuzz).await,
        Command::Chaos { .. } => installed_inside("chaos").await,
        Command::Inside { image, what } => inside(&image, &what).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

async fn up() -> Result<()> {
    let cluster = Cluster::up(&Progress::shown()).await?;
    println!("Kubernetes is up. To use it from this shell:");
    println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!(
        "  export PATH={}:$PATH   # kubectl and helm",
        cluster.bin_dir().display()
    );
    Ok(())
}

async fn status() -> Result<ExitCode> {
    let status = Cluster::status().await?;
    print!("{status}");
    Ok(if status.healthy() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn install() -> Result<install::Installed> {
    let progress = Progress::shown();
    let cluster = Cluster::up(&progress).await?;
    install::install(&cluster, &progress).await
}

/// Installs out here, where packages can be had, and goes on inside the cluster's network namespace, by starting this program anew with the same arguments.
async fn installed_inside(command: &str) -> Result<()> {
    let installed = install().await?;
    let arguments = std::env::args_os().skip_while(|a| a != command);
    let status = tokio::process::Command::new(std::env::current_exe()?)
        .args(["inside", "--image", &installed.hello_image])
        .args(arguments)
        .status()
        .await?;
    anyhow::ensure!(status.success(), "cargo e2e {command} failed, see above");
    Ok(())
}

async fn inside(image: &str, what: &Inside) -> Result<()> {
    let cluster = Cluster::attach().await?;
    cluster.reexec_inside()?;
    match what {
        Inside::Test { filter } => suite::inside(&cluster, image, filter).await,
        Inside::Bench { bench } => bench::run(&cluster, image, bench).await,
        Inside::Chaos { chaos } => chaos::run(&cluster, image, chaos).await,
    }
}
