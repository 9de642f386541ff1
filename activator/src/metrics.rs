//! The activator's metrics. No label names a Function: their number must not grow with the cluster.

use std::time::Duration;

use crds::control::Phases;
use http::StatusCode;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    core::Collector,
};

use crate::{answer::Reason, tls::Outcome};

/// Seconds; from a warm request on the same node to a cold start that just makes it.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

/// Every metric, with the children of closed label sets looked up beforehand.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Answers by pods, by the first digit of the status, 1 to 5; the first is for what is out of range.
    answered: [IntCounter; 6],
    /// Answers by the activator itself, in the order of [`Reason::ALL`].
    refused: [IntCounter; Reason::ALL.len()],
    /// Requests whose client went away before an answer.
    pub(crate) gone: IntCounter,
    /// From a pod's slot to the end of the answer's body.
    pub(crate) request_duration: Histogram,
    /// Requests in pods.
    pub(crate) in_flight: IntGauge,
    /// Requests that wait.
    pub(crate) held: IntGauge,
    pub(crate) held_bytes: IntGauge,
    /// How long requests waited.
    pub(crate) held_duration: Histogram,
    /// Cold starts by phase, in the order of [`Phases::named`].
    cold_start: [Histogram; 5],
    /// Connections to pods that came about.
    pub(crate) connected: IntCounter,
    /// Connections to pods that did not.
    pub(crate) connect_failed: IntCounter,
    /// Wakes that were sent.
    pub(crate) wakes: IntCounter,
    /// Control streams that are open.
    pub(crate) sessions: IntGauge,
    /// Functions that are known.
    pub(crate) functions: IntGauge,
    /// Client connections that are open.
    pub(crate) connections: IntGauge,
    /// Connections that have changed their protocol.
    pub(crate) upgraded: IntGauge,
    /// Client connections that were closed because there were too many, or too little memory.
    pub(crate) connections_refused: IntCounter,
    /// Bytes of this process that are in memory.
    pub(crate) resident: IntGauge,
    /// 1 while work is refused because memory runs out.
    pub(crate) shedding: IntGauge,
    /// Handshakes of TLS, in the order of [`Outcome::ALL`].
    handshakes: [IntCounter; Outcome::ALL.len()],
}

impl Metrics {
    /// Makes all metrics and registers them.
    #[expect(clippy::too_many_lines, reason = "it is a table")]
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let requests = registered(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "ebb_activator_requests_total",
                    "Requests answered, by class of status; reason is empty for answers of pods.",
                ),
                &["code_class", "reason"],
            )?,
        )?;
        let phases = registered(
            registry,
            HistogramVec::new(
                histogram(
                    "ebb_activator_cold_start_phase_seconds",
                    "Phases of the first answered request of each cold start.",
                ),
                &["phase"],
            )?,
        )?;
        let connects = registered(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "ebb_activator_upstream_connects_total",
                    "Connections opened to pods, by result.",
                ),
                &["result"],
            )?,
        )?;
        let handshakes = registered(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "ebb_activator_tls_handshakes_total",
                    "Handshakes of TLS on the shared port, by how they ended.",
                ),
                &["result"],
            )?,
        )?;
        let counter = |name, help| registered(registry, IntCounter::new(name, help)?);
        let gauge = |name, help| registered(registry, IntGauge::new(name, help)?);
        let times = |name, help| registered(registry, Histogram::with_opts(histogram(name, help))?);
        let classes = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];
        Ok(Self {
            answered: classes.map(|class| requests.with_label_values(&[class, ""])),
            refused: Reason::ALL.map(|reason| {
                requests.with_label_values(&[classes[class(reason.status())], reason.name()])
            }),
            gone: counter(
                "ebb_activator_requests_gone_total",
                "Requests whose client went away before an answer.",
            )?,
            request_duration: times(
                "ebb_activator_request_duration_seconds",
                "Time from sending a request to a pod to the end of the answer's body.",
            )?,
            in_flight: gauge("ebb_activator_requests_in_flight", "Requests in pods.")?,
            held: gauge(
                "ebb_activator_requests_held",
                "Requests that wait for a pod.",
            )?,
            held_bytes: gauge(
                "ebb_activator_held_bytes",
                "Memory that requests which wait may take, as it is counted against its limit.",
            )?,
            held_duration: times(
                "ebb_activator_request_held_seconds",
                "Time that held requests waited, whatever became of them.",
            )?,
            cold_start: Phases::default()
                .named()
                .map(|(name, _)| phases.with_label_values(&[name])),
            connected: connects.with_label_values(&["ok"]),
            connect_failed: connects.with_label_values(&["failed"]),
            wakes: counter("ebb_activator_wakes_total", "Wakes sent to the operators.")?,
            sessions: gauge("ebb_activator_control_sessions", "Open control streams.")?,
            functions: gauge("ebb_activator_functions", "Functions that are known.")?,
            connections: gauge(
                "ebb_activator_client_connections",
                "Open client connections.",
            )?,
            upgraded: gauge(
                "ebb_activator_upgraded_connections",
                "Open connections that have changed their protocol, such as WebSockets.",
            )?,
            connections_refused: counter(
                "ebb_activator_client_connections_refused_total",
                "Client connections closed because there were too many, or too little memory.",
            )?,
            resident: gauge(
                "ebb_activator_resident_bytes",
                "Bytes of this process that are in memory.",
            )?,
            shedding: gauge(
                "ebb_activator_shedding",
                "1 while new connections and requests are refused because memory runs out.",
            )?,
            handshakes: Outcome::ALL.map(|outcome| handshakes.with_label_values(&[outcome.name()])),
        })
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        self.answered[class(status)].inc();
    }

    pub(crate) fn refused(&self, reason: Reason) {
        self.refused[reason as usize].inc();
    }

    pub(crate) fn shaken(&self, outcome: Outcome) {
        self.handshakes[outcome as usize].inc();
    }

    pub(crate) fn cold_start(&self, phases: &Phases) {
        for (histogram, (_, us)) in self.cold_start.iter().zip(phases.named()) {
            histogram.observe(Duration::from_micros(us).as_secs_f64());
        }
    }
}

fn class(status: StatusCode) -> usize {
    match status.as_u16() / 100 {
        class @ 1..=5 => usize::from(class),
        _ => 0,
    }
}

fn histogram(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(SECONDS.to_vec())
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Raises a gauge by one for as long as it lives.
#[derive(Debug)]
pub(crate) struct Raised(IntGauge);

impl Raised {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_under_their_own_name() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(
                reason as usize, index,
                "the order of ALL is that of the enum"
            );
        }
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index, "{outcome:?}");
        }
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("names are valid and distinct");
        metrics.refused(Reason::QueueFull);
        metrics.answered(StatusCode::NO_CONTENT);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .expect("metrics can be written");
        for line in [
            r#"ebb_activator_requests_total{code_class="5xx",reason="queue-full"} 1"#,
            r#"ebb_activator_requests_total{code_class="2xx",reason=""} 1"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
