//! From what is known of a Function to what its activators are told. Pure.

use std::net::IpAddr;

use crds::{
    conditions::{ConditionType, Reason},
    control::{Backends, Pod, PodState, Problem, RevisionBackends, Route, Weight},
    function::Function,
    names::FunctionKey,
};
use tokio::time::Instant;

use crate::{
    observe::{Entry, ObservedPod},
    scaler::{policy::Scaling, unit::Unit},
    shape::{problem, status},
};

/// What activators must know of a Function, with the addresses of all of them; `None` while it does not exist or has no port yet.
pub fn state(
    key: &FunctionKey,
    entry: &Entry,
    unit: &Unit,
    cluster_domain: &str,
    scaling: &Scaling,
    activators: impl FnOnce() -> Vec<IpAddr>,
    now: Instant,
) -> Option<(Route, Backends)> {
    let function = entry.function.as_ref()?;
    let port = entry.port()?;
    let weights = entry.serving().map(|revision| Weight {
        revision: revision.into(),
        weight: 100,
    });
    let ms = |d: kube::core::Duration| {
        u64::try_from(std::time::Duration::from(d).as_millis()).unwrap_or(u64::MAX)
    };
    let scale = function.spec.scale.or(&scaling.defaults);
    let route = Route {
        function: key.clone(),
        port,
        hosts: key.hosts(cluster_domain),
        weights: weights.into_iter().collect(),
        cold_start_ms: ms(function.spec.timeouts.cold_start),
        request_ms: ms(function.spec.timeouts.request),
        first_byte_ms: function.spec.timeouts.first_byte.map(ms),
        idle_ms: function.spec.timeouts.idle.map(ms),
        count_upgrades: scale.count_upgrades.unwrap_or(true),
        keep_alive_probe: scale.keep_alive_probe,
    };
    let revisions = entry
        .deployments
        .keys()
        .filter_map(|revision| backends(entry, unit, revision, now))
        .collect();
    let limit = function.spec.concurrency_limit.zip(unit.keeping());
    let backends = Backends {
        function: key.clone(),
        drain: unit.drain_id(),
        problem: no_revision(entry, function),
        revisions,
        limit: limit.map(|(limit, keeping)| {
            // The schema has none below 1.
            keeping.limit(u32::try_from(limit).unwrap_or(1), activators())
        }),
    };
    Some((route, backends))
}

/// Why a Function has no revision that could take requests, if its template is to blame.
fn no_revision(entry: &Entry, function: &Function) -> Option<Problem> {
    if entry.serving().is_some() {
        return None;
    }
    let conditions = &function.status.as_ref()?.conditions;
    let condition = status::find(conditions, ConditionType::RevisionReady)?;
    // The others are of its pods, and are told with them.
    let invalid =
        condition.status == "False" && condition.reason == Reason::InvalidTemplate.as_str();
    invalid.then(|| Problem {
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        fatal: true,
    })
}

fn backends(entry: &Entry, unit: &Unit, revision: &str, now: Instant) -> Option<RevisionBackends> {
    let serving = entry.serving_of(revision)?;
    let deployment = entry.deployments.get(revision)?;
    let problem = problem::find(deployment, entry.pods_of(revision), now);
    let pods = entry
        .pods_of(revision)
        .filter_map(|p| pod(p, unit))
        .collect();
    Some(RevisionBackends {
        revision: revision.into(),
        port: serving.port,
        protocol: serving.protocol,
        readiness: serving.readiness,
        problem: problem.map(|p| p.to_control()),
        pods,
    })
}

fn pod(observed: &ObservedPod, unit: &Unit) -> Option<Pod> {
    let meta = &observed.pod.metadata;
    let status = observed.pod.status.as_ref()?;
    let phase = status.phase.as_deref().unwrap_or_default();
    if matches!(phase, "Failed" | "Succeeded") {
        return None;
    }
    let uid = meta.uid.clone()?;
    let state = if meta.deletion_timestamp.is_some() || unit.is_draining(&uid) {
        PodState::Draining
    } else if problem::is_ready(&observed.pod) {
        PodState::Serving
    } else {
        PodState::Starting
    };
    Some(Pod {
        name: meta.name.clone()?,
        address: status.pod_ip.as_deref()?.parse().ok()?,
        state,
        startup: unit.startup(observed),
        uid,
    })
}
