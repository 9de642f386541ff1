//! What the scaler remembers of one Function, and what follows from it. Pure: time and all that is seen are arguments.

pub mod contest;
pub mod counts;
pub mod drain;
pub mod keeping;
pub mod reports;
pub mod wake;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use autoscale::{Decision, Observation, Policy};
use crds::{
    control::{FunctionStats, Startup},
    function::Function,
};
use tokio::time::Instant;

use crate::{
    fleet::SessionId,
    observe::{Entry, ObservedPod},
    scaler::{
        policy::Scaling,
        targets::{self, Rank, Target, Targets},
        unit::{
            contest::Contest,
            counts::{Counts, Failed},
            drain::{DOOMED_FOR, Leaving},
            keeping::{Candidate, Keeping},
            reports::Reports,
            wake::Wake,
        },
    },
};

/// How long a replica that does not hold the lease leaves a wake to the one that does.
const LEADER_FIRST: Duration = Duration::from_secs(1);

/// How long after a wake from zero the load is not followed yet. Requests that wait for the first pod are many at once however fast they are
/// answered then; pods started for them would be ready when they are not needed. A pod that takes longer than this to start is
/// not waited for.
const FIRST_POD: Duration = Duration::from_secs(2);

/// How far apart the activators' reports of one second may arrive. Added up earlier, a load that has moved from one activator to
/// another would count twice, with the new report of the one and the old report of the other.
pub const REPORTS_APART: Duration = Duration::from_millis(50);

/// One Function's state in the scaler.
#[derive(Debug)]
pub struct Unit {
    state: autoscale::State,
    decided: Option<Decision>,
    reports: Reports,
    /// When the reports of the second are all there; `None` when nothing came since.
    reported_by: Option<Instant>,
    leaving: Leaving,
    counts: Counts,
    contest: Contest,
    wake: Option<Wake>,
    /// If the Function has a limit of requests at once.
    keeping: Option<Keeping>,
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
    /// Milliseconds since 1970, for numbers of drains.
    pub unix_ms: u64,
    /// The activator that should keep the Function's limit, if it has one.
    pub keeper: Option<&'a Candidate>,
    /// A number that grows and that no other replica gives, for terms of that keeper.
    pub fresh: u64,
    /// The cluster's defaults and limits.
    pub scaling: &'a Scaling,
}

impl Surroundings<'_> {
    /// Whether every activator that takes requests is connected. If not, the last word of those that are gone still counts.
    fn is_complete(&self) -> bool {
        !self.strangers && !self.sessions.is_empty()
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Counts to write, each to the Deployment of a revision.
    pub writes: Vec<Write>,
    /// When to look again although nothing was seen to change.
    pub again: Option<Instant>,
    /// Somebody else has just changed a count.
    pub changed_by: Option<contest::Change>,
    /// A drain was cancelled, because its pods are needed again.
    pub drain_cancelled: bool,
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
    /// Why, for people.
    pub note: String,
    /// When the wake came that asks for this, if one did.
    pub woken: Option<Instant>,
    /// Whether only the leader may write it. A start from zero anybody may write when the leader does not.
    pub leader_only: bool,
    /// Version of the Deployment that this was decided on.
    pub version: Option<String>,
    /// Pods that must go: they are the drained ones of a count that does not go to zero.
    pub victims: Vec<String>,
}

impl Unit {
    /// A Function first seen at `now` with so many pods ready.
    pub fn new(ready: u32, now: Instant, epoch: Instant) -> Self {
        Self {
            state: autoscale::State::new(ready, now - epoch),
            decided: None,
            reports: Reports::default(),
            reported_by: None,
            leaving: Leaving::default(),
            counts: Counts::default(),
            contest: Contest::default(),
            wake: None,
            keeping: None,
        }
    }

    /// Requests wait in an activator.
    pub fn woken(&mut self, session: SessionId, waiting: u32, now: Instant) {
        self.reports.woken(session, waiting);
        self.wake.get_or_insert(Wake {
            since: now,
            from_zero: false,
            scaled: None,
        });
    }

    /// An activator's report, received at `at`. It counts from [`REPORTS_APART`] later on, when those of the other activators are there.
    pub fn reported(
        &mut self,
        session: SessionId,
        stats: &FunctionStats,
        at: Instant,
        epoch: Instant,
    ) {
        let idle = Duration::from_millis(stats.idle_ms);
        let active_at = at.checked_sub(idle).unwrap_or(epoch);
        self.state
            .active_at(active_at.saturating_duration_since(epoch));
        self.reports.told(session, stats);
        self.reported_by.get_or_insert(at + REPORTS_APART);
    }

    /// An activator sends nothing to the pods, since it does not keep the limit.
    pub fn released(&mut self, session: SessionId, term: u64, newest: u64, busy: Vec<String>) {
        if let Some(keeping) = &mut self.keeping {
            keeping.released(session, term, newest, busy);
        }
    }

    /// Who keeps the limit of requests at once, if there is one.
    pub fn keeping(&self) -> Option<&Keeping> {
        self.keeping.as_ref()
    }

    /// An activator has nothing in flight to the pods of this drain.
    pub fn drained(&mut self, session: SessionId, id: u64) {
        self.leaving.acknowledged(session, id);
    }

    /// A pod of this drain is busy on its own account: that counts as activity.
    pub fn busy(&mut self, id: u64, at: Instant, epoch: Instant) {
        if id != 0 && id == self.leaving.id() {
            self.state.active_at(at.saturating_duration_since(epoch));
            self.leaving.veto(at);
        }
    }

    /// A write ended; `Ok` has the version of the object after it.
    pub fn write_ended(&mut self, write: &Write, result: Result<String, Failed>, now: Instant) {
        if result.is_err() {
            self.leaving.spare();
            // Else the count that is still there would be taken for another change by somebody else.
            self.contest.wrote(&write.revision, write.from);
        } else if let Some(wake) = self.wake.as_mut().filter(|_| write.to > write.from) {
            wake.scaled.get_or_insert(now);
        }
        self.counts.end(&write.revision, write.to, result, now);
    }

    /// Number of the present drain; 0 when there is none.
    pub fn drain_id(&self) -> u64 {
        self.leaving.id()
    }

    /// Whether a pod takes no new requests.
    pub fn is_draining(&self, uid: &str) -> bool {
        self.leaving.contains(uid)
    }

    /// When a pod's start got how far, counted from the wake that led to it.
    pub fn startup(&self, pod: &ObservedPod) -> Option<Startup> {
        self.wake?.startup(pod)
    }

    /// The last decision.
    pub fn decided(&self) -> Option<&Decision> {
        self.decided.as_ref()
    }

    /// Who else changes the count, in words for people.
    pub fn contested(&self) -> Option<String> {
        self.contest.message()
    }

    /// Looks at everything and says what is to be written.
    pub fn step(&mut self, entry: &Entry, around: &Surroundings<'_>) -> Step {
        self.observe(entry, around);
        let Some(function) = entry.function.as_deref() else {
            return Step::default();
        };
        self.observe_keeping(function, around);
        let changed_by = self.contest.observe(entry, &self.counts, around.now);
        let policy = around.scaling.policy(function);
        let initial = around.scaling.initial(function);
        let decision = self.decide(entry, &policy, initial, around);
        let replicas = |revision: &str| self.counts.replicas(entry, revision);
        let mut targets = targets::of(entry, &policy, initial, &decision, replicas);
        let waiting = self.reports.total().waiting > 0;
        self.contest
            .yield_to(&mut targets, replicas, waiting, around.now);
        let mut step = Step {
            again: decision.again_in.map(|wait| around.now + wait),
            changed_by: changed_by.filter(|_| around.leader),
            ..Step::default()
        };
        step.look_again(self.reported_by);
        step.look_again(self.contest.over_at());
        self.decided = Some(decision);
        self.raise(entry, &targets, around, &mut step);
        self.lower(entry, &targets, around, &mut step);
        step
    }

    fn decide(
        &mut self,
        entry: &Entry,
        policy: &Policy,
        initial: u32,
        around: &Surroundings<'_>,
    ) -> Decision {
        let now = around.now - around.epoch;
        let load = self.reports.total();
        let starting = self
            .wake
            .is_some_and(|wake| wake.from_zero && around.now < wake.since + FIRST_POD);
        let alone = around.sessions.len() <= 1;
        self.reported_by = self
            .reported_by
            .filter(|all_there| !alone && around.now < *all_there);
        if !starting && self.reported_by.is_none() {
            self.state.record(policy, load.concurrency, load.rps, now);
        }
        let serving = entry.serving();
        let seen = Observation {
            replicas: serving.map_or(0, |r| self.counts.replicas(entry, r)),
            ready: serving.map_or(0, |r| entry.ready(r)),
            initial: serving.filter(|r| entry.is_new(r)).map_or(0, |_| initial),
            in_flight: load.in_flight,
            waiting: load.waiting,
            complete: around.is_complete(),
        };
        autoscale::decide(policy, &mut self.state, &seen, now)
    }

    /// Forgets what the cluster has caught up with.
    fn observe(&mut self, entry: &Entry, around: &Surroundings<'_>) {
        if around.is_complete() {
            self.reports.keep(around.sessions);
        }
        self.counts.observe(entry);
        self.leaving.observe(entry, around.now);
        self.observe_wake(entry, around.now);
    }

    fn observe_keeping(&mut self, function: &Function, around: &Surroundings<'_>) {
        if function.spec.concurrency_limit.is_none() {
            self.keeping = None;
            return;
        }
        let keeping = self.keeping.get_or_insert_default();
        keeping.observe(
            around.keeper,
            around.sessions,
            around.strangers,
            around.fresh,
        );
    }

    fn observe_wake(&mut self, entry: &Entry, now: Instant) {
        let Some(serving) = entry.serving() else {
            return;
        };
        let load = self.reports.total();
        // Nobody waits any more, or everybody was served: the next wake is a new one.
        let over = match self.counts.replicas(entry, serving) {
            0 => load.waiting == 0,
            _ => load.waiting == 0 && load.in_flight == 0 && entry.ready(serving) > 0,
        };
        let raised = entry.replicas(serving) > Some(0);
        let asleep = self.counts.replicas(entry, serving) == 0;
        if over {
            self.wake = None;
        } else if let Some(wake) = self.wake.as_mut() {
            wake.from_zero |= asleep;
            if raised {
                wake.scaled.get_or_insert(now);
            }
        }
    }

    fn raise(
        &mut self,
        entry: &Entry,
        targets: &Targets,
        around: &Surroundings<'_>,
        step: &mut Step,
    ) {
        for (revision, target) in targets {
            let from = self.counts.replicas(entry, revision);
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
            let leaving = self.leaving.any_of(entry, revision);
            if leaving || self.counts.is_busy(revision, around.now) {
                step.look_again(self.counts.retry_at().or(Some(around.now + DOOMED_FOR)));
                continue;
            }
            let write = self.book(entry, revision, target, woken);
            step.writes.push(write);
        }
    }

    fn lower(
        &mut self,
        entry: &Entry,
        targets: &Targets,
        around: &Surroundings<'_>,
        step: &mut Step,
    ) {
        if let Some(until) = self.leaving.vetoed_until(around.now) {
            step.look_again(Some(until));
            return;
        }
        let rank = |pod: &ObservedPod| self.rank(pod);
        let lowered: Vec<_> = targets
            .iter()
            .filter(|(r, target)| target.replicas < self.counts.replicas(entry, r))
            .map(|(r, target)| {
                let gone = targets::victims(entry, r, target.replicas, rank);
                (r, target, gone)
            })
            .collect();
        if !around.leader || lowered.is_empty() {
            step.drain_cancelled = self.leaving.cancel();
            return;
        }
        let pods = lowered.iter().flat_map(|(_, _, gone)| gone.clone());
        self.leaving.drain(pods.collect(), around.unix_ms);
        if !self
            .leaving
            .is_drained(entry, around.sessions, around.strangers)
        {
            return;
        }
        for (revision, target, gone) in lowered {
            if self.counts.is_busy(revision, around.now) {
                step.look_again(self.counts.retry_at());
                continue;
            }
            self.leaving.doom(&gone, around.now);
            let mut write = self.book(entry, revision, target, None);
            // To zero all go, so nothing has to say which.
            if target.replicas > 0 {
                write.victims = names(entry, &gone);
            }
            step.writes.push(write);
        }
    }

    /// How much there is for keeping a pod. One that drains already stays chosen: a set that follows each report would never be drained.
    fn rank(&self, pod: &ObservedPod) -> Rank {
        Rank {
            ready: pod.is_ready(),
            stays: pod.uid().is_none_or(|uid| !self.leaving.contains(uid)),
            in_flight: pod.uid().map_or(0, |uid| self.reports.in_pod(uid)),
        }
    }

    /// Begins the write that brings a revision to its target.
    fn book(
        &mut self,
        entry: &Entry,
        revision: &str,
        target: &Target,
        woken: Option<Instant>,
    ) -> Write {
        let write = Write {
            revision: revision.into(),
            from: self.counts.replicas(entry, revision),
            to: target.replicas,
            reason: target.reason,
            note: target.note.clone(),
            woken,
            leader_only: woken.is_none(),
            version: self.counts.version(entry, revision),
            victims: Vec::new(),
        };
        self.counts.begin(revision, target.replicas);
        self.contest.wrote(revision, target.replicas);
        write
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

/// Names of pods by their UIDs.
fn names(entry: &Entry, uids: &[String]) -> Vec<String> {
    let by_uid: BTreeMap<&str, &String> = entry
        .pods
        .iter()
        .filter_map(|(name, pod)| Some((pod.uid()?, name)))
        .collect();
    uids.iter()
        .filter_map(|uid| by_uid.get(uid.as_str()).map(|name| (*name).clone()))
        .collect()
}

#[cfg(test)]
mod tests;
