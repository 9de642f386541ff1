//! A start from zero: from the first wake until nobody waits.

use crds::control::Startup;
use tokio::time::Instant;

use crate::observe::ObservedPod;

/// A start from zero.
#[derive(Clone, Copy, Debug)]
pub struct Wake {
    /// When the first activator asked for it.
    pub since: Instant,
    /// Whether there was no pod when it came. One can also come while all pods are lost or none is ready.
    pub from_zero: bool,
    /// When the count was seen to be raised.
    pub scaled: Option<Instant>,
}

impl Wake {
    /// When a pod's start got how far, counted from the wake; `None` if the pod is not of this start.
    pub fn startup(&self, pod: &ObservedPod) -> Option<Startup> {
        let (scaled, scheduled, addressed) = (self.scaled?, pod.scheduled?, pod.addressed?);
        let us = |at: Instant| u64::try_from((at - self.since).as_micros()).unwrap_or(u64::MAX);
        if scheduled < self.since {
            return None;
        }
        // The answer to the write may come after the watch already showed its effect.
        let scaled_us = us(scaled).min(us(scheduled));
        Some(Startup {
            scaled_us,
            scheduled_us: us(scheduled),
            started_us: us(addressed.max(scheduled)),
        })
    }
}
