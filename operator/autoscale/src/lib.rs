//! How many pods a Function needs.
//!
//! Pure: time is an argument, nothing is read or written, and the crate depends on std alone, so that a decision can be replayed.
//! Windows, panic, rates and delay are those of Knative Serving's autoscaler, row by row; what differs is the way to zero, since here
//! every request is seen: the last pod goes when nothing has been in flight for [`Policy::idle_after`].
//!
//! `now` is on the caller's monotonic clock. Time that goes backwards counts as standing still.

mod delay;
mod policy;
mod reason;
mod scale;
mod window;

use std::time::Duration;

pub use policy::{Metric, Policy};
pub use reason::Reason;
pub use scale::Load;
pub use window::Aggregation;
use window::Window;

/// How soon to decide again while the windows still change: their grain.
const AGAIN: Duration = window::GRAIN;

/// What is remembered between decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    last_active: Duration,
    concurrency: Windows,
    rps: Windows,
    memory: scale::Memory,
}

#[derive(Clone, Debug, PartialEq)]
struct Windows {
    stable: Window,
    panic: Window,
}

/// What is seen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Pods that the Deployment asks for.
    pub replicas: u32,
    /// Pods that are ready.
    pub ready: u32,
    /// Pods that a new revision must have had once before its count follows the load; 0 when it had them.
    pub initial: u32,
    /// Requests in pods.
    pub in_flight: u32,
    /// Requests that wait for a pod.
    pub waiting: u32,
    /// Whether all activators that take requests report. If not, what they carry is not all that there is, and nothing is taken away.
    pub complete: bool,
}

/// How many pods there should be, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// The count.
    pub desired: u32,
    /// What made it.
    pub reason: Reason,
    /// What the windows said.
    pub load: Load,
    /// Whether a panic is on.
    pub panicking: bool,
    /// When the answer may change although nothing is seen to change.
    pub again_in: Option<Duration>,
}

impl State {
    /// For a Function first seen at `now` with so many pods ready. That moment counts as its last activity: what it did before, nobody here knows.
    pub fn new(ready: u32, now: Duration) -> Self {
        Self {
            last_active: now,
            concurrency: Windows::new(),
            rps: Windows::new(),
            memory: scale::Memory::new(ready, now),
        }
    }

    /// A request ended, or still ran, at `at`.
    pub fn active_at(&mut self, at: Duration) {
        self.last_active = self.last_active.max(at);
    }

    /// Notes the load of the second of `now`, over all activators: requests in pods or waiting, and requests that arrive in a second.
    /// Of several in one second the last counts.
    pub fn record(&mut self, policy: &Policy, concurrency: f64, rps: f64, now: Duration) {
        self.concurrency.record(policy, concurrency, now);
        self.rps.record(policy, rps, now);
    }

    fn windows(&self, metric: Metric) -> &Windows {
        match metric {
            Metric::Concurrency => &self.concurrency,
            Metric::Rps => &self.rps,
        }
    }

    /// Nothing runs and nobody calls: what was, no longer counts.
    fn forget_load(&mut self) {
        self.concurrency = Windows::new();
        self.rps = Windows::new();
        self.memory.clear();
    }
}

impl Windows {
    /// Of no length worth mentioning: each record gives the policy's.
    fn new() -> Self {
        Self {
            stable: Window::new(window::GRAIN),
            panic: Window::new(window::GRAIN),
        }
    }

    fn record(&mut self, policy: &Policy, value: f64, now: Duration) {
        for (window, length) in [
            (&mut self.stable, policy.window),
            (&mut self.panic, policy.panic_window),
        ] {
            window.resize(length);
            if value > 0.0 || !window.is_empty(now) {
                window.record(now, value.max(0.0));
            }
            if value <= 0.0 && window.average(now, Aggregation::Linear) <= 0.0 {
                // Nothing but zeros: an idle Function takes no memory.
                window.clear();
            }
        }
    }

    fn load(&self, policy: &Policy, now: Duration) -> Load {
        Load {
            stable: self.stable.average(now, policy.aggregation),
            panic: self.panic.average(now, policy.aggregation),
        }
    }

    fn is_empty(&self, now: Duration) -> bool {
        self.stable.is_empty(now) && self.panic.is_empty(now)
    }
}

/// Decides a count.
///
/// While a Function is in use the count follows the windows ([`scale`]), within `min` and `max`. The last pod stays until nothing has
/// been in flight for `idle_after`; then the count goes to `min` at once. From zero it starts when a request waits.
pub fn decide(policy: &Policy, state: &mut State, seen: &Observation, now: Duration) -> Decision {
    let busy = seen.in_flight > 0 || seen.waiting > 0;
    if busy {
        state.active_at(now);
    }
    let idle_for = now.saturating_sub(state.last_active);
    let load = state.windows(policy.metric).load(policy, now);
    let (wanted, reason) = if !seen.complete {
        incomplete(policy, state, seen, load, now)
    } else if !busy && seen.replicas == 0 {
        state.forget_load();
        (0, Reason::Asleep)
    } else if !busy && idle_for >= policy.idle_after {
        state.forget_load();
        (0, Reason::Idle)
    } else {
        in_use(policy, state, seen, load, now)
    };
    let (desired, reason) = bound(policy, seen, wanted, reason);
    if reason == Reason::Initial {
        state.memory.hold(policy, desired, now);
    }
    let settled = state.windows(policy.metric).is_empty(now)
        && !state.memory.is_panicking()
        && reason != Reason::DownDelay;
    let until_idle = (!busy && seen.complete && seen.replicas > 0)
        .then(|| policy.idle_after.saturating_sub(idle_for))
        .filter(|wait| !wait.is_zero());
    let again_in = match (settled || !seen.complete, until_idle) {
        (false, Some(wait)) => Some(wait.min(AGAIN)),
        (false, None) => Some(AGAIN),
        (true, wait) => wait,
    };
    Decision {
        desired,
        reason,
        load,
        panicking: state.memory.is_panicking(),
        again_in,
    }
}

/// What is known of the load may ask for more pods, but not for fewer.
fn incomplete(
    policy: &Policy,
    state: &mut State,
    seen: &Observation,
    load: Load,
    now: Duration,
) -> (u32, Reason) {
    if seen.replicas == 0 && seen.waiting == 0 {
        return (0, Reason::NoData);
    }
    let (wanted, reason) = in_use(policy, state, seen, load, now);
    if wanted > seen.replicas {
        (wanted, reason)
    } else {
        (seen.replicas, Reason::NoData)
    }
}

/// The count of a Function that is called, or was a moment ago.
fn in_use(
    policy: &Policy,
    state: &mut State,
    seen: &Observation,
    load: Load,
    now: Duration,
) -> (u32, Reason) {
    let scaled = state.memory.scale(policy, load, seen.ready, now);
    if scaled.count > 0 {
        return (scaled.count, scaled.reason);
    }
    // The windows do not know of it yet, or no longer.
    match (seen.replicas, seen.in_flight.saturating_add(seen.waiting)) {
        (0, _) => (policy.activation.max(1), Reason::Waiting),
        (_, 0) => (1, Reason::Recent),
        (_, _) => (policy.activation.max(1), Reason::Recent),
    }
}

fn bound(policy: &Policy, seen: &Observation, wanted: u32, reason: Reason) -> (u32, Reason) {
    let initial = seen.initial.min(policy.max);
    if wanted > policy.max {
        (policy.max, Reason::Max)
    } else if wanted < policy.min && policy.min >= initial {
        (policy.min, Reason::Min)
    } else if wanted < initial {
        (initial, Reason::Initial)
    } else {
        (wanted, reason)
    }
}

#[cfg(test)]
mod tests;
