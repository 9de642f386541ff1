//! What a Function did: counts for the autoscaler.

use std::time::Duration;

use tokio::time::Instant;

/// A Function's activity since the sample before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Requests in a pod now.
    pub in_flight: u32,
    /// Requests that wait now.
    pub queued: u32,
    /// Requests that arrived since the last sample.
    pub arrivals: u32,
    /// Time-weighted average of the requests in pods and in line since the last sample.
    pub concurrency: f64,
    /// Time since the last request ended; zero while there is one.
    pub idle: Duration,
}

/// Integrates the number of requests over time.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Requests in pods and in line, since `changed`.
    level: u32,
    changed: Instant,
    /// Request-seconds from `sampled` to `changed`.
    weighted: f64,
    sampled: Instant,
    arrivals: u32,
    /// Whether the last sample had nothing to say, so that there is none until something happens.
    quiet: bool,
}

impl Activity {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            level: 0,
            changed: now,
            weighted: 0.0,
            sampled: now,
            arrivals: 0,
            quiet: true,
        }
    }

    pub(crate) fn arrive(&mut self) {
        self.arrivals = self.arrivals.saturating_add(1);
    }

    /// From `now` on there are `level` requests.
    pub(crate) fn set(&mut self, level: u32, now: Instant) {
        if level != self.level {
            self.integrate(now);
            self.level = level;
        }
    }

    /// What happened since the last sample; `None` if nothing did, after having said so once.
    pub(crate) fn sample(&mut self, in_flight: u32, queued: u32, now: Instant) -> Option<Sample> {
        let idle = match self.level {
            0 => now.saturating_duration_since(self.changed),
            _ => Duration::ZERO,
        };
        if self.level > 0 {
            self.integrate(now);
        }
        let active = self.level > 0 || self.arrivals > 0 || self.weighted > 0.0;
        if !active && self.quiet {
            self.sampled = now;
            return None;
        }
        self.quiet = !active;
        let span = now.saturating_duration_since(self.sampled).as_secs_f64();
        let sample = Sample {
            in_flight,
            queued,
            arrivals: self.arrivals,
            concurrency: if span > 0.0 {
                self.weighted / span
            } else {
                0.0
            },
            idle,
        };
        self.sampled = now;
        self.weighted = 0.0;
        self.arrivals = 0;
        Some(sample)
    }

    fn integrate(&mut self, now: Instant) {
        let span = now.saturating_duration_since(self.changed);
        self.weighted += f64::from(self.level) * span.as_secs_f64();
        self.changed = now;
    }
}
