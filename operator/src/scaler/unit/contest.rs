//! Others who change counts: an HPA, a GitOps tool, a person with `kubectl scale`.
//!
//! The scaler puts a count back once. Who changes it again within [`QUIET`] means it, and two who correct each other would write for
//! ever; so from then on the count is left to the other, except that a request that waits with no pod at all still starts one.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    observe::Entry,
    scaler::{targets::Targets, unit::counts::Counts},
};

/// After so long without a change by somebody else the count is the scaler's again.
const QUIET: Duration = Duration::from_secs(600);

/// Least time between two starts from zero against the other's will.
const FORCED_EVERY: Duration = Duration::from_secs(10);

/// A change by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision.
    pub revision: String,
    /// Count before.
    pub from: u32,
    /// Count after.
    pub to: u32,
    /// Field manager that made it.
    pub manager: String,
    /// Whether the count is left to it from now on.
    pub yields: bool,
}

/// What is known of others who change a Function's counts.
#[derive(Debug, Default)]
pub struct Contest {
    /// The count that each revision had when it last was looked at or written.
    known: BTreeMap<String, u32>,
    other: Option<Other>,
}

#[derive(Debug)]
struct Other {
    change: Change,
    at: Instant,
    forced: Option<Instant>,
}

impl Contest {
    /// Compares the counts with those that are known; returns a change that somebody else has made since the last look.
    pub fn observe(&mut self, entry: &Entry, counts: &Counts, now: Instant) -> Option<Change> {
        if self.over_at().is_some_and(|at| at <= now) {
            self.other = None;
        }
        self.known
            .retain(|revision, _| entry.deployments.contains_key(revision));
        let mut found = None;
        for revision in entry.deployments.keys() {
            let Some(to) = entry
                .replicas(revision)
                .filter(|_| !counts.is_unseen(revision))
            else {
                continue;
            };
            let from = self.known.insert(revision.clone(), to);
            if let (Some(from), Some(manager)) = (
                from.filter(|from| *from != to),
                entry.foreign_scaler(revision),
            ) {
                let before = self.other.as_ref().map(|o| &o.change);
                let yields =
                    before.is_some_and(|b| b.revision == *revision && b.manager == manager);
                let (revision, manager) = (revision.clone(), manager.to_owned());
                found = Some(Change {
                    revision,
                    from,
                    to,
                    manager,
                    yields,
                });
            }
        }
        if let Some(change) = &found {
            let (change, at) = (change.clone(), now);
            let forced = self.other.take().and_then(|o| o.forced);
            self.other = Some(Other { change, at, forced });
        }
        found
    }

    /// The scaler has begun to write a count, or has failed to and so the former one stays.
    pub fn wrote(&mut self, revision: &str, replicas: u32) {
        self.known.insert(revision.into(), replicas);
    }

    /// Leaves a contested count as it is, unless a request waits and nothing runs.
    pub fn yield_to(
        &mut self,
        targets: &mut Targets,
        replicas: impl Fn(&str) -> u32,
        waiting: bool,
        now: Instant,
    ) {
        let Some(other) = self.other.as_mut().filter(|o| o.change.yields) else {
            return;
        };
        let Some(target) = targets.get_mut(&other.change.revision) else {
            return;
        };
        let count = replicas(&other.change.revision);
        let may_force = other.forced.is_none_or(|at| now - at >= FORCED_EVERY);
        if waiting && count == 0 && target.replicas > 0 && may_force {
            other.forced = Some(now);
        } else {
            target.replicas = count;
        }
    }

    /// When the count is the scaler's again, if it is contested.
    pub fn over_at(&self) -> Option<Instant> {
        self.other.as_ref().map(|other| other.at + QUIET)
    }

    /// Who changes the count and what comes of it, for people.
    pub fn message(&self) -> Option<String> {
        self.other.as_ref().map(|other| other.change.message())
    }
}

impl Change {
    /// What happened and what comes of it, for people.
    pub fn message(&self) -> String {
        let Self {
            revision,
            from,
            to,
            manager,
            yields,
        } = self;
        let minutes = QUIET.as_secs() / 60;
        let then = if *yields {
            format!(
                "this was not the first time, so Ebb leaves the count to it until it has changed nothing for {minutes} minutes; only a request that waits with no pod at all still starts one"
            )
        } else {
            "Ebb goes on with its own count; to keep pods running set scale.min, to bound them scale.max".into()
        };
        format!(
            "field manager {manager:?} changed the count of {revision} from {from} to {to}: {then}"
        )
    }
}
