//! Orderly ends: the signals that ask for one, and waiting for work with a deadline.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A token that is cancelled at the first SIGTERM or SIGINT. Call it inside the tokio runtime.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "shutting down");
        asked.cancel();
    });
    Ok(token)
}

/// How a [`drain`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every task finished by itself.
    Finished,
    /// The deadline passed and the remaining tasks were told to stop.
    Forced,
}

/// Waits until all tasks of `tasks` are done. When that takes longer than `within`, cancels `force`, which
/// the tasks must obey at once, and waits for them to do so. No task can be added to a finished drain's tracker.
pub async fn drain(tasks: &TaskTracker, within: Duration, force: &CancellationToken) -> Drained {
    tasks.close();
    if tokio::time::timeout(within, tasks.wait()).await.is_ok() {
        return Drained::Finished;
    }
    tracing::warn!(
        tasks = tasks.len(),
        ?within,
        "drain deadline passed, forcing"
    );
    force.cancel();
    tasks.wait().await;
    Drained::Forced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_in_time_is_not_forced() {
        let (tasks, force) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(tokio::time::sleep(Duration::from_secs(5)));
        let outcome = drain(&tasks, Duration::from_secs(10), &force).await;
        assert_eq!(outcome, Drained::Finished);
        assert!(!force.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_never_ends_is_forced_at_the_deadline() {
        let (tasks, force) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(force.clone().cancelled_owned());
        let began = tokio::time::Instant::now();
        let outcome = drain(&tasks, Duration::from_secs(10), &force).await;
        assert_eq!(outcome, Drained::Forced);
        assert_eq!(began.elapsed(), Duration::from_secs(10));
    }
}
