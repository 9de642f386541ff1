//! The operator's metrics. No label has an unbounded set of values.

use std::time::Duration;

use crds::control::Phases;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

/// All metrics of the operator, documented in `docs/operations.md`.
#[derive(Debug)]
pub struct Metrics {
    /// `ebb_operator_leader`: 1 while this replica holds the lease.
    pub leader: IntGauge,
    /// `ebb_operator_control_sessions`: control streams to activators.
    pub control_sessions: IntGauge,
    /// `ebb_operator_scale_writes_total{reason}`: counts written.
    pub scale_writes: IntCounterVec,
    /// `ebb_operator_wake_to_write_seconds`: from a wake to the API server's answer to the write that it led to.
    pub wake_to_write: Histogram,
    /// `ebb_operator_cold_start_seconds{phase}`: finished cold starts by phase.
    cold_start: HistogramVec,
    /// `ebb_operator_reconciles_total{result}`.
    reconciles: IntCounterVec,
    /// `ebb_operator_reconcile_seconds`.
    reconcile_seconds: Histogram,
}

/// A millisecond to half a minute, a factor of two apart.
fn buckets() -> Vec<f64> {
    (0..16).map(|i| 0.001 * f64::from(1 << i)).collect()
}

impl Metrics {
    /// Makes and registers all.
    ///
    /// # Errors
    /// If one is registered twice, which is a bug.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            leader: IntGauge::new(
                "ebb_operator_leader",
                "1 while this replica holds the lease",
            )?,
            control_sessions: IntGauge::new(
                "ebb_operator_control_sessions",
                "Control streams to activators",
            )?,
            scale_writes: IntCounterVec::new(
                Opts::new(
                    "ebb_operator_scale_writes_total",
                    "Counts written to Deployments, by what made the decision",
                ),
                &["reason"],
            )?,
            wake_to_write: Histogram::with_opts(
                HistogramOpts::new(
                    "ebb_operator_wake_to_write_seconds",
                    "From a wake to the API server's answer to its write",
                )
                .buckets(buckets()),
            )?,
            cold_start: HistogramVec::new(
                HistogramOpts::new(
                    "ebb_operator_cold_start_seconds",
                    "First requests from zero, by phase",
                )
                .buckets(buckets()),
                &["phase"],
            )?,
            reconciles: IntCounterVec::new(
                Opts::new("ebb_operator_reconciles_total", "Reconciles, by result"),
                &["result"],
            )?,
            reconcile_seconds: Histogram::with_opts(
                HistogramOpts::new("ebb_operator_reconcile_seconds", "Time of a reconcile")
                    .buckets(buckets()),
            )?,
        };
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.control_sessions.clone()))?;
        registry.register(Box::new(metrics.scale_writes.clone()))?;
        registry.register(Box::new(metrics.wake_to_write.clone()))?;
        registry.register(Box::new(metrics.cold_start.clone()))?;
        registry.register(Box::new(metrics.reconciles.clone()))?;
        registry.register(Box::new(metrics.reconcile_seconds.clone()))?;
        Ok(metrics)
    }

    /// Counts a finished cold start.
    pub fn cold_start(&self, phases: &Phases) {
        for (name, us) in phases.named() {
            self.cold_start
                .with_label_values(&[name])
                .observe(us as f64 / 1e6);
        }
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, ok: bool, took: Duration) {
        self.reconciles
            .with_label_values(&[if ok { "ok" } else { "error" }])
            .inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }
}
