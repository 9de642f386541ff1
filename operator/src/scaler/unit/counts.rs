//! Counts that were written and that the watch does not show yet.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::observe::Entry;

/// First and longest wait after a failed write.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Why a write did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The object has changed since the decision; the watch brings what is new.
    Conflict,
    /// This replica no longer leads.
    Deposed,
    /// Anything else; it was logged.
    Error,
}

/// The counts of a Function's revisions.
#[derive(Debug, Default)]
pub struct Counts {
    written: BTreeMap<String, Written>,
    failures: u32,
    retry_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Written {
    replicas: u32,
    /// Version of the object after the write; `None` while it is under way.
    version: Option<String>,
}

impl Counts {
    /// Forgets what the watch has caught up with.
    pub fn observe(&mut self, entry: &Entry) {
        self.written.retain(|revision, written| {
            match (version(entry, revision), written.version.as_deref()) {
                (Some(seen), Some(version)) => !reaches(seen, version),
                (None, _) => false,
                (Some(_), None) => true,
            }
        });
    }

    /// Pods that a revision's Deployment asks for, by the last write or, once the watch has caught up, by what it shows.
    pub fn replicas(&self, entry: &Entry, revision: &str) -> u32 {
        let written = self.written.get(revision).map(|w| w.replicas);
        written.or_else(|| entry.replicas(revision)).unwrap_or(0)
    }

    /// The newest version of the revision's Deployment that is known: what a write builds on.
    pub fn version(&self, entry: &Entry, revision: &str) -> Option<String> {
        let written = self.written.get(revision).and_then(|w| w.version.clone());
        written.or_else(|| version(entry, revision).map(String::from))
    }

    /// Whether the watch has not yet shown the last write to this revision.
    pub fn is_unseen(&self, revision: &str) -> bool {
        self.written.contains_key(revision)
    }

    /// Whether a write to this revision must wait for an earlier one.
    pub fn is_busy(&self, revision: &str, now: Instant) -> bool {
        let under_way = self
            .written
            .get(revision)
            .is_some_and(|w| w.version.is_none());
        under_way || self.retry_at.is_some_and(|at| at > now)
    }

    /// When to try again after a failure.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// A write begins.
    pub fn begin(&mut self, revision: &str, replicas: u32) {
        let version = None;
        self.written
            .insert(revision.into(), Written { replicas, version });
    }

    /// A write ended; `Ok` has the version of the object after it.
    pub fn end(
        &mut self,
        revision: &str,
        replicas: u32,
        result: Result<String, Failed>,
        now: Instant,
    ) {
        match result {
            Ok(version) => {
                (self.failures, self.retry_at) = (0, None);
                let version = Some(version);
                self.written
                    .insert(revision.into(), Written { replicas, version });
            }
            Err(failed) => {
                self.written.remove(revision);
                let wait = RETRY_FIRST * 2u32.saturating_pow(self.failures.min(10));
                // A conflict says that somebody else has written, not that writing fails.
                self.failures += u32::from(failed == Failed::Error);
                self.retry_at = Some(now + wait.min(RETRY_MAX));
            }
        }
    }
}

fn version<'a>(entry: &'a Entry, revision: &str) -> Option<&'a str> {
    entry
        .deployments
        .get(revision)?
        .metadata
        .resource_version
        .as_deref()
}

/// Whether resource version `seen` is `version` or later. Kubernetes promises since 1.35 that versions of one resource compare as
/// numbers, and etcd's always did; one that is no number counts as reached, since waiting for ever would be worse.
fn reaches(seen: &str, version: &str) -> bool {
    match (seen.parse::<u64>(), version.parse::<u64>()) {
        (Ok(seen), Ok(version)) => seen >= version,
        _ => true,
    }
}
