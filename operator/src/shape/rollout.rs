//! Which revision takes the requests, and which are removed. Pure.

use tokio::time::Instant;

use crate::{observe::Entry, shape::problem};

/// The revision that should take the requests from now on. The latest one takes over when all pods that it was given have been ready for a moment, or at once
/// when the serving one cannot serve anyway.
pub fn serving(entry: &Entry, now: Instant) -> Option<String> {
    let Some(latest) = entry.latest() else {
        // The template is invalid: the last good revision goes on.
        return entry.serving().map(String::from);
    };
    let Some(serving) = entry.serving().filter(|serving| *serving != latest) else {
        return Some(latest.into());
    };
    let wanted = entry.replicas(latest).unwrap_or(0);
    let ready = wanted > 0 && entry.settled(latest, now) >= wanted;
    let next = if ready || is_broken(entry, serving, now) {
        latest
    } else {
        serving
    };
    Some(next.into())
}

/// Whether a revision has pods, none of them ready, and a reason why they will not be.
fn is_broken(entry: &Entry, revision: &str, now: Instant) -> bool {
    entry.deployments.get(revision).is_some_and(|deployment| {
        problem::find(deployment, entry.pods_of(revision), now).is_some_and(|p| p.fatal())
    })
}

/// Deployments of former revisions that have no pods left and are to be deleted.
pub fn finished(entry: &Entry) -> Vec<String> {
    // Without a plan nobody knows which revision the owner wants; nothing is deleted then.
    let (Some(latest), serving) = (entry.latest(), entry.serving()) else {
        return Vec::new();
    };
    let former = entry
        .deployments
        .keys()
        .filter(|name| *name != latest && Some(name.as_str()) != serving);
    former
        .filter(|name| {
            entry.replicas(name) == Some(0) && entry.pods_of(name).all(|p| !p.is_alive())
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observe::kinds::Indexed;
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
    use serde_json::json;

    struct Case(Entry);

    /// When pods that are made now have been ready for long enough.
    fn later() -> Instant {
        Instant::now() + crate::observe::SETTLE
    }

    impl Case {
        /// A Function whose status names `serving` and whose template gives the returned latest revision.
        fn new(serving: Option<&str>) -> (Self, String) {
            let function = serde_json::from_value(json!({
                "apiVersion": "ebb.dev/v1alpha1", "kind": "Function",
                "metadata": {"name": "hello", "namespace": "shop", "uid": "u", "generation": 2},
                "spec": {"template": {"spec": {"containers": [{"name": "app", "image": "x:2"}]}}},
                "status": {"servingRevision": serving},
            }))
            .unwrap();
            let mut entry = Entry::default();
            crds::function::Function::put(&mut entry, "hello", function, Instant::now());
            let latest = entry.latest().unwrap().to_owned();
            (Self(entry), latest)
        }

        fn deployment(mut self, name: &str, replicas: i32) -> Self {
            let deployment: Deployment =
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {}, "template": {}}})).unwrap();
            self.0.deployments.insert(name.into(), Arc::new(deployment));
            self
        }

        fn pod(mut self, name: &str, revision: &str, status: serde_json::Value) -> Self {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name, "labels": {"ebb.dev/revision": revision}}, "status": status})).unwrap();
            Pod::put(&mut self.0, name, pod, Instant::now());
            self
        }

        fn ready(self, name: &str, revision: &str) -> Self {
            self.pod(
                name,
                revision,
                json!({"conditions": [{"type": "Ready", "status": "True"}]}),
            )
        }
    }

    #[test]
    fn the_first_revision_serves_at_once() {
        let (case, latest) = Case::new(None);
        assert_eq!(
            serving(&case.deployment(&latest, 0).0, later()),
            Some(latest)
        );
    }

    #[test]
    fn a_new_revision_serves_when_all_its_pods_are_ready() {
        let (case, latest) = Case::new(Some("hello-old"));
        let case = case
            .deployment("hello-old", 2)
            .ready("o1", "hello-old")
            .ready("o2", "hello-old")
            .deployment(&latest, 2)
            .ready("n1", &latest);
        assert_eq!(serving(&case.0, later()).as_deref(), Some("hello-old"));
        let case = case.ready("n2", &latest);
        assert_eq!(serving(&case.0, later()), Some(latest));
    }

    #[test]
    fn a_broken_revision_is_replaced_at_once() {
        let (case, latest) = Case::new(Some("hello-old"));
        let broken = json!({"containerStatuses": [{"name": "app", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff"}}}]});
        let case = case
            .deployment("hello-old", 1)
            .pod("o1", "hello-old", broken)
            .deployment(&latest, 1);
        assert_eq!(serving(&case.0, later()), Some(latest));
    }

    #[test]
    fn former_revisions_go_when_their_pods_have_gone() {
        let (case, latest) = Case::new(Some("hello-old"));
        let case = case
            .deployment("hello-old", 0)
            .deployment(&latest, 1)
            .deployment("hello-a", 0)
            .deployment("hello-b", 1);
        let case = case.deployment("hello-c", 0).ready("c1", "hello-c");
        assert_eq!(finished(&case.0), ["hello-a"]);
    }
}
