//! How many pods each revision of a Function should have, and which ones go. Pure.

use std::{cmp::Reverse, collections::BTreeMap};

use autoscale::{Decision, Policy};

use crate::{
    observe::{Entry, ObservedPod},
    scaler::explain,
};

/// The count of each revision that has a Deployment, or is about to.
pub type Targets = BTreeMap<String, Target>;

/// A revision's count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Pods.
    pub replicas: u32,
    /// Why, as a metric's label value.
    pub reason: &'static str,
    /// Why, for people.
    pub note: String,
}

/// The serving revision follows the decision. A newer one that is not ready yet gets as many pods as the serving one, and at least
/// `initial` and one, since only a pod that runs can show that the template works. All others go to zero.
pub fn of(
    entry: &Entry,
    policy: &Policy,
    initial: u32,
    decision: &Decision,
    replicas: impl Fn(&str) -> u32,
) -> Targets {
    let serving = entry.serving();
    let retired = Target {
        replicas: 0,
        reason: "retired",
        note: "a newer revision has taken over".into(),
    };
    let revisions = entry.deployments.keys();
    let mut targets: Targets = revisions.map(|r| (r.clone(), retired.clone())).collect();
    if let Some(serving) = serving {
        let target = Target {
            replicas: decision.desired,
            reason: decision.reason.as_str(),
            note: explain::decision(policy, decision),
        };
        targets.insert(serving.to_owned(), target);
    }
    if let Some(latest) = entry.latest().filter(|latest| Some(*latest) != serving)
        && entry.deployments.contains_key(latest)
    {
        let needed = serving.map_or(0, replicas).max(initial).max(1);
        let target = Target {
            replicas: needed.min(policy.max),
            reason: "deploying",
            note: "a new revision is being started".into(),
        };
        targets.insert(latest.to_owned(), target);
    }
    targets
}

/// How much there is for keeping a pod; what comes first counts most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// It is ready.
    pub ready: bool,
    /// It is not on its way out already.
    pub stays: bool,
    /// Requests in it.
    pub in_flight: u32,
}

/// UIDs of the pods of a revision that go when `keep` are kept: those of the lowest rank, and of those the youngest, as Kubernetes itself would
/// choose. To zero that is all of them.
pub fn victims(
    entry: &Entry,
    revision: &str,
    keep: u32,
    rank: impl Fn(&ObservedPod) -> Rank,
) -> Vec<String> {
    let mut alive: Vec<&ObservedPod> = entry.pods_of(revision).filter(|p| p.is_alive()).collect();
    alive.sort_by_key(|p| {
        let created = p.pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (Reverse(rank(p)), created, p.pod.metadata.name.clone())
    });
    let gone = alive.split_off(alive.len().min(keep as usize));
    gone.iter()
        .filter_map(|p| p.pod.metadata.uid.clone())
        .collect()
}
