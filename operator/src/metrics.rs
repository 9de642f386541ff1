//! The operator's metrics. No label has an unbounded set of values.

use std::time::Duration;

use autoscale::Decision;
use crds::{control::Phases, names::FunctionKey};
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry,
};

/// Labels of what is told of one Function. Their values are bounded by the Functions that exist, and go with them.
const FUNCTION: [&str; 2] = ["namespace", "function"];

/// All metrics of the operator, documented in `docs/operations.md`.
#[derive(Debug)]
pub struct Metrics {
    /// `ebb_operator_leader`: 1 while this replica holds the lease.
    pub leader: IntGauge,
    /// `ebb_operator_control_sessions`: control streams to activators.
    pub control_sessions: IntGauge,
    /// `ebb_operator_scale_writes_total{reason}`: counts written.
    pub scale_writes: IntCounterVec,
    /// `ebb_operator_decisions_total{reason}`: decisions that changed a count.
    pub decisions: IntCounterVec,
    /// `ebb_operator_drains_total{result}`: sets of pods that were drained, or taken back.
    pub drains: IntCounterVec,
    /// `ebb_operator_foreign_changes_total`: counts that somebody else has changed.
    pub foreign_changes: IntCounter,
    /// `ebb_function_*{namespace,function}`, of the leader only.
    functions: Functions,
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
            decisions: IntCounterVec::new(
                Opts::new(
                    "ebb_operator_decisions_total",
                    "Decisions that changed a count, by what made them",
                ),
                &["reason"],
            )?,
            drains: IntCounterVec::new(
                Opts::new(
                    "ebb_operator_drains_total",
                    "Sets of pods that were drained, or taken back",
                ),
                &["result"],
            )?,
            foreign_changes: IntCounter::new(
                "ebb_operator_foreign_changes_total",
                "Counts that somebody else has changed",
            )?,
            functions: Functions::new(registry)?,
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
        registry.register(Box::new(metrics.decisions.clone()))?;
        registry.register(Box::new(metrics.drains.clone()))?;
        registry.register(Box::new(metrics.foreign_changes.clone()))?;
        registry.register(Box::new(metrics.wake_to_write.clone()))?;
        registry.register(Box::new(metrics.cold_start.clone()))?;
        registry.register(Box::new(metrics.reconciles.clone()))?;
        registry.register(Box::new(metrics.reconcile_seconds.clone()))?;
        Ok(metrics)
    }

    /// Shows what was decided for a Function.
    pub fn function(&self, key: &FunctionKey, decision: &Decision, ready: u32) {
        let values = [
            f64::from(decision.desired),
            f64::from(ready),
            decision.load.stable,
            decision.load.panic,
            f64::from(u8::from(decision.panicking)),
        ];
        for (gauge, value) in self.functions.0.iter().zip(values) {
            gauge
                .with_label_values(&[&key.namespace, &key.name])
                .set(value);
        }
    }

    /// A Function is gone.
    pub fn forget(&self, key: &FunctionKey) {
        for gauge in &self.functions.0 {
            // It is not there if this replica never led while the Function existed.
            let _ = gauge.remove_label_values(&[&key.namespace, &key.name]);
        }
    }

    /// Another replica leads, and shows all Functions.
    pub fn forget_functions(&self) {
        self.functions.0.iter().for_each(GaugeVec::reset);
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

/// What is told of each Function.
#[derive(Debug)]
struct Functions([GaugeVec; 5]);

impl Functions {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let gauge = GaugeVec::new(Opts::new(format!("ebb_function_{name}"), help), &FUNCTION)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self([
            gauge(
                "desired_replicas",
                "Pods that the serving revision should have",
            )?,
            gauge(
                "ready_replicas",
                "Pods of the serving revision that are ready",
            )?,
            gauge(
                "load_stable",
                "Load averaged over scale.window, in units of scale.metric",
            )?,
            gauge(
                "load_panic",
                "Load averaged over scale.panic.window, in units of scale.metric",
            )?,
            gauge("panicking", "1 while a sudden rise is followed")?,
        ]))
    }
}
