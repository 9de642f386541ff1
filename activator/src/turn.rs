//! Whose turn it is while a request's body is on its way: the client's, to send more of it, or the pod's, to take it and to answer. What a slow client takes is
//! not the pod's time.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Shared by a body, which may be read in a task of its own, and by whoever waits for the answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn(Arc<Mutex<Whose>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Client,
    /// Since the client sent what the pod waited for; `None` if that never had to wait.
    Pod(Option<Instant>),
}

impl Default for Whose {
    fn default() -> Self {
        Self::Pod(None)
    }
}

impl Turn {
    /// Somebody has asked for more of the body, and waits for it or does not.
    pub(crate) fn asked(&self, waits: bool) {
        let mut whose = self.0.lock();
        match (*whose, waits) {
            (_, true) => *whose = Whose::Client,
            (Whose::Client, false) => *whose = Whose::Pod(Some(Instant::now())),
            (Whose::Pod(_), false) => {}
        }
    }

    pub(crate) fn whose(&self) -> Whose {
        *self.0.lock()
    }
}
