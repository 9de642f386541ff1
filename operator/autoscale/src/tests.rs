//! The way to zero and the bounds as tables, and what must hold for every load.

use proptest::prelude::*;

use super::*;

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn policy() -> Policy {
    Policy {
        target: 10.0,
        max: 10,
        panic_threshold: 100.0,
        ..Policy::default()
    }
}

const SEEN: Observation = Observation {
    replicas: 0,
    ready: 0,
    initial: 0,
    in_flight: 0,
    waiting: 0,
    complete: true,
};

fn running(n: u32) -> Observation {
    Observation {
        replicas: n,
        ready: n,
        ..SEEN
    }
}

/// Decides after `load` in flight for the last minute, of which the last `idle` seconds had none.
fn after(policy: &Policy, load: f64, idle: u64, seen: Observation) -> (u32, Reason) {
    let mut state = State::new(0, secs(900));
    for second in 940..=1000 {
        state.record(
            policy,
            if second + idle <= 1000 { load } else { 0.0 },
            0.0,
            secs(second),
        );
    }
    if load > 0.0 {
        state.active_at(secs(1000 - idle));
    }
    let decision = decide(policy, &mut state, &seen, secs(1000));
    (decision.desired, decision.reason)
}

#[test]
fn table() {
    let min2 = Policy { min: 2, ..policy() };
    let busy = |n| Observation {
        in_flight: 1,
        ..running(n)
    };
    let waiting = Observation {
        waiting: 500,
        ..SEEN
    };
    let starts3 = Policy {
        activation: 3,
        ..policy()
    };
    let hidden = |seen| Observation {
        complete: false,
        ..seen
    };
    let short = Policy {
        idle_after: secs(2),
        ..policy()
    };
    let rows = [
        // policy, load, seconds without it, seen -> desired, reason
        (policy(), 0.0, 0, SEEN, 0, Reason::Asleep),
        (policy(), 0.0, 0, waiting, 1, Reason::Waiting),
        (starts3, 0.0, 0, waiting, 3, Reason::Waiting),
        (policy(), 14.0, 0, busy(2), 2, Reason::Stable),
        (policy(), 14.1, 0, busy(2), 3, Reason::Stable),
        (policy(), 5.0, 59, running(1), 1, Reason::Stable),
        (policy(), 0.0, 0, busy(1), 1, Reason::Recent),
        (policy(), 5.0, 60, running(1), 0, Reason::Idle),
        (policy(), 50.0, 60, running(7), 0, Reason::Idle),
        (short, 50.0, 1, running(8), 8, Reason::Stable),
        (short, 50.0, 2, running(8), 0, Reason::Idle),
        (policy(), 500.0, 0, busy(7), 10, Reason::Max),
        (policy(), 7.0, 0, busy(8), 4, Reason::DownRate),
        (min2, 0.0, 0, SEEN, 2, Reason::Min),
        (min2, 0.0, 0, waiting, 2, Reason::Min),
        (min2, 5.0, 0, busy(1), 2, Reason::Min),
        (min2, 5.0, 60, running(5), 2, Reason::Min),
        (
            policy(),
            0.0,
            0,
            Observation {
                initial: 3,
                ..running(1)
            },
            3,
            Reason::Initial,
        ),
        (policy(), 0.0, 60, hidden(running(3)), 3, Reason::NoData),
        (policy(), 0.0, 60, hidden(waiting), 1, Reason::Waiting),
        (policy(), 0.0, 60, hidden(SEEN), 0, Reason::NoData),
        (policy(), 25.0, 0, hidden(running(3)), 4, Reason::Stable),
        (policy(), 14.0, 0, hidden(running(3)), 3, Reason::NoData),
    ];
    for (i, (policy, load, idle, seen, desired, reason)) in rows.into_iter().enumerate() {
        assert_eq!(
            after(&policy, load, idle, seen),
            (desired, reason),
            "row {i}"
        );
    }
}

#[test]
fn says_when_to_decide_again() {
    let mut state = State::new(0, secs(10));
    let again = |state: &mut State, seen: Observation, now| {
        decide(&policy(), state, &seen, secs(now)).again_in
    };
    assert_eq!(again(&mut state, running(1), 30), Some(secs(40)));
    state.record(&policy(), 3.0, 0.0, secs(30));
    assert_eq!(
        again(&mut state, running(1), 30),
        Some(secs(1)),
        "the windows change"
    );
    assert_eq!(
        again(&mut state, running(1), 70),
        None,
        "nothing is left to change"
    );
}

#[test]
fn zeros_empty_the_windows() {
    let mut state = State::new(0, secs(0));
    state.record(&policy(), 5.0, 5.0, secs(1));
    let memory = |state: &State| [&state.concurrency, &state.rps].map(|w| w.is_empty(secs(70)));
    assert_eq!(memory(&state), [true, true], "by time");
    for second in 2..=61 {
        state.record(&policy(), 0.0, 0.0, secs(second));
    }
    assert_eq!(state.concurrency.load(&policy(), secs(61)), Load::default());
    assert!(state.concurrency.is_empty(secs(61)));
}

#[test]
fn after_zero_the_former_load_counts_no_more() {
    let short = Policy {
        idle_after: secs(2),
        ..policy()
    };
    let mut state = State::new(0, secs(0));
    state.record(&short, 50.0, 0.0, secs(1));
    state.active_at(secs(1));
    assert_eq!(decide(&short, &mut state, &running(8), secs(3)).desired, 0);
    let woken = Observation { waiting: 1, ..SEEN };
    assert_eq!(decide(&short, &mut state, &woken, secs(4)).desired, 1);
}

#[test]
fn a_restart_does_not_shrink_what_is_busy() {
    let mut state = State::new(8, secs(100));
    state.record(&policy(), 20.0, 0.0, secs(101));
    let seen = Observation {
        in_flight: 20,
        ..running(8)
    };
    let first = decide(&policy(), &mut state, &seen, secs(101));
    assert_eq!((first.desired, first.reason), (8, Reason::PanicHold));
}

#[test]
fn initial_pods_stay_for_the_delay() {
    let policy = Policy {
        down_delay: secs(30),
        ..policy()
    };
    let mut state = State::new(0, secs(0));
    let new = Observation {
        initial: 3,
        ..running(1)
    };
    assert_eq!(decide(&policy, &mut state, &new, secs(2)).desired, 3);
    let had = decide(&policy, &mut state, &running(3), secs(4));
    assert_eq!((had.desired, had.reason), (3, Reason::DownDelay));
    assert_eq!(
        decide(&policy, &mut state, &running(3), secs(34)).desired,
        1
    );
}

#[test]
fn time_that_goes_backwards_changes_nothing() {
    let mut state = State::new(0, secs(100));
    let decision = decide(&policy(), &mut state, &running(1), secs(50));
    assert_eq!((decision.desired, decision.again_in), (1, Some(secs(60))));
    assert_eq!(state.last_active, secs(100));
}

/// Runs a load, a value a second, against pods that start at once; returns the counts.
fn simulate(policy: &Policy, load: impl IntoIterator<Item = f64>) -> Vec<u32> {
    let mut state = State::new(0, secs(0));
    let mut pods = 0;
    let mut counts = Vec::new();
    for (second, load) in (1..).zip(load) {
        state.record(policy, load, load, secs(second));
        let seen = Observation {
            in_flight: load.ceil() as u32,
            ..running(pods)
        };
        pods = decide(policy, &mut state, &seen, secs(second)).desired;
        counts.push(pods);
    }
    counts
}

fn policies() -> impl Strategy<Value = Policy> {
    let rates = (1.1f64..1000.0, 1.1f64..10.0, 1.1f64..10.0);
    let times = (6u64..120, 1u64..7, 0u64..60, 1u64..90);
    (
        0u32..5,
        0u32..30,
        1u32..4,
        0.5f64..20.0,
        rates,
        times,
        any::<bool>(),
    )
        .prop_map(
            |(
                min,
                above,
                activation,
                target,
                (up, down, threshold),
                (window, panic, delay, idle),
                weighted,
            )| Policy {
                min,
                max: (min + above).max(1),
                activation,
                target,
                max_up_rate: up,
                max_down_rate: down,
                panic_threshold: threshold,
                window: secs(window),
                panic_window: secs(panic.min(window)),
                down_delay: secs(delay),
                idle_after: secs(idle),
                aggregation: if weighted {
                    Aggregation::Weighted
                } else {
                    Aggregation::Linear
                },
                ..Policy::default()
            },
        )
}

proptest! {
    #[test]
    fn stays_in_bounds_and_serves_whoever_waits(
        policy in policies(), load in prop::collection::vec(0.0f64..200.0, 1..200),
    ) {
        for (count, load) in simulate(&policy, load.clone()).into_iter().zip(load) {
            prop_assert!(count >= policy.min && count <= policy.max);
            prop_assert!(load <= 0.0 || count >= 1);
        }
    }

    #[test]
    fn more_load_never_gives_fewer_pods(
        policy in policies(), ready in 0u32..40, stable in 0.0f64..500.0, panic in 0.0f64..500.0, more in 0.0f64..100.0,
    ) {
        let count = |load| scale::Memory::new(ready, secs(0)).scale(&policy, load, ready, secs(1)).count;
        let (less, greater) = (Load { stable, panic }, Load { stable: stable + more, panic: panic + more });
        prop_assert!(count(less) <= count(greater));
    }

    #[test]
    fn a_steady_load_settles_whatever_its_phase(
        load in 0.1f64..100.0, before in prop::collection::vec(0.0f64..100.0, 0..30), weighted in any::<bool>(),
    ) {
        let aggregation = if weighted { Aggregation::Weighted } else { Aggregation::Linear };
        let policy = Policy { target: 5.0, max: 100, aggregation, ..Policy::default() };
        let settled = 2 * 60 + 2;
        let counts = simulate(&policy, before.iter().copied().chain(std::iter::repeat_n(load, settled + 200)));
        let steady = &counts[before.len() + settled..];
        prop_assert!(steady.iter().all(|c| *c == steady[0]), "{steady:?}");
        prop_assert_eq!(steady[0], (load / 3.5).ceil() as u32);
    }

    #[test]
    fn gaps_and_clock_steps_do_not_panic(
        policy in policies(), steps in prop::collection::vec((0u64..10_000, 0.0f64..100.0, 0u32..20), 1..100),
    ) {
        let mut state = State::new(0, secs(5_000));
        for (now, load, ready) in steps {
            state.record(&policy, load, load, secs(now));
            let seen = Observation { in_flight: load as u32, ..running(ready) };
            let decision = decide(&policy, &mut state, &seen, secs(now));
            prop_assert!(decision.desired <= policy.max);
        }
    }
}
