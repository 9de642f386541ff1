//! How many pods each revision of a Function should have, and which ones go. Pure.

use std::collections::BTreeMap;

use autoscale::{Decision, Policy};

use crate::{
    observe::{Entry, ObservedPod},
    shape::validate,
};

/// The count of each revision that has a Deployment, or is about to.
pub type Targets = BTreeMap<String, Target>;

/// A revision's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Pods.
    pub replicas: u32,
    /// Why, as a metric's label value.
    pub reason: &'static str,
}

/// The scaling policy of a Function, `None` if it does not exist.
pub fn policy(entry: &Entry) -> Option<Policy> {
    let function = entry.function.as_ref()?;
    let scale = &function.spec.scale;
    // The schema's bounds are 0..=1000 and 1..=1000.
    let count = |n: i32| u32::try_from(n).unwrap_or(0);
    let max = count(scale.max).max(1);
    Some(Policy {
        min: count(scale.min).min(max),
        max,
        idle_after: validate::idle_after(function),
    })
}

/// The serving revision follows the decision. A newer one that is not ready yet gets as many pods as the serving one, and at least
/// one, since only a pod that runs can show that the template works. All others go to zero.
pub fn of(
    entry: &Entry,
    policy: &Policy,
    decision: &Decision,
    replicas: impl Fn(&str) -> u32,
) -> Targets {
    let serving = entry.serving();
    let mut targets: Targets = entry
        .deployments
        .keys()
        .map(|revision| {
            (
                revision.clone(),
                Target {
                    replicas: 0,
                    reason: "retired",
                },
            )
        })
        .collect();
    if let Some(serving) = serving {
        let target = Target {
            replicas: decision.desired,
            reason: decision.reason.as_str(),
        };
        targets.insert(serving.to_owned(), target);
    }
    if let Some(latest) = entry.latest().filter(|latest| Some(*latest) != serving)
        && entry.deployments.contains_key(latest)
    {
        let needed = serving
            .map_or(0, replicas)
            .max(policy.min)
            .max(1)
            .min(policy.max);
        targets.insert(
            latest.to_owned(),
            Target {
                replicas: needed,
                reason: "deploying",
            },
        );
    }
    targets
}

/// UIDs of the pods of a revision that go when `keep` are kept: those that are not ready first, then the youngest, as Kubernetes
/// itself would choose. To zero that is all of them.
pub fn victims(entry: &Entry, revision: &str, keep: u32) -> Vec<String> {
    let mut alive: Vec<&ObservedPod> = entry.pods_of(revision).filter(|p| p.is_alive()).collect();
    alive.sort_by_key(|p| {
        let created = p.pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (!p.is_ready(), created, p.pod.metadata.name.clone())
    });
    let gone = alive.split_off(alive.len().min(keep as usize));
    gone.iter()
        .filter_map(|p| p.pod.metadata.uid.clone())
        .collect()
}
