//! What the owner of a Function asks for.

use std::time::Duration;

use crate::window::Aggregation;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Metric {
    /// Requests in pods or waiting for one, averaged over time.
    #[default]
    Concurrency,
    /// Requests that arrive in a second.
    Rps,
}

/// How a Function scales. The defaults are Knative's, where the operator's documentation gives no other reason.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// What is measured.
    pub metric: Metric,
    /// What a pod may carry, in units of the metric; above zero.
    pub target: f64,
    /// Share of `target` that is aimed at, above 0 and up to 1.
    pub utilization: f64,
    /// Time over which the load is averaged.
    pub window: Duration,
    /// The same for sudden rises; not above `window`.
    pub panic_window: Duration,
    /// How many times the pods that are ready the panic window must ask for to begin a panic; above 1.
    pub panic_threshold: f64,
    /// How seconds of the windows are weighted.
    pub aggregation: Aggregation,
    /// Pods that always run.
    pub min: u32,
    /// Pods that may run at most; at least 1 and not below `min`.
    pub max: u32,
    /// Pods that are started at least when there is any load.
    pub activation: u32,
    /// The count may be raised by this factor of the ready pods at once; above 1.
    pub max_up_rate: f64,
    /// The count may be lowered to the ready pods divided by this at once; above 1.
    pub max_down_rate: f64,
    /// Share of the pods' room that must be free in the lower count before it is gone to; Knative has none. A load on the edge between two counts
    /// then changes the count once, however it trembles. 0 to below 1.
    pub down_tolerance: f64,
    /// How long the load must be lower before the count is lowered.
    pub down_delay: Duration,
    /// Time without any request after which the last pod goes.
    pub idle_after: Duration,
}

impl Policy {
    /// What a pod should carry: `target * utilization`, at least 0.01 as in Knative.
    pub fn aim(&self) -> f64 {
        (self.target * self.utilization).max(0.01)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            metric: Metric::Concurrency,
            target: 100.0,
            utilization: 0.7,
            window: Duration::from_secs(60),
            panic_window: Duration::from_secs(6),
            panic_threshold: 2.0,
            aggregation: Aggregation::Linear,
            min: 0,
            max: u32::MAX,
            activation: 1,
            max_up_rate: 1000.0,
            max_down_rate: 2.0,
            down_tolerance: 0.0,
            down_delay: Duration::ZERO,
            idle_after: Duration::from_secs(60),
        }
    }
}
