//! What the scaler remembers of one Function, and what follows from it. Pure: time and all that is seen are arguments.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crds::control::Startup;
use tokio::time::Instant;

use crate::{
    fleet::SessionId,
    observe::{Entry, ObservedPod},
    scaler::targets::{self, Targets},
};

/// How long a replica that does not hold the lease leaves a wake to the one that does.
const LEADER_FIRST: Duration = Duration::from_secs(1);

/// How long pods that were scaled away may stay before they count as alive again. Kubernetes deletes them within milliseconds; if
/// it has not by then, a count was raised before the deletion, and they will stay.
const DOOMED_FOR: Duration = Duration::from_secs(10);

/// First and longest wait after a failed write.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// One Function's state in the scaler.
#[derive(Debug)]
pub struct Unit {
    state: autoscale::State,
    activity: HashMap<SessionId, Activity>,
    drain: Option<Drain>,
    last_drain: u64,
    doomed: BTreeMap<String, Instant>,
    written: BTreeMap<String, Written>,
    failures: u32,
    retry_at: Option<Instant>,
    wake: Option<Wake>,
}

#[derive(Clone, Copy, Debug)]
struct Activity {
    in_flight: u32,
    waiting: u32,
}

/// Pods that take no new request until they are scaled away, or the drain is cancelled.
#[derive(Debug)]
struct Drain {
    id: u64,
    pods: BTreeSet<String>,
    acknowledged: BTreeSet<SessionId>,
}

/// A count that was written, or is being written, and not yet seen in the watch.
#[derive(Clone, Debug)]
struct Written {
    replicas: u32,
    /// Version of the object after the write; `None` while it is under way.
    version: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Wake {
    since: Instant,
    scaled: Option<Instant>,
}

/// What a step sees besides the Function itself.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Now.
    pub now: Instant,
    /// When the process started; decisions' clock counts from here.
    pub epoch: Instant,
    /// Whether this replica holds the lease and may write.
    pub leader: bool,
    /// Activators that are connected.
    pub sessions: &'a BTreeSet<SessionId>,
    /// Whether an activator runs that is not connected: it may send requests that nobody here knows of, so nothing is taken away.
    pub strangers: bool,
    /// Milliseconds of the wall clock, from which drains get numbers that no earlier process used.
    pub unix_ms: u64,
}

/// What is to be done for a Function now.
#[derive(Debug, Default)]
pub struct Step {
    /// Counts to write, each to the Deployment of a revision.
    pub writes: Vec<Write>,
    /// When to look again although nothing was seen to change.
    pub again: Option<Instant>,
}

/// A count to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Name of the revision and Deployment.
    pub revision: String,
    /// Count before.
    pub from: u32,
    /// Count after.
    pub to: u32,
    /// Why, as a metric's label value.
    pub reason: &'static str,
    /// When the wake came that asks for this, if one did.
    pub woken: Option<Instant>,
    /// Pods that must go: they are the drained ones of a count that does not go to zero.
    pub victims: Vec<String>,
}

impl Unit {
    /// A Function first seen at `now`, which counts as its last activity: what it did before, nobody here knows.
    pub fn new(now: Instant, epoch: Instant) -> Self {
        Self {
            state: autoscale::State {
                last_active: now - epoch,
            },
            activity: HashMap::new(),
            drain: None,
            last_drain: 0,
            doomed: BTreeMap::new(),
            written: BTreeMap::new(),
            failures: 0,
            retry_at: None,
            wake: None,
        }
    }

    /// Requests wait in an activator.
    pub fn woken(&mut self, session: SessionId, waiting: u32, now: Instant) {
        let activity = self.activity.entry(session).or_insert(Activity {
            in_flight: 0,
            waiting: 0,
        });
        activity.waiting = waiting.max(1);
        self.wake.get_or_insert(Wake {
            since: now,
            scaled: None,
        });
    }

    /// An activator's report.
    pub fn reported(
        &mut self,
        session: SessionId,
        in_flight: u32,
        waiting: u32,
        active_at: Instant,
        epoch: Instant,
    ) {
        self.state.last_active = self
            .state
            .last_active
            .max(active_at.saturating_duration_since(epoch));
        if in_flight == 0 && waiting == 0 {
            self.activity.remove(&session);
        } else {
            self.activity
                .insert(session, Activity { in_flight, waiting });
        }
    }

    /// An activator has nothing in flight to the pods of this drain.
    pub fn drained(&mut self, session: SessionId, id: u64) {
        if let Some(drain) = self.drain.as_mut().filter(|d| d.id == id) {
            drain.acknowledged.insert(session);
        }
    }

    /// An activator is gone, and its requests with it.
    pub fn session_ended(&mut self, session: SessionId) {
        self.activity.remove(&session);
    }

    /// This replica became leader: its idle clocks start anew, since it may not have heard all that the last leader heard.
    pub fn became_leader(&mut self, now: Instant, epoch: Instant) {
        self.state.last_active = self.state.last_active.max(now - epoch);
    }

    /// A write ended; `Ok` has the version of the object after it.
    pub fn write_ended(&mut self, write: &Write, result: Result<String, ()>, now: Instant) {
        match result {
            Ok(version) => {
                self.failures = 0;
                self.retry_at = None;
                let written = Written {
                    replicas: write.to,
                    version: Some(version),
                };
                self.written.insert(write.revision.clone(), written);
                if let Some(wake) = self.wake.as_mut().filter(|_| write.to > write.from) {
                    wake.scaled.get_or_insert(now);
                }
            }
            Err(()) => {
                self.written.remove(&write.revision);
                self.doomed.clear();
                let wait = RETRY_FIRST * 2u32.saturating_pow(self.failures.min(10));
                self.failures += 1;
                self.retry_at = Some(now + wait.min(RETRY_MAX));
            }
        }
    }

    /// Number of the present drain; 0 when there is none.
    pub fn drain_id(&self) -> u64 {
        self.drain.as_ref().map_or(0, |d| d.id)
    }

    /// Whether a pod takes no new requests.
    pub fn is_draining(&self, uid: &str) -> bool {
        self.doomed.contains_key(uid) || self.drain.as_ref().is_some_and(|d| d.pods.contains(uid))
    }

    /// When a pod's start got how far, counted from the wake that led to it.
    pub fn startup(&self, pod: &ObservedPod) -> Option<Startup> {
        let wake = self.wake?;
        let (scaled, scheduled, addressed) = (wake.scaled?, pod.scheduled?, pod.addressed?);
        let us = |at: Instant| u64::try_from((at - wake.since).as_micros()).unwrap_or(u64::MAX);
        if scheduled < wake.since {
            return None;
        }
        // The answer to the write may come after the watch already showed its effect.
        let scaled_us = us(scaled).min(us(scheduled));
        Some(Startup {
            scaled_us,
            scheduled_us: us(scheduled),
            started_us: us(addressed.max(scheduled)),
        })
    }

    /// Looks at everything and says what is to be written.
    pub fn step(&mut self, entry: &Entry, around: &Surroundings<'_>) -> Step {
        self.observe(entry, around);
        let Some(policy) = targets::policy(entry) else {
            return Step::default();
        };
        let serving = entry
            .serving()
            .map_or(0, |revision| self.replicas(entry, revision));
        let seen = autoscale::Observation {
            replicas: serving,
            in_flight: self.activity.values().map(|a| a.in_flight).sum(),
            waiting: self.activity.values().map(|a| a.waiting).sum(),
        };
        let decision =
            autoscale::decide(&policy, &mut self.state, &seen, around.now - around.epoch);
        let targets = targets::of(entry, &policy, &decision, |revision| {
            self.replicas(entry, revision)
        });
        let mut step = Step {
            again: decision.again_in.map(|wait| around.now + wait),
            ..Step::default()
        };
        self.raise(entry, &targets, around, &mut step);
        self.lower(entry, &targets, around, &mut step);
        step
    }

    /// Forgets what the cluster has caught up with.
    fn observe(&mut self, entry: &Entry, around: &Surroundings<'_>) {
        self.activity
            .retain(|session, _| around.sessions.contains(session));
        self.written.retain(|revision, written| {
            let deployment = entry.deployments.get(revision);
            let seen = deployment.and_then(|d| d.metadata.resource_version.as_deref());
            match (seen, written.version.as_deref()) {
                (Some(seen), Some(version)) => !reaches(seen, version),
                (None, _) => false,
                (Some(_), None) => true,
            }
        });
        let alive: BTreeSet<&str> = entry
            .pods
            .values()
            .filter(|p| p.is_alive())
            .filter_map(|p| uid(p))
            .collect();
        self.doomed
            .retain(|pod, since| alive.contains(pod.as_str()) && around.now - *since < DOOMED_FOR);
        self.observe_wake(entry, around.now);
    }

    fn observe_wake(&mut self, entry: &Entry, now: Instant) {
        let Some(serving) = entry.serving() else {
            return;
        };
        let replicas = self.replicas(entry, serving);
        // Nobody waits any more, or everybody was served: the next wake is a new one.
        let over = match replicas {
            0 => self.activity.values().all(|a| a.waiting == 0),
            _ => self.activity.is_empty() && entry.ready(serving) > 0,
        };
        if over {
            self.wake = None;
        } else if let Some(wake) = self
            .wake
            .as_mut()
            .filter(|_| entry.replicas(serving) > Some(0))
        {
            wake.scaled.get_or_insert(now);
        }
    }

    /// Pods that a revision's Deployment asks for, by the last write or, once the watch has caught up, by what it shows.
    fn replicas(&self, entry: &Entry, revision: &str) -> u32 {
        let written = self.written.get(revision).map(|w| w.replicas);
        written.or_else(|| entry.replicas(revision)).unwrap_or(0)
    }

    /// Whether a write to this revision must wait for an earlier one.
    fn is_busy(&self, revision: &str, around: &Surroundings<'_>) -> bool {
        self.retry_at.is_some_and(|at| at > around.now)
            || self
                .written
                .get(revision)
                .is_some_and(|w| w.version.is_none())
    }

    fn raise(
        &mut self,
        entry: &Entry,
        targets: &Targets,
        around: &Surroundings<'_>,
        step: &mut Step,
    ) {
        for (revision, target) in targets {
            let from = self.replicas(entry, revision);
            if target.replicas <= from || !entry.deployments.contains_key(revision) {
                continue;
            }
            let woken = self.wake.map(|w| w.since).filter(|_| from == 0);
            let turn = woken.map(|since| since + LEADER_FIRST);
            if !around.leader && turn.is_none_or(|turn| turn > around.now) {
                step.look_again(turn);
                continue;
            }
            // Pods on their way out must be gone first: a count raised before Kubernetes has deleted them would keep them.
            let leaving = entry
                .pods_of(revision)
                .filter_map(uid)
                .any(|uid| self.doomed.contains_key(uid));
            if leaving || self.is_busy(revision, around) {
                step.look_again(self.retry_at.or(Some(around.now + DOOMED_FOR)));
                continue;
            }
            self.written.insert(
                revision.clone(),
                Written {
                    replicas: target.replicas,
                    version: None,
                },
            );
            step.writes.push(Write {
                revision: revision.clone(),
                from,
                to: target.replicas,
                reason: target.reason,
                woken,
                victims: Vec::new(),
            });
        }
    }

    fn lower(
        &mut self,
        entry: &Entry,
        targets: &Targets,
        around: &Surroundings<'_>,
        step: &mut Step,
    ) {
        let lowered: Vec<_> = targets
            .iter()
            .filter(|(revision, target)| target.replicas < self.replicas(entry, revision))
            .collect();
        if !around.leader || lowered.is_empty() {
            self.drain = None;
            return;
        }
        let mut pods = BTreeSet::new();
        for (revision, target) in &lowered {
            pods.extend(targets::victims(entry, revision, target.replicas));
        }
        self.drain_these(pods, around.unix_ms);
        if !self.is_drained(entry, around) {
            return;
        }
        for (revision, target) in lowered {
            if self.is_busy(revision, around) {
                step.look_again(self.retry_at);
                continue;
            }
            let victims = targets::victims(entry, revision, target.replicas);
            self.doomed
                .extend(victims.iter().map(|uid| (uid.clone(), around.now)));
            let from = self.replicas(entry, revision);
            self.written.insert(
                revision.clone(),
                Written {
                    replicas: target.replicas,
                    version: None,
                },
            );
            step.writes.push(Write {
                revision: revision.clone(),
                from,
                to: target.replicas,
                reason: target.reason,
                woken: None,
                victims: if target.replicas == 0 {
                    Vec::new()
                } else {
                    names(entry, &victims)
                },
            });
        }
    }

    /// Makes `pods` the draining ones. A changed set needs new acknowledgements, and so a new number.
    fn drain_these(&mut self, pods: BTreeSet<String>, unix_ms: u64) {
        if self.drain.as_ref().is_some_and(|d| d.pods == pods) {
            return;
        }
        self.last_drain = unix_ms.max(self.last_drain + 1);
        self.drain = Some(Drain {
            id: self.last_drain,
            pods,
            acknowledged: BTreeSet::new(),
        });
    }

    /// Whether every activator has said that nothing is in flight to the draining pods. Pods without an address never had a request.
    fn is_drained(&self, entry: &Entry, around: &Surroundings<'_>) -> bool {
        let Some(drain) = &self.drain else {
            return false;
        };
        let reachable = entry
            .pods
            .values()
            .any(|p| uid(p).is_some_and(|u| drain.pods.contains(u)) && p.addressed.is_some());
        !reachable || (!around.strangers && around.sessions.is_subset(&drain.acknowledged))
    }
}

impl Step {
    fn look_again(&mut self, at: Option<Instant>) {
        self.again = match (self.again, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// UID of a pod.
fn uid(pod: &ObservedPod) -> Option<&str> {
    pod.pod.metadata.uid.as_deref()
}

fn names(entry: &Entry, uids: &[String]) -> Vec<String> {
    let of = |(name, pod): (&String, &std::sync::Arc<ObservedPod>)| {
        uid(pod)
            .is_some_and(|u| uids.iter().any(|v| v == u))
            .then(|| name.clone())
    };
    entry.pods.iter().filter_map(of).collect()
}

/// Whether resource version `seen` is `version` or later. Kubernetes promises since 1.35 that versions of one resource compare as
/// numbers, and etcd's always did; one that is no number counts as reached, since waiting for ever would be worse.
fn reaches(seen: &str, version: &str) -> bool {
    match (seen.parse::<u64>(), version.parse::<u64>()) {
        (Ok(seen), Ok(version)) => seen >= version,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
