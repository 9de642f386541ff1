//! From a load to a count: Knative's `Scale`.

use std::time::Duration;

use crate::{Policy, Reason, delay::SlidingMax};

/// How often Knative decides. Here a decision follows each report, so the way down is bounded over this time.
const TICK: Duration = Duration::from_secs(2);

/// What the windows say.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Load {
    /// Average over the policy's window.
    pub stable: f64,
    /// Average over its panic window.
    pub panic: f64,
}

/// What is remembered between decisions besides the windows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Memory {
    /// When the panic last was confirmed; `None` when there is none.
    panicking: Option<Duration>,
    /// Most that the panic has asked for.
    panic_peak: u32,
    delayed: SlidingMax,
    /// When the present tick began, and the most pods that were ready since.
    tick: Option<(Duration, u32)>,
}

/// A count, and what made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scaled {
    pub(crate) count: u32,
    pub(crate) reason: Reason,
}

impl Memory {
    /// For a Function that is first seen with `ready` pods. With two or more it begins in a panic, so that a restart cannot shrink what is
    /// busy before a window has passed.
    pub(crate) fn new(ready: u32, now: Duration) -> Self {
        Self {
            panicking: (ready > 1).then_some(now),
            panic_peak: if ready > 1 { ready } else { 0 },
            ..Self::default()
        }
    }

    pub(crate) fn is_panicking(&self) -> bool {
        self.panicking.is_some()
    }

    /// Forgets everything: nothing runs.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Notes a count that was there for another reason than the load, so that the way down from it is delayed, too.
    pub(crate) fn hold(&mut self, policy: &Policy, count: u32, now: Duration) {
        if !policy.down_delay.is_zero() {
            self.delayed.record(now, policy.down_delay, count);
        }
    }

    /// The count that `load` asks for.
    pub(crate) fn scale(
        &mut self,
        policy: &Policy,
        load: Load,
        ready: u32,
        now: Duration,
    ) -> Scaled {
        let running = f64::from(ready.max(1));
        let at_tick = f64::from(self.at_tick(ready, now).max(1));
        let bounds = Bounds {
            up: (policy.max_up_rate * running).ceil(),
            down: (at_tick / policy.max_down_rate).floor(),
            activation: policy.activation,
        };
        let (stable, panic) = (
            (load.stable / policy.aim()).ceil(),
            (load.panic / policy.aim()).ceil(),
        );
        let over = panic / running >= policy.panic_threshold;
        self.enter_or_leave_panic(over, policy.window, now);
        let roomy = (load.stable / (policy.aim() * (1.0 - policy.down_tolerance))).ceil();
        let mut scaled = match roomy.min(f64::from(ready)) {
            kept if kept > stable => bounds.apply(kept, Reason::DownTolerance),
            _ => bounds.apply(stable, Reason::Stable),
        };
        if self.is_panicking() {
            let urgent = bounds.apply(panic, Reason::Panic);
            if urgent.count > scaled.count {
                scaled = urgent;
            }
            if self.panic_peak > scaled.count {
                scaled = Scaled {
                    count: self.panic_peak,
                    reason: Reason::PanicHold,
                };
            }
            self.panic_peak = scaled.count;
        }
        if !policy.down_delay.is_zero() {
            let held = self.delayed.record(now, policy.down_delay, scaled.count);
            if held > scaled.count {
                scaled = Scaled {
                    count: held,
                    reason: Reason::DownDelay,
                };
            }
        }
        scaled
    }

    /// The pods that the rate of the way down counts from: those of the tick's begin, or more. Counted from what is ready at each
    /// decision, a rate of a half would take all pods within the time of some drains.
    fn at_tick(&mut self, ready: u32, now: Duration) -> u32 {
        let tick = match self.tick {
            Some((began, most)) if now < began + TICK => (began, most.max(ready)),
            _ => (now, ready),
        };
        self.tick = Some(tick);
        tick.1
    }

    fn enter_or_leave_panic(&mut self, over: bool, window: Duration, now: Duration) {
        if over {
            // Each confirmation prolongs it.
            self.panicking = Some(self.panicking.map_or(now, |since| since.max(now)));
        } else if self.panicking.is_some_and(|since| since + window < now) {
            (self.panicking, self.panic_peak) = (None, 0);
        }
    }
}

/// How far a count may move at once.
struct Bounds {
    up: f64,
    down: f64,
    activation: u32,
}

impl Bounds {
    /// `wanted` within the bounds. Counts beyond u32 are u32's greatest; the policy's `max` bounds them later.
    fn apply(&self, wanted: f64, reason: Reason) -> Scaled {
        let (count, reason) = if wanted > self.up {
            (self.up, Reason::UpRate)
        } else if wanted < self.down {
            (self.down, Reason::DownRate)
        } else {
            (wanted, reason)
        };
        let count = count as u32;
        if wanted > 0.0 && count < self.activation && self.activation > 1 {
            return Scaled {
                count: self.activation,
                reason: Reason::Activation,
            };
        }
        Scaled { count, reason }
    }
}

#[cfg(test)]
mod tests;
