//! Knative's own rows (`autoscaler_test.go`), with its numbers. What they say of activators in and out of the path, and of
//! revisions that nobody can reach any more, does not apply here: those are drained to zero without a decision.

use super::*;

/// As Knative's tests set it up: rates of 10, a panic at twice the pods, a utilization of 3/4 of which the target makes `aim`.
fn policy(aim: f64) -> Policy {
    Policy {
        target: aim,
        utilization: 1.0,
        max_up_rate: 10.0,
        max_down_rate: 10.0,
        ..Policy::default()
    }
}

struct Case {
    policy: Policy,
    memory: Memory,
}

/// When the rows begin.
const T0: u64 = 1_000;

impl Case {
    fn new(policy: Policy) -> Self {
        Self {
            policy,
            memory: Memory::new(1, Duration::from_secs(T0)),
        }
    }

    fn panicking(mut self, peak: u32) -> Self {
        self.memory = Memory {
            panicking: Some(Duration::from_secs(T0)),
            panic_peak: peak,
            ..Memory::default()
        };
        self
    }

    #[track_caller]
    fn row(
        &mut self,
        seconds: f64,
        (stable, panic): (f64, f64),
        ready: u32,
        count: u32,
        panics: bool,
    ) -> Reason {
        let now = Duration::from_secs(T0) + Duration::from_secs_f64(seconds);
        let scaled = self
            .memory
            .scale(&self.policy, Load { stable, panic }, ready, now);
        assert_eq!(
            (scaled.count, self.memory.is_panicking()),
            (count, panics),
            "{scaled:?}"
        );
        scaled.reason
    }
}

fn since(case: &Case) -> u64 {
    case.memory.panicking.unwrap().as_secs() - T0
}

#[test]
fn grows_with_the_stable_window() {
    assert_eq!(
        Case::new(policy(10.0)).row(0.0, (50.0, 10.0), 1, 5, false),
        Reason::Stable
    );
    Case::new(policy(10.0)).row(0.0, (100.0, 10.0), 1, 10, false);
    Case::new(policy(181.0)).row(0.0, (21.0, 26.0), 1, 1, false);
    Case::new(policy(10.0)).row(0.0, (50.0, 50.0), 5, 5, false);
}

#[test]
fn requests_per_second_are_decided_alike() {
    let mut case = Case::new(Policy {
        metric: crate::Metric::Rps,
        ..policy(10.0)
    });
    case.row(0.0, (50.0, 50.0), 1, 5, true);
    case.row(0.0, (100.0, 99.0), 1, 10, true);
}

#[test]
fn a_slow_rise_panics_and_calms_down() {
    let mut case = Case::new(policy(1.0));
    case.row(0.0, (11.0, 25.0), 10, 25, true);
    case.row(30.0, (30.0, 41.0), 40, 41, true);
    assert_eq!(since(&case), 0);
    case.row(62.0, (50.0, 56.0), 55, 50, false);
}

#[test]
fn a_panic_is_prolonged() {
    let mut case = Case::new(policy(1.0));
    case.row(0.0, (11.0, 25.0), 10, 25, true);
    case.row(30.0, (30.0, 80.0), 40, 80, true);
    assert_eq!(since(&case), 30);
}

#[test]
fn falls_with_the_load() {
    let mut case = Case::new(policy(10.0));
    case.row(0.0, (100.0, 100.0), 8, 10, false);
    case.row(0.0, (50.0, 50.0), 8, 5, false);
    let mut case = Case::new(policy(10.0));
    case.row(0.0, (1.0, 0.0), 1, 1, false);
    case.row(0.0, (0.0, 0.0), 1, 0, false);
}

#[test]
fn activation_is_the_least_that_starts() {
    let mut case = Case::new(Policy {
        activation: 2,
        ..policy(10.0)
    });
    case.row(0.0, (0.0, 0.0), 1, 0, false);
    assert_eq!(case.row(0.0, (1.0, 0.0), 1, 2, false), Reason::Activation);
}

#[test]
fn grows_exponentially() {
    let mut case = Case::new(policy(1.0));
    for (load, ready, count) in [
        (6.0, 1, 6),
        (36.0, 6, 36),
        (216.0, 36, 216),
        (1296.0, 216, 1296),
        (1296.0, 1296, 1296),
    ] {
        case.row(0.0, (load, load), ready, count, true);
    }
}

#[test]
fn a_panic_takes_the_greater_window() {
    Case::new(policy(10.0)).row(0.0, (50.0, 49.0), 1, 5, true);
    Case::new(policy(1.0))
        .panicking(5)
        .row(0.0, (50.0, 30.0), 5, 50, true);
    Case::new(policy(1.0))
        .panicking(5)
        .row(0.0, (20.0, 30.0), 5, 30, true);
    assert_eq!(
        Case::new(policy(10.0)).row(0.0, (50.0, 100.0), 1, 10, true),
        Reason::Panic
    );
}

#[test]
fn rates_bound_both_ways() {
    let up = Policy {
        max_up_rate: 1.1,
        ..policy(1.0)
    };
    assert_eq!(
        Case::new(up).row(0.0, (3.0, 3.1), 2, 3, true),
        Reason::Stable
    );
    let down = Policy {
        max_down_rate: 1.1,
        ..policy(10.0)
    };
    assert_eq!(
        Case::new(down).row(0.0, (1.0, 1.0), 100, 90, false),
        Reason::DownRate
    );
    let mut case = Case::new(policy(10.0));
    assert_eq!(case.row(0.0, (1000.0, 1001.0), 1, 10, true), Reason::UpRate);
    case.row(0.0, (1000.0, 1001.0), 10, 100, true);
    let mut case = Case::new(policy(10.0));
    case.row(0.0, (1.0, 1.0), 100, 10, false);
    case.row(1.9, (1.0, 1.0), 10, 10, false);
    case.row(2.0, (1.0, 1.0), 10, 1, false);
}

#[test]
fn a_panic_never_lowers_and_then_releases() {
    let mut case = Case::new(policy(10.0));
    case.row(0.0, (100.0, 100.0), 1, 10, true);
    case.row(0.0, (100.0, 1000.0), 10, 100, true);
    assert_eq!(case.row(30.0, (1.0, 1.0), 10, 100, true), Reason::PanicHold);
    case.row(61.0, (1.0, 1.0), 10, 1, false);
}

#[test]
fn no_pods_count_as_one() {
    Case::new(policy(10.0)).row(0.0, (1000.0, 888.0), 0, 10, true);
}

#[test]
fn a_changed_target_counts_at_once() {
    let mut case = Case::new(policy(10.0));
    case.row(0.0, (100.0, 101.0), 1, 10, true);
    case.policy = policy(1.0);
    case.row(0.0, (100.0, 101.0), 10, 100, true);
}

#[test]
fn begins_in_a_panic_only_with_several_pods() {
    let begins = |ready| {
        let memory = Memory::new(ready, Duration::ZERO);
        (memory.is_panicking(), memory.panic_peak)
    };
    assert_eq!([0, 1, 2].map(begins), [(false, 0), (false, 0), (true, 2)]);
}

/// The rows of a delay of five minutes.
#[test]
fn a_delay_holds_the_greatest_count() {
    let five_minutes = Policy {
        panic_threshold: 100.0,
        down_delay: Duration::from_secs(300),
        ..policy(10.0)
    };
    let mut case = Case::new(five_minutes);
    let mut row = |at: f64, load: f64, count| case.row(at, (load, load), 1, count, false);
    row(2.0, 40.0, 4);
    assert_eq!(row(300.0, 0.0, 4), Reason::DownDelay);
    row(302.0, 0.0, 0);
    row(540.0, 40.0, 4);
    row(600.0, 30.0, 4);
    row(660.0, 0.0, 4);
    row(840.0, 0.0, 3);
    row(900.0, 0.0, 0);
    let mut at_once = Case::new(Policy {
        panic_threshold: 100.0,
        ..policy(10.0)
    });
    at_once.row(0.0, (40.0, 40.0), 1, 4, false);
    at_once.row(0.5, (20.0, 20.0), 1, 2, false);
}

#[test]
fn a_load_that_trembles_on_the_edge_changes_the_count_once() {
    let tolerant = Policy {
        panic_threshold: 100.0,
        down_tolerance: 0.05,
        ..policy(10.0)
    };
    let mut case = Case::new(tolerant);
    let mut row =
        |at: f64, load: f64, ready, count| case.row(at, (load, load), ready, count, false);
    row(0.0, 30.0, 3, 3);
    row(2.0, 30.2, 3, 4);
    assert_eq!(row(4.0, 29.8, 4, 4), Reason::DownTolerance);
    row(6.0, 30.2, 4, 4);
    row(8.0, 28.6, 4, 4);
    assert_eq!(row(10.0, 28.4, 4, 3), Reason::Stable);
    // What is left while pods go does not raise the count again.
    row(12.0, 28.4, 4, 3);
    row(14.0, 0.0, 3, 0);
}
