//! Letting starts from zero go first: while one is being written, what nobody waits for holds back.
//!
//! A status is read by people; a start from zero has a request waiting for it. Both cost the API server, and on a small one dozens of statuses that change
//! at once would make the starts wait.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// Longest time that anything holds back, so that statuses are told even where Functions start all the time.
const AT_MOST: Duration = Duration::from_secs(1);

/// Whether something urgent is going on.
#[derive(Debug, Default)]
pub struct Calm {
    urgent: AtomicUsize,
    calm: Notify,
}

/// Something urgent is going on for as long as this lives.
#[derive(Debug)]
pub struct Urgent(Arc<Calm>);

impl Calm {
    /// Something urgent begins.
    pub fn urgent(self: &Arc<Self>) -> Urgent {
        self.urgent.fetch_add(1, Ordering::Relaxed);
        Urgent(self.clone())
    }

    /// Waits until nothing urgent is going on, but not for long.
    pub async fn wait(&self) {
        let calm = async {
            let mut notified = pin!(self.calm.notified());
            loop {
                // Enabled before the look, so that what ends in between is not missed.
                notified.as_mut().enable();
                if self.urgent.load(Ordering::Relaxed) == 0 {
                    return;
                }
                notified.as_mut().await;
                notified.set(self.calm.notified());
            }
        };
        // Too long: go on all the same.
        let _ = timeout(AT_MOST, calm).await;
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if self.0.urgent.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.calm.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_what_is_urgent_but_not_for_ever() {
        let calm = Arc::new(Calm::default());
        let start = Instant::now();
        calm.wait().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        let (one, two) = (calm.urgent(), calm.urgent());
        let ended = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(one);
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(two);
        });
        calm.wait().await;
        assert_eq!(start.elapsed(), Duration::from_millis(10));
        ended.await.unwrap();
        let _endless = calm.urgent();
        calm.wait().await;
        assert_eq!(start.elapsed(), Duration::from_millis(10) + AT_MOST);
    }
}
