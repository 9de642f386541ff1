//! What a decision costs, and how often counts change under noisy loads: the reasons of the defaults. Needs no cluster.

use std::time::{Duration, Instant};

use autoscale::{Observation, Policy, State, decide};

const FUNCTIONS: usize = 10_000;

/// Prints both.
pub(super) fn run() {
    cost();
    println!(
        "\nan hour of a noisy load (requests arrive at random, each takes a second), target 10, utilization 70 %: changes of the count, most pods"
    );
    println!(
        "{:>22} {:>20} {:>20} {:>20} {:>20} {:>26}",
        "requests at once",
        "panic 6s, delay 0",
        "panic 1s, delay 0",
        "panic 1s, delay 30s",
        "panic 1s, delay 60s",
        "and a tolerance of 5 %"
    );
    for load in [5.0, 7.0, 14.0, 20.0, 50.0, 70.0, 140.0] {
        let cells = [
            (6, 0, 0.0),
            (1, 0, 0.0),
            (1, 30, 0.0),
            (1, 60, 0.0),
            (1, 60, 0.05),
        ];
        let cells = cells.map(|(panic, delay, tolerance)| {
            let (changes, most) = hour(load, panic, delay, tolerance);
            format!("{changes} changes, {most}")
        });
        println!(
            "{load:>22} {:>20} {:>20} {:>20} {:>20} {:>26}",
            cells[0], cells[1], cells[2], cells[3], cells[4]
        );
    }
}

fn cost() {
    let policy = Policy::default();
    let now = |s: u64| Duration::from_secs(s);
    let mut states: Vec<State> = (0..FUNCTIONS).map(|_| State::new(1, now(0))).collect();
    for second in 1..=60 {
        states
            .iter_mut()
            .for_each(|s| s.record(&policy, 250.0, 1000.0, now(second)));
    }
    let seen = Observation {
        replicas: 4,
        ready: 4,
        initial: 0,
        in_flight: 250,
        waiting: 0,
        complete: true,
    };
    let mut times: Vec<Duration> = (0..7)
        .map(|round| {
            let start = Instant::now();
            for state in &mut states {
                std::hint::black_box(decide(&policy, state, &seen, now(61 + round)));
            }
            start.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "decide for {FUNCTIONS} busy Functions: {:?} (median of 7; bar 10 ms)",
        times[3]
    );
}

/// How often the count changes in an hour, and its most.
fn hour(load: f64, panic: u64, delay: u64, tolerance: f64) -> (usize, u32) {
    let policy = Policy {
        target: 10.0,
        max: 100,
        panic_window: Duration::from_secs(panic),
        down_delay: Duration::from_secs(delay),
        down_tolerance: tolerance,
        ..Policy::default()
    };
    let mut random = fastrand::Rng::with_seed(7);
    let mut state = State::new(0, Duration::ZERO);
    let (mut pods, mut changes, mut most) = (0, 0, 0);
    // Requests at once with a service time of a second: this second's average is half of this second's and half of the last one's arrivals.
    let mut before = load;
    for second in 1..=3_600u64 {
        let arrivals = poisson(&mut random, load);
        let now = Duration::from_secs(second);
        state.record(&policy, f64::midpoint(before, arrivals), arrivals, now);
        before = arrivals;
        let seen = Observation {
            replicas: pods,
            ready: pods,
            initial: 0,
            in_flight: 1,
            waiting: 0,
            complete: true,
        };
        let desired = decide(&policy, &mut state, &seen, now).desired;
        // The start is no change.
        if second > 120 {
            changes += usize::from(desired != pods);
            most = most.max(desired);
        }
        pods = desired;
    }
    (changes, most)
}

/// Knuth's method.
fn poisson(random: &mut fastrand::Rng, mean: f64) -> f64 {
    let (limit, mut product, mut count) = ((-mean).exp(), random.f64(), 0.0);
    while product > limit {
        product *= random.f64();
        count += 1.0;
    }
    count
}
