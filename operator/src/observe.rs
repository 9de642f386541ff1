//! What is known of the cluster: one index of Functions with their children, fed by watches.
//!
//! The index is a plain struct behind a lock that is held for the copy of a few pointers; whoever decides something takes an
//! [`Entry`] as it is at that moment and works on that.

pub mod kinds;
pub mod watch;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use crds::{function::Function, names::FunctionKey};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::shape::{
    build::ANNOTATION_SERVING,
    problem,
    validate::{Invalid, Plan, Serving},
};

/// A Function and its children, as last seen.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// The Function, if it exists.
    pub function: Option<Arc<Function>>,
    /// What is to be built for it, or why that cannot be.
    pub plan: Option<Arc<Result<Plan, Invalid>>>,
    /// Its Deployments by name, which is the revision's name.
    pub deployments: BTreeMap<String, Arc<Deployment>>,
    /// Its Service, or a foreign one of the same name.
    pub service: Option<Arc<Service>>,
    /// Its EndpointSlice.
    pub slice: Option<Arc<EndpointSlice>>,
    /// Its pods by name.
    pub pods: BTreeMap<String, Arc<ObservedPod>>,
}

/// A pod, and when this operator saw its start get on.
#[derive(Clone, Debug)]
pub struct ObservedPod {
    /// The pod.
    pub pod: Pod,
    /// When it was first seen bound to a node.
    pub scheduled: Option<Instant>,
    /// When it was first seen with an address.
    pub addressed: Option<Instant>,
    /// When it was first seen ready, of the time that it has been ready without a break.
    pub ready: Option<Instant>,
}

/// How long a pod must be ready before it counts as a proof that its revision works. Without a readiness probe the kubelet calls a
/// container ready as soon as it runs, so one that crashes at its start is ready for a moment.
pub const SETTLE: Duration = Duration::from_secs(2);

/// The same for a pod that has crashed before: at its next start it is ready for a moment, too.
pub const SETTLE_CRASHED: Duration = Duration::from_secs(10);

impl ObservedPod {
    /// The pod's revision, by its label.
    pub fn revision(&self) -> Option<&str> {
        let labels = self.pod.metadata.labels.as_ref()?;
        labels.get(crds::names::LABEL_REVISION).map(String::as_str)
    }

    /// UID of the pod.
    pub fn uid(&self) -> Option<&str> {
        self.pod.metadata.uid.as_deref()
    }

    /// Whether the kubelet says that it is ready, and nobody is deleting it.
    pub fn is_ready(&self) -> bool {
        self.is_alive() && problem::is_ready(&self.pod)
    }

    /// Whether it has been ready for so long that its revision can be said to work.
    pub fn is_settled(&self, now: Instant) -> bool {
        let settle = if problem::last_crash(&self.pod).is_some() {
            SETTLE_CRASHED
        } else {
            SETTLE
        };
        self.is_ready()
            && self
                .ready
                .is_some_and(|since| now.saturating_duration_since(since) >= settle)
    }

    /// Whether it may still serve: nobody is deleting it, and it has not ended (an evicted pod stays as an object, with its address).
    pub fn is_alive(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        self.pod.metadata.deletion_timestamp.is_none()
            && !matches!(phase, Some("Failed" | "Succeeded"))
    }
}

impl Entry {
    /// The plan, if the Function is valid.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_deref()?.as_ref().ok()
    }

    /// Name of the revision that takes the requests: the one in the status while its Deployment exists, else the latest.
    pub fn serving(&self) -> Option<&str> {
        let status = self.function.as_ref().and_then(|f| f.status.as_ref());
        let recorded = status.and_then(|s| s.serving_revision.as_deref());
        recorded
            .filter(|name| self.deployments.contains_key(*name))
            .or_else(|| {
                self.latest()
                    .filter(|name| self.deployments.contains_key(*name))
            })
    }

    /// Name of the revision of the template as it is now.
    pub fn latest(&self) -> Option<&str> {
        self.plan().map(|p| p.revision.as_str())
    }

    /// Pods that a revision's Deployment asks for.
    pub fn replicas(&self, revision: &str) -> Option<u32> {
        let spec = self.deployments.get(revision)?.spec.as_ref()?;
        // A count below zero cannot be stored; an absent one means 1 to the API server.
        Some(u32::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0))
    }

    /// The field manager that set a revision's count, if it was neither the scaler nor the creation.
    pub fn foreign_scaler(&self, revision: &str) -> Option<&str> {
        let fields = self
            .deployments
            .get(revision)?
            .metadata
            .managed_fields
            .as_ref()?;
        let managers = || fields.iter().filter_map(|f| f.manager.as_deref());
        let ours = [
            crds::names::FIELD_MANAGER_SCALE,
            crds::names::FIELD_MANAGER_SHAPE,
        ];
        managers()
            .all(|m| !ours.contains(&m))
            .then(|| managers().next())
            .flatten()
    }

    /// Whether a revision has not had all pods that it was created with yet. Kubernetes notes that they were there once, and that
    /// it has given up waiting for them.
    pub fn is_new(&self, revision: &str) -> bool {
        let conditions = |d: &Arc<Deployment>| d.status.as_ref()?.conditions.clone();
        let conditions = self
            .deployments
            .get(revision)
            .and_then(conditions)
            .unwrap_or_default();
        let progress = conditions.iter().find(|c| c.type_ == "Progressing");
        !progress
            .and_then(|c| c.reason.as_deref())
            .is_some_and(|reason| {
                matches!(
                    reason,
                    "NewReplicaSetAvailable" | "ProgressDeadlineExceeded"
                )
            })
    }

    /// How a revision is served, from its Deployment's annotation.
    pub fn serving_of(&self, revision: &str) -> Option<Serving> {
        let annotations = self
            .deployments
            .get(revision)?
            .metadata
            .annotations
            .as_ref()?;
        serde_json::from_str(annotations.get(ANNOTATION_SERVING)?).ok()
    }

    /// The pods of a revision.
    pub fn pods_of<'a>(&'a self, revision: &'a str) -> impl Iterator<Item = &'a ObservedPod> {
        self.pods
            .values()
            .map(AsRef::as_ref)
            .filter(move |p| p.revision() == Some(revision))
    }

    /// Pods of a revision that are ready by the kubelet's word.
    pub fn ready(&self, revision: &str) -> u32 {
        // Pods of one Deployment are far below u32's bound.
        self.pods_of(revision).filter(|p| p.is_ready()).count() as u32
    }

    /// Pods of a revision that have been ready for a while.
    pub fn settled(&self, revision: &str, now: Instant) -> u32 {
        self.pods_of(revision).filter(|p| p.is_settled(now)).count() as u32
    }

    /// The Service if it belongs to this Function.
    pub fn own_service(&self) -> Option<&Service> {
        let uid = self.function.as_ref()?.metadata.uid.as_deref()?;
        let service = self.service.as_deref()?;
        let owners = service.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|o| o.uid == uid).then_some(service)
    }

    /// The Function's port on the activators, as its Service records it.
    pub fn port(&self) -> Option<u16> {
        kinds::recorded_port(self.own_service()?)
    }

    fn is_empty(&self) -> bool {
        self.function.is_none()
            && self.deployments.is_empty()
            && self.service.is_none()
            && self.slice.is_none()
            && self.pods.is_empty()
    }
}

/// All entries.
#[derive(Debug, Default)]
pub struct Index {
    entries: Mutex<HashMap<FunctionKey, Entry>>,
}

impl Index {
    /// The Function and its children as they are known now.
    pub fn entry(&self, key: &FunctionKey) -> Entry {
        self.entries.lock().get(key).cloned().unwrap_or_default()
    }

    /// Every Function that exists or has left children.
    pub fn keys(&self) -> Vec<FunctionKey> {
        self.entries.lock().keys().cloned().collect()
    }

    /// Computes something over all entries under the lock; keep it short.
    pub fn map<T>(&self, mut of: impl FnMut(&FunctionKey, &Entry) -> Option<T>) -> Vec<T> {
        self.entries
            .lock()
            .iter()
            .filter_map(|(key, entry)| of(key, entry))
            .collect()
    }

    fn change<T>(&self, key: &FunctionKey, change: impl FnOnce(&mut Entry) -> T) -> T {
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.clone()).or_default();
        let result = change(entry);
        if entry.is_empty() {
            entries.remove(key);
        }
        result
    }
}
