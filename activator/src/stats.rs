//! The report of what Functions did, each second.

use std::{sync::Arc, time::Duration};

use crds::control::{FunctionStats, STATS_PERIOD_MS, ToOperator};
use tokio::time::{MissedTickBehavior, interval};

use crate::{function::Function, functions::Functions, operators::Operators};

/// Functions in one frame: at most 250 bytes each, they stay well below the longest frame.
const MAX_IN_FRAME: usize = 1_000;

/// Reports until dropped. On the way it closes connections to pods that were not used for a while.
pub(crate) async fn run(functions: Arc<Functions>, operators: Arc<Operators>) {
    let mut ticks = interval(Duration::from_millis(STATS_PERIOD_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let all = functions.all();
        for function in &all {
            for pod in function.gate.payloads() {
                pod.pool.sweep();
            }
        }
        let active: Vec<_> = all.iter().filter_map(|function| stats(function)).collect();
        for functions in active.chunks(MAX_IN_FRAME) {
            operators.send(&ToOperator::Stats {
                functions: functions.to_vec(),
            });
        }
    }
}

/// What `function` did since the last report, if there is something to say.
fn stats(function: &Function) -> Option<FunctionStats> {
    let sample = function.gate.sample()?;
    Some(FunctionStats {
        function: function.key.clone(),
        in_flight: sample.in_flight,
        queued: sample.queued,
        arrivals: sample.arrivals,
        concurrency: sample.concurrency,
        idle_ms: u64::try_from(sample.idle.as_millis()).unwrap_or(u64::MAX),
    })
}
