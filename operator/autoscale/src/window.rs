//! Averages over the last seconds.

use std::time::Duration;

/// Length of a bucket: the grain of every window, as in Knative.
pub(crate) const GRAIN: Duration = Duration::from_secs(1);

/// What an exponential average may leave out of account: 0.01 %, as in Knative.
const NEGLIGIBLE: f64 = 1.0 - 0.9999;

/// The newest value never counts less than this, as in Knative.
const LEAST_WEIGHT: f64 = 0.2;

/// How the seconds of a window are weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Aggregation {
    /// All alike.
    #[default]
    Linear,
    /// Exponentially less with age ("weighted-exponential" in Knative).
    Weighted,
}

/// Values of the last `n` seconds, one bucket a second.
///
/// An empty window takes no heap memory, so that an idle Function costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Window {
    /// A ring: second `s` lies at `s % length`. Empty before the first record and after [`clear`](Self::clear).
    buckets: Vec<f64>,
    length: usize,
    /// Seconds of the first and the last record that count.
    first: u64,
    last: u64,
}

impl Window {
    /// An empty window of this length, rounded to seconds, at least one.
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            buckets: Vec::new(),
            length: buckets(length),
            first: 0,
            last: 0,
        }
    }

    /// Changes the length. What was recorded is kept as far as it fits.
    pub(crate) fn resize(&mut self, length: Duration) {
        let length = buckets(length);
        if length == self.length {
            return;
        }
        let mut resized = Self {
            length,
            ..Self::new(GRAIN)
        };
        if !self.buckets.is_empty() {
            let oldest = self
                .oldest()
                .max((self.last + 1).saturating_sub(length as u64));
            for second in oldest..=self.last {
                resized.set(second, self.at(second));
            }
        }
        *self = resized;
    }

    /// Sets the value of the second of `now`; one that is older than the window is dropped. Knative adds what several sources report in
    /// one second. Here the caller has added up the sources' newest reports, so that a report that comes a little early is not counted twice.
    pub(crate) fn record(&mut self, now: Duration, value: f64) {
        self.set(now.as_secs(), value);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.buckets = Vec::new();
    }

    /// Whether nothing was recorded within the window before `now`.
    pub(crate) fn is_empty(&self, now: Duration) -> bool {
        self.buckets.is_empty() || self.age(now) >= self.length
    }

    /// The average at `now`; 0 when the window is empty.
    pub(crate) fn average(&self, now: Duration, aggregation: Aggregation) -> f64 {
        if self.is_empty(now) {
            return 0.0;
        }
        let average = match aggregation {
            Aggregation::Linear => self.linear(now),
            Aggregation::Weighted => self.weighted(now),
        };
        // Knative's precision. It keeps the sum's rounding errors from becoming a pod more.
        (average * 1e6).round() / 1e6
    }

    /// The sum of what has not aged out over the seconds that there were; missing recent seconds are not taken for zeros.
    fn linear(&self, now: Duration) -> f64 {
        let age = self.age(now);
        let oldest = self
            .oldest()
            .max((self.last + 1 + age as u64).saturating_sub(self.length as u64));
        let sum: f64 = (oldest..=self.last).map(|s| self.at(s)).sum();
        let seen = self.last - self.first + 1;
        sum / seen.min((self.length - age) as u64) as f64
    }

    /// Newest first, each second by the factor 1 − c less. Missing recent seconds count as zeros.
    fn weighted(&self, now: Duration) -> f64 {
        let c = weight(self.length);
        let newest = self.last + self.age(now) as u64;
        let value = |second: u64| {
            if self.covers(second) {
                self.at(second)
            } else {
                0.0
            }
        };
        let (mut sum, mut factor) = (0.0, c);
        for back in 0..self.length as u64 {
            let Some(second) = newest.checked_sub(back) else {
                break;
            };
            sum += value(second) * factor;
            factor *= 1.0 - c;
        }
        sum
    }

    /// Seconds from the last record to `now`; 0 if `now` lies before it.
    fn age(&self, now: Duration) -> usize {
        usize::try_from(now.as_secs().saturating_sub(self.last)).unwrap_or(usize::MAX)
    }

    /// The oldest second that has a bucket.
    fn oldest(&self) -> u64 {
        self.first
            .max((self.last + 1).saturating_sub(self.length as u64))
    }

    fn covers(&self, second: u64) -> bool {
        !self.buckets.is_empty() && second <= self.last && second >= self.oldest()
    }

    fn index(&self, second: u64) -> usize {
        (second % self.length as u64) as usize
    }

    fn at(&self, second: u64) -> f64 {
        self.buckets[self.index(second)]
    }

    fn set(&mut self, second: u64, value: f64) {
        let length = self.length as u64;
        if self.buckets.is_empty() || second >= self.last.saturating_add(length) {
            // The first record, or the first after a whole window without any.
            self.buckets.clear();
            self.buckets.resize(self.length, 0.0);
            (self.first, self.last) = (second, second);
        } else if second > self.last {
            for skipped in self.last + 1..=second {
                let index = self.index(skipped);
                self.buckets[index] = 0.0;
            }
            self.last = second;
        } else if second + length <= self.last {
            return;
        }
        self.first = self.first.min(second);
        let index = self.index(second);
        self.buckets[index] = value;
    }
}

fn buckets(length: Duration) -> usize {
    let seconds = (length.as_secs_f64()).round().max(1.0);
    seconds as usize
}

/// Weight of the newest second of an exponential average over `n` seconds: such that those beyond the window would count for less than
/// [`NEGLIGIBLE`].
fn weight(n: usize) -> f64 {
    (1.0 - NEGLIGIBLE.powf(1.0 / n as f64)).max(LEAST_WEIGHT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 10_000;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(T0 as f64 + seconds)
    }

    fn window(values: &[(f64, f64)]) -> Window {
        let mut window = Window::new(Duration::from_secs(5));
        for (when, value) in values {
            window.record(at(*when), *value);
        }
        window
    }

    #[track_caller]
    fn assert_average(window: &Window, when: f64, wanted: f64) {
        let average = window.average(at(when), Aggregation::Linear);
        assert!(
            (average - wanted).abs() < 1e-6,
            "{average} instead of {wanted}"
        );
    }

    /// The rows of Knative's `bucketing_test.go` in their order.
    #[test]
    fn linear_average() {
        let mut w = window(&[(0.0, 1.0)]);
        assert_average(&w, 0.0, 1.0);
        for i in 1..5 {
            w.record(at(f64::from(i)), f64::from(i + 1));
        }
        assert_average(&w, 4.0, 3.0);
        assert_average(&w, 3.6, 3.0);
        assert_average(&w, 6.0, 4.0);
        assert_average(&w, 10.0, 0.0);
        w.record(at(6.0), 91.0);
        assert_average(&w, 6.0, (15.0 - 1.0 - 2.0 + 91.0) / 5.0);
        w.record(at(60.0), 1984.0);
        assert_average(&w, 60.0, 1984.0);
        w.record(at(57.0), 4.0);
        assert_average(&w, 60.0, (4.0 + 1984.0) / 4.0);
        w.record(at(61.0), 5.0);
        assert_average(&w, 61.0, (4.0 + 1984.0 + 5.0) / 5.0);
        w.record(at(58.0), 10.0);
        let full = (4.0 + 10.0 + 1984.0 + 5.0) / 5.0;
        assert_average(&w, 61.0, full);
        w.record(at(55.0), 10.0);
        w.record(at(56.0), 10.0);
        assert_average(&w, 61.0, full);
        w.record(at(66.0), 10.0);
        assert_average(&w, 66.0, 10.0);
    }

    #[test]
    fn late_records_count_from_the_first_one_on() {
        let descending: Vec<_> = (0..=8).rev().map(|s| (f64::from(s), 5.0)).collect();
        assert_average(&window(&descending), 5.0, 5.0);
    }

    #[test]
    fn of_several_in_one_second_the_last_counts() {
        assert_average(&window(&[(0.1, 2.0), (0.9, 3.0)]), 0.95, 3.0);
    }

    #[test]
    fn weighted_average() {
        let values: Vec<_> = (0..6).map(|i| (f64::from(i), f64::from(i + 1))).collect();
        let average = window(&values).average(at(5.0), Aggregation::Weighted);
        assert!((average - 5.812).abs() < 1e-3, "{average}");
    }

    #[test]
    fn weights_by_length() {
        for (n, wanted) in [
            (5, 0.8415),
            (6, 0.7846),
            (30, 0.2644),
            (40, 0.2057),
            (42, 0.2),
            (60, 0.2),
        ] {
            assert!(
                (weight(n) - wanted).abs() < 1e-4,
                "{n}: {} instead of {wanted}",
                weight(n)
            );
        }
    }

    #[test]
    fn a_changed_length_keeps_what_fits() {
        let values: Vec<_> = (0..5).map(|i| (f64::from(i), f64::from(i + 1))).collect();
        let mut w = window(&values);
        w.resize(Duration::from_secs(2));
        assert_average(&w, 4.0, 4.5);
        w.resize(Duration::from_secs(60));
        assert_average(&w, 4.0, 4.5);
        w.record(at(5.0), 9.0);
        assert_average(&w, 5.0, 6.0);
    }

    #[test]
    fn empty_before_the_first_record_and_after_a_window_without_any() {
        let w = Window::new(Duration::from_secs(5));
        assert!(w.is_empty(at(0.0)));
        let w = window(&[(0.0, 1.0)]);
        assert!(!w.is_empty(at(4.0)));
        assert!(w.is_empty(at(5.0)));
    }
}
