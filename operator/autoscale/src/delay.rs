//! The greatest value of the last while: how a scale-down delay holds a count.

use std::{collections::VecDeque, time::Duration};

/// Length of a slot, as in Knative.
const SLOT: Duration = Duration::from_secs(2);

/// The greatest of the values of the last slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlidingMax {
    /// Slots and values, both strictly in order: a later slot has a smaller value, since an earlier smaller one can never be the greatest again.
    values: VecDeque<(u64, u32)>,
}

impl SlidingMax {
    /// Notes `value` at `now` and returns the greatest of the last `delay`, at least of this slot.
    pub(crate) fn record(&mut self, now: Duration, delay: Duration, value: u32) -> u32 {
        let slots = delay.as_millis().div_ceil(SLOT.as_millis()).max(1);
        // Time that goes backwards counts as standing still.
        let slot = (now.as_secs() / SLOT.as_secs()).max(self.values.back().map_or(0, |(s, _)| *s));
        self.slide(slot, u64::try_from(slots).unwrap_or(u64::MAX), value)
    }

    fn slide(&mut self, slot: u64, slots: u64, value: u32) -> u32 {
        while self
            .values
            .front()
            .is_some_and(|(s, _)| s.saturating_add(slots) <= slot)
        {
            self.values.pop_front();
        }
        while self.values.back().is_some_and(|(_, v)| *v <= value) {
            self.values.pop_back();
        }
        if self.values.back().is_none_or(|(s, _)| *s < slot) {
            self.values.push_back((slot, value));
        }
        self.values.front().map_or(value, |(_, v)| *v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(values: &[(u64, u32)]) -> Vec<u32> {
        let mut max = SlidingMax::default();
        values
            .iter()
            .map(|(slot, value)| max.slide(*slot, 5, *value))
            .collect()
    }

    /// Rows of Knative's `max/window_test.go`.
    #[test]
    fn table() {
        let mixed = [5, 8, 5, 7, 5, 5, 1, 4, 4, 4, 4, 9, 3, 4, 2, 1, 0];
        let slots: Vec<_> = (0..).zip(mixed).collect();
        assert_eq!(
            run(&slots),
            [5, 8, 8, 8, 8, 8, 7, 7, 5, 5, 4, 9, 9, 9, 9, 9, 4]
        );
        let ascending: Vec<_> = (1..=7).map(|v| (0, v)).collect();
        assert_eq!(run(&ascending), [1, 2, 3, 4, 5, 6, 7]);
        let descending: Vec<_> = (1..=7).rev().map(|v| (0, v)).collect();
        assert_eq!(run(&descending), [7; 7]);
        assert_eq!(run(&[(0, 6), (1, 5), (2, 2), (6, 1)]), [6, 6, 6, 2]);
    }
}
