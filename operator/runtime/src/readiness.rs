//! Readiness as a set of named guards: a process is ready when none is held.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// What a process still waits for. Clones share one set.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// How many guards of each name are held.
    held: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Readiness {
    /// Makes the process unready until the guard is dropped. `name` says what is missing.
    #[must_use = "the process is unready only while the guard lives"]
    pub fn guard(&self, name: &'static str) -> Guard {
        *self.held.lock().entry(name).or_insert(0) += 1;
        Guard {
            readiness: self.clone(),
            name,
        }
    }

    /// The names of all held guards; empty means ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.held.lock().keys().copied().collect()
    }
}

/// Keeps the process unready until dropped.
#[derive(Debug)]
pub struct Guard {
    readiness: Readiness,
    name: &'static str,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = self.readiness.held.lock();
        if let Some(count) = held.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                held.remove(self.name);
            }
        }
        if held.is_empty() {
            tracing::info!("ready");
        } else {
            let missing: Vec<_> = held.keys().collect();
            tracing::info!(?missing, "not ready yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_guard_is_dropped() {
        let readiness = Readiness::default();
        let first = readiness.guard("control");
        let second = readiness.guard("control");
        let other = readiness.guard("listeners");
        assert_eq!(readiness.missing(), ["control", "listeners"]);
        drop(first);
        drop(other);
        assert_eq!(readiness.missing(), ["control"]);
        drop(second);
        assert!(readiness.missing().is_empty());
    }
}
