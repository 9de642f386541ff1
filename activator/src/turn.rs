//! Whose turn it is while a request's body is on its way: the client's, to send more of it, or the pod's, to take it and to answer. What a slow client takes is
//! not the pod's time.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Shared by a body, which may be read in a task of its own, and by whoever waits for the answer.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    state: Arc<Mutex<State>>,
    /// Whether it is known how long the body is.
    known: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nobody had to wait for the client.
    Begun,
    /// The client is waited for, since it sent the last of what it has.
    Waits(Instant),
    /// It has sent what was waited for.
    Sent(Instant),
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Client,
    /// Since the client sent the last of what it has; `None` if nobody had to wait for that.
    Pod(Option<Instant>),
}

impl Turn {
    /// That of a body, of which it is `known` or not how long it is.
    pub(crate) fn of(known: bool) -> Self {
        let state = Arc::new(Mutex::new(State::Begun));
        Self { state, known }
    }

    /// Somebody has asked for more of the body, and waits for it or does not.
    pub(crate) fn asked(&self, waits: bool) {
        let mut state = self.state.lock();
        match (*state, waits) {
            (State::Waits(_), true) | (State::Begun | State::Sent(_), false) => {}
            (State::Begun | State::Sent(_), true) => *state = State::Waits(Instant::now()),
            (State::Waits(_), false) => *state = State::Sent(Instant::now()),
        }
    }

    /// Whose turn it is. Whoever does not say how much is to come may want to hear the pod before it sends more, so that has the turn.
    pub(crate) fn whose(&self) -> Whose {
        match *self.state.lock() {
            State::Begun => Whose::Pod(None),
            State::Waits(_) if self.known => Whose::Client,
            State::Waits(since) | State::Sent(since) => Whose::Pod(Some(since)),
        }
    }
}
