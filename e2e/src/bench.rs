//! Measurements, each beside what it is compared with, in one run.

mod burst;
mod calm;
mod cold_start;
mod crowd;
mod decide;
mod floor;
mod idle;
mod proxy;
mod rates;
mod step;
mod together;
mod wakes;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Subcommand;

use crate::{
    cluster::{Cluster, Progress, fake},
    scene::Scene,
};

/// What can be measured.
#[derive(Debug, Clone, Subcommand)]
pub enum Bench {
    /// First requests from zero beside raw scale patches of the same pod, alternating
    ColdStart {
        /// Requests, and patches
        #[arg(long, default_value_t = 20)]
        rounds: usize,
        /// Rounds of Functions woken at one instant; 0 leaves that part out
        #[arg(long, default_value_t = 6)]
        herd_rounds: usize,
        /// Functions woken at one instant
        #[arg(long, default_value_t = 20)]
        herd: usize,
    },
    /// Many first requests at once to one Function at zero, beside as many to the same Function warm
    Burst {
        /// Requests at once
        #[arg(long, default_value_t = 500)]
        requests: usize,
        /// Rounds
        #[arg(long, default_value_t = 7)]
        rounds: usize,
    },
    /// How soon the count follows a load that rises from 1 to 100 requests at one instant
    Step {
        /// Rounds
        #[arg(long, default_value_t = 7)]
        rounds: usize,
    },
    /// From a request to the new count at 50 to 500 wakes a second, beside a bare client's patches; pods are faked by kwok
    Wakes {
        /// Functions
        #[arg(long, default_value_t = 400)]
        functions: usize,
        /// Wakes in a second, one rate after another
        #[arg(long, value_delimiter = ',', default_values_t = [50, 100, 200, 500])]
        rates: Vec<u32>,
        /// Rounds of each rate, in turn with the client's
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// Functions woken at 1, 2, 4, 8 and 16 a second on the one node, beside raw patches at the same rates
    Rates,
    /// What a decision costs, and how often counts change under noisy loads; needs no cluster
    Decide,
    /// CPU and latency of a warm request beside nginx and haproxy; needs no cluster
    Proxy {
        /// Rounds of each measurement
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Only the measurements whose name contains this, such as "get 2" or "latency"
        #[arg(long, default_value = "")]
        only: String,
        /// Another build of the activator, to compare with
        #[arg(long)]
        beside: Option<PathBuf>,
    },
    /// Requests that wait for one Function at zero: memory of each, and how soon all are answered; needs no cluster
    Held {
        /// Requests
        #[arg(long, default_value_t = 10_000)]
        requests: usize,
    },
    /// First requests of one tenant while another floods the activator; needs no cluster
    Fair {
        /// Requests of the flood
        #[arg(long, default_value_t = 20_000)]
        flood: usize,
        /// Rounds
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// Functions that sleep: memory of each in an activator, and latency of one beside them; needs no cluster
    Sleeping {
        /// Functions
        #[arg(long, default_value_t = 10_000)]
        functions: usize,
        /// Rounds
        #[arg(long, default_value_t = 9)]
        rounds: usize,
    },
    /// What rude clients do to others, and how soon one that leaves is noticed; needs no cluster
    Rude {
        /// Rounds
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Objects and memory of idle Functions
    Idle {
        /// Functions
        #[arg(long, default_value_t = 200)]
        functions: usize,
    },
}

impl Bench {
    /// Whether this measurement needs no cluster.
    pub fn is_alone(&self) -> bool {
        matches!(
            self,
            Self::Decide
                | Self::Proxy { .. }
                | Self::Held { .. }
                | Self::Fair { .. }
                | Self::Sleeping { .. }
                | Self::Rude { .. }
        )
    }

    /// Gets what this measurement needs besides the cluster, from outside of the cluster's network namespace.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn prepare(&self) -> Result<()> {
        if !matches!(self, Self::Wakes { .. }) {
            return Ok(());
        }
        let progress = Progress::shown();
        fake::ensure(&Cluster::up(&progress).await?, &progress).await
    }

    /// Runs a measurement that needs no cluster, on a thread of its own, whose core it may choose.
    ///
    /// # Errors
    /// If it could not be measured, or does need one.
    pub fn run_alone(&self) -> Result<()> {
        let bench = self.clone();
        let run = move || match bench {
            Self::Decide => {
                decide::run();
                Ok(())
            }
            Self::Proxy {
                rounds,
                only,
                beside,
            } => alone(proxy::run(rounds, &only, beside.as_deref())),
            Self::Held { requests } => alone(crowd::held(requests)),
            Self::Fair { flood, rounds } => alone(crowd::fair(flood, rounds)),
            Self::Sleeping { functions, rounds } => alone(crowd::sleeping(functions, rounds)),
            Self::Rude { rounds } => alone(crowd::rude(rounds)),
            _ => anyhow::bail!("this measurement needs a cluster"),
        };
        let ended = std::thread::spawn(run).join();
        ended.map_err(|_| anyhow::anyhow!("the measurement has panicked"))?
    }
}

/// Runs on the caller's thread.
fn alone(measurement: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(measurement)
}

/// Runs a measurement. Must be called inside the cluster's network namespace.
///
/// # Errors
/// If it could not be measured; a bar that was missed is printed, not an error.
pub async fn run(cluster: &Cluster, image: &str, bench: &Bench) -> Result<()> {
    let scene = Scene::open(cluster, image, "bench").await?;
    let result = match bench {
        Bench::ColdStart {
            rounds,
            herd_rounds,
            herd,
        } => {
            let alone = match rounds {
                0 => Ok(()),
                rounds => cold_start::run(&scene, *rounds).await,
            };
            match (alone, herd_rounds) {
                (Ok(()), rounds) if *rounds > 0 => together::run(&scene, *rounds, *herd).await,
                (alone, _) => alone,
            }
        }
        Bench::Burst { requests, rounds } => burst::run(&scene, *requests, *rounds).await,
        Bench::Idle { functions } => idle::run(&scene, *functions).await,
        Bench::Step { rounds } => step::run(&scene, *rounds).await,
        Bench::Wakes {
            functions,
            rates,
            rounds,
        } => wakes::run(&scene, *functions, rates, *rounds).await,
        Bench::Rates => rates::run(&scene).await,
        _ => bench.run_alone(),
    };
    if result.is_err() {
        eprintln!("{}", scene.report().await);
    }
    scene.close().await?;
    result
}

/// Milliseconds of some durations, sorted.
fn sorted_ms(times: &[Duration]) -> Vec<f64> {
    let mut ms: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
    ms.sort_by(f64::total_cmp);
    ms
}

/// The value below which a share of the sorted values lies (nearest rank).
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// A line of a table: name, p50, p90, max.
pub(crate) fn line(name: &str, times: &[Duration]) -> String {
    let ms = sorted_ms(times);
    format!(
        "{name:<44} p50 {:>6.0} ms   p90 {:>6.0} ms   max {:>6.0} ms",
        percentile(&ms, 0.5),
        percentile(&ms, 0.9),
        percentile(&ms, 1.0)
    )
}

pub(crate) fn p50(times: &[Duration]) -> f64 {
    percentile(&sorted_ms(times), 0.5)
}
