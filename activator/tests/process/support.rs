//! A small language for these tests: a `World` with an activator and an operator, `Backend`s, and clients.

pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod operator;
pub(crate) mod process;
pub(crate) mod tls;
pub(crate) mod told;
pub(crate) mod world;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything that must happen may take. Far more than it needs, so that a busy machine fails no test.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Waits until `check` gives something.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}
