//! How often something may happen: statuses and Events are for people, and each one costs the API server as much as a start from zero that a
//! request waits for. Where many Functions change at once the starts go first, and people hear of them a little later.

use std::{collections::HashSet, time::Duration};

use crds::names::FunctionKey;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::queue::Queue;

/// Writes a second, over all Functions: client-go's default of 20, which is what the controllers of a cluster are used to. Its burst of 30 is too much:
/// at a hundred starts from zero a second the statuses of the first ones came all at once, and those that started beside them took ten times as long.
/// Five are what the start of one Function writes.
const PERIOD: Duration = Duration::from_millis(50);
const BURST: u32 = 5;

/// A bucket of tokens.
#[derive(Debug)]
pub struct Pace {
    /// When the bucket will be full again, if nobody takes from it.
    full_at: Mutex<Instant>,
}

impl Pace {
    /// A full bucket.
    pub fn new(now: Instant) -> Self {
        Self {
            full_at: Mutex::new(now),
        }
    }

    /// Takes a token, or says after how long there will be one.
    ///
    /// # Errors
    /// The wait, if there is none.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut full_at = self.full_at.lock();
        let after = (*full_at).max(now) + PERIOD;
        let missing = after.duration_since(now).saturating_sub(PERIOD * BURST);
        if missing > Duration::ZERO {
            return Err(missing);
        }
        *full_at = after;
        Ok(())
    }

    /// Waits for a token and takes it. Nothing is taken if this is dropped before.
    pub async fn wait(&self) {
        while let Err(missing) = self.take(Instant::now()) {
            tokio::time::sleep(missing).await;
        }
    }
}

/// Functions whose status waits for its turn.
#[derive(Debug)]
pub struct Statuses {
    pace: Pace,
    waiting: Queue,
    /// It is their turn, so that their next status is written.
    turn: Mutex<HashSet<FunctionKey>>,
}

impl Statuses {
    /// Nobody waits.
    pub fn new(now: Instant) -> Self {
        Self {
            pace: Pace::new(now),
            waiting: Queue::default(),
            turn: Mutex::default(),
        }
    }

    /// Whether a status may be written now. If not, the Function gets its turn and is reconciled again then, when its status may say something newer.
    pub fn may_write(&self, key: &FunctionKey, now: Instant) -> bool {
        let may = self.turn.lock().remove(key) || self.pace.take(now).is_ok();
        if !may {
            self.waiting.add(key);
        }
        may
    }

    /// A turn is over with the reconcile that it was given for, whether that had something to write or not: the Function may be gone.
    pub fn end_turn(&self, key: &FunctionKey) {
        self.turn.lock().remove(key);
    }

    /// Gives turns for ever, by adding whose turn it is to `reconcile`.
    pub async fn run(&self, reconcile: &Queue) {
        loop {
            let key = self.waiting.next().await;
            self.pace.wait().await;
            self.turn.lock().insert(key.clone());
            reconcile.add(&key);
            self.waiting.done(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_each_waits_its_turn() {
        let now = Instant::now();
        let pace = Pace::new(now);
        for _ in 0..BURST {
            assert_eq!(pace.take(now), Ok(()));
        }
        assert_eq!(pace.take(now), Err(PERIOD));
        assert_eq!(pace.take(now + PERIOD), Ok(()));
        assert_eq!(pace.take(now + PERIOD), Err(PERIOD));
        let later = now + Duration::from_secs(60);
        let free = (0..100).filter(|_| pace.take(later).is_ok()).count();
        assert_eq!(free, BURST as usize, "a bucket holds no more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_that_may_not_be_written_gets_its_turn_once() {
        let (statuses, reconcile) = (Statuses::new(Instant::now()), Queue::default());
        let key = |n: u32| FunctionKey::new("shop", format!("f{n}"));
        let start = Instant::now();
        for n in 0..BURST {
            assert!(statuses.may_write(&key(n), start));
        }
        for _ in 0..3 {
            assert!(!statuses.may_write(&key(99), start));
        }
        tokio::select! {
            () = statuses.run(&reconcile) => {}
            due = reconcile.next() => assert_eq!(due, key(99)),
        }
        assert_eq!(start.elapsed(), PERIOD);
        assert!(statuses.may_write(&key(99), Instant::now()));
        assert!(
            !statuses.may_write(&key(99), Instant::now()),
            "one turn is one status"
        );
        statuses.turn.lock().insert(key(7));
        statuses.end_turn(&key(7));
        assert!(
            !statuses.may_write(&key(7), Instant::now()),
            "a turn that was not used is over"
        );
    }
}
