//! How many pods a Function needs.
//!
//! Pure: time is an argument, nothing is read or written, and the crate depends on std alone, so that a decision can be replayed.
//! Today's rule knows zero and not zero; the windows that follow the load widen [`decide`] without changing its shape.

use std::time::Duration;

/// What the Function's owner asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Pods that always run.
    pub min: u32,
    /// Pods that may run at most; at least 1 and not below `min`.
    pub max: u32,
    /// Time without any request before the count goes to `min`.
    pub idle_after: Duration,
}

/// What is remembered between decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// When a request last was in a pod or waited, on the caller's monotonic clock.
    pub last_active: Duration,
}

/// What is seen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Pods that the Deployment asks for.
    pub replicas: u32,
    /// Requests in pods.
    pub in_flight: u32,
    /// Requests that wait for a pod.
    pub waiting: u32,
}

/// How many pods there should be, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The count.
    pub desired: u32,
    /// What made it.
    pub reason: Reason,
    /// When the answer may change although nothing is seen to change.
    pub again_in: Option<Duration>,
}

/// What made a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Requests are in pods or wait for one.
    Busy,
    /// The last request ended less than `idle_after` ago.
    Recent,
    /// No request for `idle_after`.
    Idle,
    /// Nothing runs and nobody calls.
    Asleep,
    /// More pods than `max` were running.
    AboveMax,
    /// Fewer pods than `min` were running.
    BelowMin,
}

impl Reason {
    /// The reason as a metric's label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Recent => "recent",
            Self::Idle => "idle",
            Self::Asleep => "asleep",
            Self::AboveMax => "above_max",
            Self::BelowMin => "below_min",
        }
    }
}

/// Decides a count. `now` is on the same clock as [`State::last_active`]; a `now` before it counts as equal to it.
///
/// From zero a busy Function goes to `max(1, min)`. While it is in use a higher count that somebody set is kept up to `max`.
/// After `idle_after` without a request it goes to `min`.
pub fn decide(policy: &Policy, state: &mut State, seen: &Observation, now: Duration) -> Decision {
    let busy = seen.in_flight > 0 || seen.waiting > 0;
    if busy {
        state.last_active = state.last_active.max(now);
    }
    let idle_for = now.saturating_sub(state.last_active);
    let recent = idle_for < policy.idle_after;
    let in_use = busy || (recent && seen.replicas > 0);
    if !in_use {
        let reason = match seen.replicas {
            0 if policy.min == 0 => Reason::Asleep,
            n if n < policy.min => Reason::BelowMin,
            _ => Reason::Idle,
        };
        return Decision {
            desired: policy.min,
            reason,
            again_in: None,
        };
    }
    let wanted = seen.replicas.max(policy.min).max(1);
    let desired = wanted.min(policy.max);
    let reason = if desired < seen.replicas {
        Reason::AboveMax
    } else if busy {
        Reason::Busy
    } else if desired > seen.replicas {
        Reason::BelowMin
    } else {
        Reason::Recent
    };
    let again_in = (!busy).then(|| policy.idle_after - idle_for);
    Decision {
        desired,
        reason,
        again_in,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    const POLICY: Policy = Policy {
        min: 0,
        max: 10,
        idle_after: secs(60),
    };

    fn run(
        policy: Policy,
        replicas: u32,
        in_flight: u32,
        waiting: u32,
        idle: u64,
    ) -> (u32, Reason) {
        let mut state = State {
            last_active: secs(1000),
        };
        let seen = Observation {
            replicas,
            in_flight,
            waiting,
        };
        let decision = decide(&policy, &mut state, &seen, secs(1000 + idle));
        (decision.desired, decision.reason)
    }

    #[test]
    fn table() {
        let min2 = Policy { min: 2, ..POLICY };
        let rows = [
            // policy, replicas, in flight, waiting, idle seconds -> desired, reason
            (POLICY, 0, 0, 0, 0, 0, Reason::Asleep),
            (POLICY, 0, 0, 1, 500, 1, Reason::Busy),
            (POLICY, 0, 0, 500, 500, 1, Reason::Busy),
            (POLICY, 1, 3, 0, 0, 1, Reason::Busy),
            (POLICY, 1, 0, 0, 59, 1, Reason::Recent),
            (POLICY, 1, 0, 0, 60, 0, Reason::Idle),
            (POLICY, 1, 1, 0, 3600, 1, Reason::Busy),
            (POLICY, 7, 1, 0, 0, 7, Reason::Busy),
            (POLICY, 12, 1, 0, 0, 10, Reason::AboveMax),
            (POLICY, 7, 0, 0, 60, 0, Reason::Idle),
            (min2, 0, 0, 0, 500, 2, Reason::BelowMin),
            (min2, 0, 0, 1, 500, 2, Reason::Busy),
            (min2, 1, 0, 0, 5, 2, Reason::BelowMin),
            (min2, 5, 0, 0, 60, 2, Reason::Idle),
            (min2, 2, 0, 0, 60, 2, Reason::Idle),
        ];
        for (i, (policy, replicas, in_flight, waiting, idle, desired, reason)) in
            rows.into_iter().enumerate()
        {
            assert_eq!(
                run(policy, replicas, in_flight, waiting, idle),
                (desired, reason),
                "row {i}"
            );
        }
    }

    #[test]
    fn says_when_the_idle_time_ends() {
        let mut state = State {
            last_active: secs(10),
        };
        let seen = Observation {
            replicas: 1,
            in_flight: 0,
            waiting: 0,
        };
        assert_eq!(
            decide(&POLICY, &mut state, &seen, secs(30)).again_in,
            Some(secs(40))
        );
        assert_eq!(decide(&POLICY, &mut state, &seen, secs(70)).again_in, None);
    }

    #[test]
    fn time_that_goes_backwards_changes_nothing() {
        let mut state = State {
            last_active: secs(100),
        };
        let seen = Observation {
            replicas: 1,
            in_flight: 0,
            waiting: 0,
        };
        let decision = decide(&POLICY, &mut state, &seen, secs(50));
        assert_eq!((decision.desired, decision.again_in), (1, Some(secs(60))));
        assert_eq!(state.last_active, secs(100));
    }

    proptest! {
        #[test]
        fn stays_in_bounds_and_serves_whoever_waits(
            min in 0u32..20, above in 0u32..20, replicas in 0u32..50, in_flight in 0u32..5, waiting in 0u32..5, idle in 0u64..200,
        ) {
            let policy = Policy { min, max: (min + above).max(1), ..POLICY };
            let (desired, _) = run(policy, replicas, in_flight, waiting, idle);
            prop_assert!(desired >= policy.min && desired <= policy.max);
            if waiting + in_flight > 0 {
                prop_assert!(desired >= 1);
                prop_assert!(desired >= replicas.min(policy.max), "nothing is taken from a Function in use below max");
            }
        }
    }
}
