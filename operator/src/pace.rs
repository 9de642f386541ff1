//! How often something may happen: statuses and Events are for people, and each one costs the API server as much as a start from zero that a
//! request waits for. Where many Functions change at once the starts go first, and people hear of them a little later.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Writes a second, over all Functions: client-go's default of 20 with its burst of 30, which is what the controllers of a cluster are used to.
const PERIOD: Duration = Duration::from_millis(50);
const BURST: u32 = 30;

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
}
