//! A work queue of Functions: each key waits at most once, is worked on by one worker at a time, and can be due later.
//! The design is client-go's work queue.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use crds::names::FunctionKey;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// The queue. Its size is bounded by the number of Functions.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    ready: VecDeque<FunctionKey>,
    states: HashMap<FunctionKey, State>,
    due: BTreeSet<(Instant, FunctionKey)>,
    due_of: HashMap<FunctionKey, Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Running,
    /// Running, and added again meanwhile.
    RunningAgain,
}

impl Queue {
    /// Adds a key to be worked on now.
    pub fn add(&self, key: &FunctionKey) {
        self.inner.lock().add(key);
        self.changed.notify_one();
    }

    /// Adds a key to be worked on after `wait`, unless it is due earlier anyway.
    pub fn add_after(&self, key: &FunctionKey, wait: Duration) {
        self.inner.lock().add_at(key, Instant::now() + wait);
        self.changed.notify_one();
    }

    /// The next key, as soon as there is one. It must be given back with [`Queue::done`]. Cancellation-safe.
    pub async fn next(&self) -> FunctionKey {
        loop {
            let due = {
                let mut inner = self.inner.lock();
                inner.move_due(Instant::now());
                if let Some(key) = inner.ready.pop_front() {
                    inner.states.insert(key.clone(), State::Running);
                    if !inner.ready.is_empty() {
                        // One notification wakes one worker; hand it on.
                        self.changed.notify_one();
                    }
                    return key;
                }
                inner.due.first().map(|(at, _)| *at)
            };
            match due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Gives a key back. If it was added meanwhile it is ready again.
    pub fn done(&self, key: &FunctionKey) {
        let mut inner = self.inner.lock();
        if inner.states.remove(key) == Some(State::RunningAgain) {
            inner.add(key);
            drop(inner);
            self.changed.notify_one();
        }
    }
}

impl Inner {
    fn add(&mut self, key: &FunctionKey) {
        if let Some(at) = self.due_of.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
        match self.states.get_mut(key) {
            Some(State::Ready) => {}
            Some(state) => *state = State::RunningAgain,
            None => {
                self.states.insert(key.clone(), State::Ready);
                self.ready.push_back(key.clone());
            }
        }
    }

    fn add_at(&mut self, key: &FunctionKey, at: Instant) {
        if self.states.get(key) == Some(&State::Ready) {
            return;
        }
        match self.due_of.get(key) {
            Some(known) if *known <= at => return,
            Some(known) => {
                self.due.remove(&(*known, key.clone()));
            }
            None => {}
        }
        self.due_of.insert(key.clone(), at);
        self.due.insert((at, key.clone()));
    }

    fn move_due(&mut self, now: Instant) {
        while let Some((at, key)) = self.due.first().cloned() {
            if at > now {
                return;
            }
            self.add(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn key(name: &str) -> FunctionKey {
        FunctionKey::new("shop", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_runs_alone() {
        let queue = Queue::default();
        queue.add(&key("a"));
        queue.add(&key("a"));
        queue.add(&key("b"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(&key("a"));
        assert_eq!(queue.next().await, key("b"));
        assert_eq!(
            queue.next().now_or_never(),
            None,
            "a is still being worked on"
        );
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_time_wins() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after(&key("a"), Duration::from_secs(9));
        queue.add_after(&key("a"), Duration::from_secs(3));
        queue.add_after(&key("a"), Duration::from_secs(6));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done(&key("a"));
        assert_eq!(queue.next().now_or_never(), None);
    }
}
