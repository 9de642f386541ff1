//! The report of what Functions did: each second, and out of turn when a load has risen suddenly.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crds::{
    control::{FunctionStats, STATS_PERIOD_MS, SURGE_MS, ToOperator},
    names::FunctionKey,
};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{function::Function, functions::Functions, operators::Operators};

/// Functions in one frame, and their pods: at most 250 and 60 bytes each, they stay well below the longest frame.
const MAX_IN_FRAME: usize = 1_000;
const MAX_PODS_IN_FRAME: usize = 10_000;

/// How long a rise must last.
const SURGE: Duration = Duration::from_millis(SURGE_MS);

/// Time between two reports of all Functions.
const PERIOD: Duration = Duration::from_millis(STATS_PERIOD_MS);

/// Functions whose load has risen suddenly, oldest first. Each stands here once between two of its samples.
#[derive(Debug, Default)]
pub(crate) struct Surges {
    since: Mutex<VecDeque<(Instant, FunctionKey)>>,
    added: Notify,
}

impl Surges {
    pub(crate) fn add(&self, function: &FunctionKey) {
        self.since
            .lock()
            .push_back((Instant::now(), function.clone()));
        self.added.notify_one();
    }

    /// The Functions whose rise has lasted; waits until there is one. Nothing is lost when this is dropped.
    async fn lasting(&self) -> Vec<FunctionKey> {
        loop {
            let first = self.since.lock().front().map(|(since, _)| *since);
            match first {
                None => self.added.notified().await,
                Some(since) => {
                    sleep_until(since + SURGE).await;
                    break;
                }
            }
        }
        let now = Instant::now();
        let mut all = self.since.lock();
        let lasting = all.partition_point(|(since, _)| *since + SURGE <= now);
        all.drain(..lasting).map(|(_, function)| function).collect()
    }
}

/// Reports until dropped. On the way it closes connections to pods that were not used for a while.
pub(crate) async fn run(functions: Arc<Functions>, surges: Arc<Surges>, operators: Arc<Operators>) {
    let mut tick = Instant::now() + until_tick();
    loop {
        tokio::select! {
            () = sleep_until(tick) => {
                let all = functions.all();
                sweep(&all);
                report(&all, true, &operators);
                tick = Instant::now() + until_tick();
            }
            keys = surges.lasting() => {
                let risen: Vec<_> = keys.iter().filter_map(|key| functions.get(key)).collect();
                report(&risen, false, &operators);
            }
        }
    }
}

fn report(functions: &[Arc<Function>], regular: bool, operators: &Operators) {
    let active = functions.iter().filter_map(|f| stats(f, regular)).collect();
    for functions in frames(active) {
        operators.send(&ToOperator::Stats { functions });
    }
}

/// Time to the next report: all activators report at the same moments of the wall clock, so that their reports are of the same time and
/// the operator may add them up.
fn until_tick() -> Duration {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let into_period = since.as_micros() % u128::from(STATS_PERIOD_MS * 1_000);
    PERIOD.saturating_sub(Duration::from_micros(into_period as u64))
}

/// Cuts a report into frames of a bounded length. One Function's pods are never more than a frame holds.
fn frames(all: Vec<FunctionStats>) -> Vec<Vec<FunctionStats>> {
    let mut frames = Vec::new();
    let (mut frame, mut pods) = (Vec::new(), 0);
    for stats in all {
        if frame.len() == MAX_IN_FRAME || pods + stats.pods.len() > MAX_PODS_IN_FRAME {
            frames.push(std::mem::take(&mut frame));
            pods = 0;
        }
        pods += stats.pods.len();
        frame.push(stats);
    }
    if !frame.is_empty() {
        frames.push(frame);
    }
    frames
}

fn sweep(functions: &[Arc<Function>]) {
    for function in functions {
        for pod in function.gate.payloads() {
            pod.pool.sweep();
        }
    }
}

/// What `function` did since the last report, if there is something to say.
fn stats(function: &Function, regular: bool) -> Option<FunctionStats> {
    let sample = function.gate.sample(regular)?;
    let pods = function.gate.loads().into_iter();
    let mut stats = FunctionStats {
        function: function.key.clone(),
        in_flight: sample.in_flight,
        queued: sample.queued,
        rps: sample.rps,
        concurrency: sample.concurrency,
        idle_ms: u64::try_from(sample.idle.as_millis()).unwrap_or(u64::MAX),
        pods: pods.map(|(pod, load)| (pod.to_string(), load)).collect(),
    };
    let sent_on = function.sent_on();
    if sent_on > 0 {
        // The keeper of the limit reports them.
        stats.in_flight = stats.in_flight.saturating_sub(sent_on);
        stats.concurrency = f64::from(stats.in_flight.saturating_add(stats.queued));
        stats.rps = 0.0;
    }
    Some(stats)
}
