//! Where the time of held requests went.

use std::{fmt::Write as _, sync::atomic::AtomicBool, time::Duration};

use crds::control::{Phases, Startup};
use http::HeaderValue;
use tokio::time::Instant;

/// One start from zero: it begins with the wake that led to it.
#[derive(Debug)]
pub(crate) struct ColdStart {
    /// When the wake was sent. The operator has it a fraction of a millisecond later, and counts from then.
    pub(crate) began: Instant,
    /// Whether its first answered request was reported.
    pub(crate) reported: AtomicBool,
}

impl ColdStart {
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            reported: AtomicBool::new(false),
        }
    }
}

/// When a held request reached which point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) arrived: Instant,
    /// The wake that began the cold start it waited for.
    pub(crate) woken: Instant,
    /// It was given a pod.
    pub(crate) granted: Instant,
    /// The head of the pod's answer was there.
    pub(crate) answered: Instant,
}

/// The phases of a held request. The operator's times are laid on this clock from the wake on and clipped to the request's own
/// time, so that they add up to it. Without them only the first and the last phase are known.
pub(crate) fn phases(held: Held, startup: Option<Startup>) -> Phases {
    let since_arrival = |at: Instant| us(at.saturating_duration_since(held.arrived));
    let total = since_arrival(held.answered);
    let marks = match startup {
        Some(startup) => {
            // Signed: most requests of a cold start arrive after its wake.
            let woken = i128::from(since_arrival(held.woken))
                - i128::from(us(held.arrived.saturating_duration_since(held.woken)));
            let mark = |offset: u64| {
                u64::try_from((woken + i128::from(offset)).max(0)).unwrap_or(u64::MAX)
            };
            let Startup {
                scaled_us,
                scheduled_us,
                started_us,
            } = startup;
            [0, scaled_us, scheduled_us, started_us].map(mark)
        }
        None => [since_arrival(held.granted); 4],
    };
    let mut last = 0;
    let mut until = |mark: u64| {
        let mark = mark.clamp(last, total);
        mark - std::mem::replace(&mut last, mark)
    };
    Phases {
        queued_us: until(marks[0]),
        scaled_us: until(marks[1]),
        scheduled_us: until(marks[2]),
        started_us: until(marks[3]),
        answered_us: until(total),
    }
}

/// The phases as a `Server-Timing` header, in milliseconds.
pub(crate) fn header(phases: &Phases) -> Option<HeaderValue> {
    let mut text = String::with_capacity(120);
    for (name, us) in phases.named() {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing into a string cannot fail.
        let _ = write!(text, "{comma}{name};dur={}.{:03}", us / 1000, us % 1000);
    }
    HeaderValue::try_from(text).ok()
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that arrived `arrived` and was answered `answered` milliseconds after the wake.
    fn after_wake(arrived: u64, answered: u64, startup: Option<Startup>) -> [u64; 5] {
        let woken = Instant::now();
        let at = |ms| woken + Duration::from_millis(ms);
        let held = Held {
            arrived: at(arrived),
            woken,
            granted: at(answered - 1),
            answered: at(answered),
        };
        let phases = phases(held, startup);
        assert_eq!(phases.total_us(), (answered - arrived) * 1000);
        phases.named().map(|(_, us)| us / 1000)
    }

    const STARTUP: Startup = Startup {
        scaled_us: 5_000,
        scheduled_us: 20_000,
        started_us: 150_000,
    };

    #[test]
    fn phases_are_clipped_to_the_request_and_add_up() {
        for (arrived, answered, startup, expected) in [
            (0, 180, Some(STARTUP), [0, 5, 15, 130, 30]),
            (100, 180, Some(STARTUP), [0, 0, 0, 50, 30]),
            (160, 180, Some(STARTUP), [0, 0, 0, 0, 20]),
            // A pod that another operator's clock lets start later than it answered.
            (0, 100, Some(STARTUP), [0, 5, 15, 80, 0]),
            (0, 180, None, [179, 0, 0, 0, 1]),
        ] {
            assert_eq!(after_wake(arrived, answered, startup), expected);
        }
    }

    #[test]
    fn the_time_before_the_wake_is_queued() {
        let arrived = Instant::now();
        let at = |ms| arrived + Duration::from_millis(ms);
        let held = Held {
            arrived,
            woken: at(10),
            granted: at(170),
            answered: at(190),
        };
        let phases = phases(held, Some(STARTUP));
        assert_eq!(
            phases.named().map(|(_, us)| us / 1000),
            [10, 5, 15, 130, 30]
        );
        assert_eq!(
            header(&phases).expect("valid").to_str().expect("text"),
            "queued;dur=10.000, scaled;dur=5.000, scheduled;dur=15.000, started;dur=130.000, answered;dur=30.000"
        );
    }
}
