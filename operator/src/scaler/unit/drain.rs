//! Pods on their way out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    fleet::SessionId,
    observe::{Entry, ObservedPod},
};

/// How long pods that were scaled away may stay before they count as alive again. Kubernetes deletes them within milliseconds; if
/// it has not by then, a count was raised before the deletion, and they will stay.
pub const DOOMED_FOR: Duration = Duration::from_secs(10);

/// How long a set of pods of which one said that it is busy is not drained again.
const VETO: Duration = Duration::from_secs(10);

/// Which pods take no new request.
#[derive(Debug, Default)]
pub struct Leaving {
    drain: Option<Drain>,
    last_id: u64,
    /// Scaled away and not yet deleted, by UID.
    doomed: BTreeMap<String, Instant>,
    vetoed_until: Option<Instant>,
}

/// Pods that take no new request until they are scaled away, or the drain is cancelled.
#[derive(Debug)]
struct Drain {
    id: u64,
    pods: BTreeSet<String>,
    acknowledged: BTreeSet<SessionId>,
}

impl Leaving {
    /// Number of the present drain; 0 when there is none.
    pub fn id(&self) -> u64 {
        self.drain.as_ref().map_or(0, |d| d.id)
    }

    /// Whether a pod takes no new requests.
    pub fn contains(&self, uid: &str) -> bool {
        self.doomed.contains_key(uid) || self.drain.as_ref().is_some_and(|d| d.pods.contains(uid))
    }

    /// An activator has nothing in flight to the pods of this drain.
    pub fn acknowledged(&mut self, session: SessionId, id: u64) {
        if let Some(drain) = self.drain.as_mut().filter(|d| d.id == id) {
            drain.acknowledged.insert(session);
        }
    }

    /// Makes `pods` the draining ones. A changed set needs new acknowledgements, and so a new number: the time, so that a number that a former
    /// leader gave is never given again.
    pub fn drain(&mut self, pods: BTreeSet<String>, unix_ms: u64) {
        if self.drain.as_ref().is_some_and(|d| d.pods == pods) {
            return;
        }
        self.last_id = unix_ms.max(self.last_id + 1);
        self.drain = Some(Drain {
            id: self.last_id,
            pods,
            acknowledged: BTreeSet::new(),
        });
    }

    /// The pods of the present drain take requests again. Returns whether there was one.
    pub fn cancel(&mut self) -> bool {
        self.drain.take().is_some()
    }

    /// A pod of the present drain is busy on its own account: its pods take requests again, and are not asked for a while.
    pub fn veto(&mut self, now: Instant) {
        self.drain = None;
        self.vetoed_until = Some(now + VETO);
    }

    /// Until when nothing is to be drained.
    pub fn vetoed_until(&self, now: Instant) -> Option<Instant> {
        self.vetoed_until.filter(|until| *until > now)
    }

    /// Whether every activator has said that nothing is in flight to the draining pods. Pods without an address never had a request.
    pub fn is_drained(
        &self,
        entry: &Entry,
        sessions: &BTreeSet<SessionId>,
        strangers: bool,
    ) -> bool {
        let Some(drain) = &self.drain else {
            return false;
        };
        let draining = |p: &ObservedPod| p.uid().is_some_and(|u| drain.pods.contains(u));
        let reachable = entry
            .pods
            .values()
            .any(|p| draining(p) && p.addressed.is_some());
        !reachable || (!strangers && sessions.is_subset(&drain.acknowledged))
    }

    /// These pods are being scaled away.
    pub fn doom(&mut self, uids: &[String], now: Instant) {
        self.doomed
            .extend(uids.iter().map(|uid| (uid.clone(), now)));
    }

    /// A write that was to scale pods away has failed: they stay.
    pub fn spare(&mut self) {
        self.doomed.clear();
    }

    /// Whether pods of the revision are scaled away and not yet deleted.
    pub fn any_of(&self, entry: &Entry, revision: &str) -> bool {
        let mut uids = entry.pods_of(revision).filter_map(ObservedPod::uid);
        uids.any(|uid| self.doomed.contains_key(uid))
    }

    /// Forgets pods that are gone.
    pub fn observe(&mut self, entry: &Entry, now: Instant) {
        let alive = entry.pods.values().filter(|p| p.is_alive());
        let alive: BTreeSet<&str> = alive.filter_map(|p| p.uid()).collect();
        self.doomed
            .retain(|uid, since| alive.contains(uid.as_str()) && now - *since < DOOMED_FOR);
    }
}
