//! Where clients of a Function are sent: to activators, or straight to its pods when there is no activator. Pure.

use std::{net::IpAddr, time::Duration};

use crds::conditions::{Reason, Verdict};

use crate::observe::Entry;

/// How long no activator may be connected before clients are sent straight to the pods. Activators that restart are back sooner, and
/// an operator that has just started has not reached them yet.
pub const FAIL_OPEN_AFTER: Duration = Duration::from_millis(500);

/// Where clients are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To these activators, which listen for the Function.
    Activators(Vec<IpAddr>),
    /// To these pods, on their own port: no activator is connected.
    Pods(Vec<IpAddr>, u16),
    /// As before: activators run, but none is known to listen yet, or none has been connected for a moment only.
    AsBefore,
}

/// Chooses the way. `listening`: activators that listen for the Function; `alone`: for how long none has been connected at all;
/// `none_ready`: whether all are leaving, so that clients had better go elsewhere before they are gone.
pub fn choose(
    entry: &Entry,
    listening: Vec<IpAddr>,
    alone: Option<Duration>,
    none_ready: bool,
) -> Way {
    if !listening.is_empty() {
        return Way::Activators(listening);
    }
    if !none_ready && alone.is_none_or(|alone| alone < FAIL_OPEN_AFTER) {
        return Way::AsBefore;
    }
    let open = || {
        let serving = entry.serving()?;
        let port = entry.serving_of(serving)?.port;
        let address = |p: &crate::observe::ObservedPod| {
            p.pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
        };
        let ready = entry.pods_of(serving).filter(|p| p.is_ready());
        let pods: Vec<IpAddr> = ready.filter_map(address).collect();
        (!pods.is_empty()).then_some(Way::Pods(pods, port))
    };
    open().unwrap_or(Way::AsBefore)
}

impl Way {
    /// What the condition `Routed` says of it.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Activators(all) => Verdict::yes(
                Reason::ActivatorsReady,
                format!("{} activators listen", all.len()),
            ),
            Self::Pods(pods, _) => Verdict::yes(
                Reason::FailOpen,
                format!(
                    "no activator is ready, so clients are sent straight to the {} pods that run, and the count stays as it is: see the pods of Ebb's activator Deployment",
                    pods.len()
                ),
            ),
            Self::AsBefore => Verdict::no(
                Reason::NoActivator,
                "no activator listens for this Function yet: see the pods of Ebb's activator Deployment",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::observe::kinds::Indexed;

    fn running() -> Entry {
        let function = serde_json::from_value(json!({
            "apiVersion": "ebb.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "hello", "namespace": "shop", "uid": "u", "generation": 1},
            "spec": {"template": {"spec": {"containers": [{"name": "app", "image": "x:1"}]}}},
        }))
        .unwrap();
        let mut entry = Entry::default();
        crds::function::Function::put(&mut entry, "hello", function, Instant::now());
        let revision = entry.latest().unwrap().to_owned();
        let serving = json!({"port": 9000, "readiness": {"probe": "connect"}}).to_string();
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": revision, "annotations": {"ebb.dev/serving": serving}},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
        }))
        .unwrap();
        entry
            .deployments
            .insert(revision.clone(), Arc::new(deployment));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"ebb.dev/revision": revision}},
            "status": {"podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        Pod::put(&mut entry, "p", pod, Instant::now());
        entry
    }

    #[test]
    fn table() {
        let activator: IpAddr = [10, 0, 0, 1].into();
        let pod: IpAddr = [10, 0, 0, 9].into();
        let (soon, late) = (Some(Duration::from_millis(499)), Some(FAIL_OPEN_AFTER));
        let asleep = || Entry {
            pods: Default::default(),
            ..running()
        };
        let rows = [
            (
                running(),
                vec![activator],
                None,
                false,
                Way::Activators(vec![activator]),
            ),
            (running(), vec![], None, false, Way::AsBefore),
            (running(), vec![], None, true, Way::Pods(vec![pod], 9000)),
            (running(), vec![], soon, false, Way::AsBefore),
            (running(), vec![], late, false, Way::Pods(vec![pod], 9000)),
            (asleep(), vec![], late, false, Way::AsBefore),
        ];
        for (i, (entry, listening, alone, leaving, way)) in rows.into_iter().enumerate() {
            assert_eq!(choose(&entry, listening, alone, leaving), way, "row {i}");
        }
    }
}
