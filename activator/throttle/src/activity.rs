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
    /// Requests that arrived in a second, since the last regular sample.
    pub rps: f64,
    /// Time-weighted average of the requests in pods and in line since the last sample.
    pub concurrency: f64,
    /// Time since the last request ended; zero while there is one.
    pub idle: Duration,
}

/// A rise is sudden when the number of requests is at least this, and at least twice what the last sample averaged: autoscalers
/// compare with twice, and below four a regular sample comes soon enough.
const SURGE_LEAST: u32 = 4;

/// How long a rise may go on: half of the time after which it is reported, so that the other half shows what it came to.
const RISE: Duration = Duration::from_millis(250);

/// A sample of a shorter time says nothing; it comes with the next one.
const SHORTEST: Duration = Duration::from_millis(200);

/// A rate is of this time at least. Ten requests that a stall has let come within half a second are no load of twenty a second.
const SECOND: Duration = Duration::from_secs(1);

/// Integrates the number of requests over time.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Requests in pods and in line, since `changed`.
    level: u32,
    changed: Instant,
    /// Request-seconds from `sampled` to `changed`.
    weighted: f64,
    sampled: Instant,
    /// Requests that arrived since `counted`.
    arrivals: u32,
    counted: Instant,
    /// Arrivals in a second, by the last regular sample.
    rps: f64,
    /// The level from which on a rise is sudden; `None` while one has been noticed and not been sampled.
    surge_at: Option<u32>,
    /// When a sudden rise began, and the level from which on its average counts.
    rise: Option<(Instant, u32)>,
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
            counted: now,
            rps: 0.0,
            surge_at: Some(SURGE_LEAST),
            rise: None,
            quiet: true,
        }
    }

    pub(crate) fn arrive(&mut self) {
        self.arrivals = self.arrivals.saturating_add(1);
    }

    /// From `now` on there are `level` requests. Returns whether that is a sudden rise that was not noticed before; what the level was
    /// before it then no longer counts.
    pub(crate) fn set(&mut self, level: u32, now: Instant) -> bool {
        if level == self.level {
            return false;
        }
        self.integrate(now);
        let surge = level > self.level && self.surge_at.is_some_and(|at| level >= at);
        self.level = level;
        if surge {
            self.surge_at = None;
            self.rise = Some((now, level));
            (self.weighted, self.sampled) = (0.0, now);
        } else {
            self.go_on_rising(now);
        }
        surge
    }

    /// A rise takes a moment, and what it passes through is not what it comes to: the average begins anew with each tenth more.
    fn go_on_rising(&mut self, now: Instant) {
        let Some((began, from)) = self.rise else {
            return;
        };
        if now.saturating_duration_since(began) >= RISE {
            self.rise = None;
        } else if u64::from(self.level) * 10 >= u64::from(from) * 11 {
            self.rise = Some((began, self.level));
            (self.weighted, self.sampled) = (0.0, now);
        }
    }

    /// What happened since the last sample; `None` if nothing did, after having said so once.
    ///
    /// Only a regular sample ends the time over which arrivals are counted: activators take it at the same moments, so that the rates over
    /// all of them add up however a load moves between them.
    pub(crate) fn sample(
        &mut self,
        in_flight: u32,
        queued: u32,
        regular: bool,
        now: Instant,
    ) -> Option<Sample> {
        let idle = match self.level {
            0 => now.saturating_duration_since(self.changed),
            _ => Duration::ZERO,
        };
        if self.level > 0 {
            self.integrate(now);
        }
        let active = self.level > 0 || self.arrivals > 0 || self.weighted > 0.0;
        if !active && self.quiet {
            (self.sampled, self.counted, self.rps) = (now, now, 0.0);
            return None;
        }
        let span = now.saturating_duration_since(self.sampled);
        if span < SHORTEST {
            return None;
        }
        self.quiet = !active;
        let counted = now.saturating_duration_since(self.counted);
        let mut rps = f64::from(self.arrivals) / counted.max(SECOND).as_secs_f64();
        if regular {
            (self.counted, self.arrivals, self.rps) = (now, 0, rps);
        } else {
            rps = rps.max(self.rps);
        }
        let sample = Sample {
            in_flight,
            queued,
            rps,
            concurrency: self.weighted / span.as_secs_f64(),
            idle,
        };
        self.surge_at = Some(SURGE_LEAST.max((2.0 * sample.concurrency).ceil() as u32));
        (self.sampled, self.weighted, self.rise) = (now, 0.0, None);
        Some(sample)
    }

    fn integrate(&mut self, now: Instant) {
        let span = now.saturating_duration_since(self.changed);
        self.weighted += f64::from(self.level) * span.as_secs_f64();
        self.changed = now;
    }
}
