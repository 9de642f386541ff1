//! How each watched kind stands in an [`Entry`].

use std::{fmt::Debug, sync::Arc};

use crds::{
    function::Function,
    names::{FUNCTION_PORT_FIRST, FUNCTION_PORT_LAST, FunctionKey, LABEL_FUNCTION},
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::Resource;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{
    observe::{Entry, ObservedPod},
    shape::{problem, validate},
};

/// What an event has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// What somebody asks for: a person may be waiting for its effect.
    Wish,
    /// How things stand. They change a dozen times in a quarter of a second while a pod starts.
    State,
}

/// A kind that the index holds.
pub trait Indexed:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Name of the kind, for logs and readiness.
    const NAME: &'static str;

    /// Which Function an object belongs to, `None` if to none of ours.
    fn key(meta: &ObjectMeta) -> Option<FunctionKey> {
        let function = meta.labels.as_ref()?.get(LABEL_FUNCTION)?;
        Some(FunctionKey::new(
            meta.namespace.as_deref()?,
            function.as_str(),
        ))
    }

    /// Puts the object in its place.
    fn put(entry: &mut Entry, name: &str, object: Self, now: Instant) -> Change;

    /// Takes the object of this name out.
    fn remove(entry: &mut Entry, name: &str);

    /// Names of all objects of this kind in the entry.
    fn names(entry: &Entry) -> Vec<String>;
}

impl Indexed for Function {
    const NAME: &'static str = "functions";

    fn key(meta: &ObjectMeta) -> Option<FunctionKey> {
        Some(FunctionKey::new(
            meta.namespace.as_deref()?,
            meta.name.as_deref()?,
        ))
    }

    fn put(entry: &mut Entry, _: &str, mut function: Self, _: Instant) -> Change {
        function.metadata.managed_fields = None;
        let known = entry.function.as_ref().and_then(|f| f.metadata.generation);
        let same = known.is_some()
            && known == function.metadata.generation
            && entry
                .function
                .as_ref()
                .and_then(|f| f.metadata.uid.as_ref())
                == function.metadata.uid.as_ref();
        if !same {
            entry.plan = Some(Arc::new(validate::plan(&function)));
        }
        entry.function = Some(Arc::new(function));
        if same { Change::State } else { Change::Wish }
    }

    fn remove(entry: &mut Entry, _: &str) {
        entry.function = None;
        entry.plan = None;
    }

    fn names(entry: &Entry) -> Vec<String> {
        entry
            .function
            .iter()
            .filter_map(|f| f.metadata.name.clone())
            .collect()
    }
}

impl Indexed for Deployment {
    const NAME: &'static str = "deployments";

    fn put(entry: &mut Entry, name: &str, mut deployment: Self, _: Instant) -> Change {
        // Of the managed fields only one thing is ever asked: who has set the count.
        if let Some(fields) = &mut deployment.metadata.managed_fields {
            fields.retain(|f| {
                let owned = f.fields_v1.as_ref().map(|owned| &owned.0);
                owned.is_some_and(|owned| !owned["f:spec"]["f:replicas"].is_null())
            });
            fields.iter_mut().for_each(|f| f.fields_v1 = None);
        }
        entry.deployments.insert(name.into(), Arc::new(deployment));
        Change::State
    }

    fn remove(entry: &mut Entry, name: &str) {
        entry.deployments.remove(name);
    }

    fn names(entry: &Entry) -> Vec<String> {
        entry.deployments.keys().cloned().collect()
    }
}

impl Indexed for Service {
    const NAME: &'static str = "services";

    fn put(entry: &mut Entry, _: &str, mut service: Self, _: Instant) -> Change {
        service.metadata.managed_fields = None;
        entry.service = Some(Arc::new(service));
        Change::State
    }

    fn remove(entry: &mut Entry, _: &str) {
        entry.service = None;
    }

    fn names(entry: &Entry) -> Vec<String> {
        entry
            .service
            .iter()
            .filter_map(|s| s.metadata.name.clone())
            .collect()
    }
}

impl Indexed for EndpointSlice {
    const NAME: &'static str = "endpointslices";

    fn put(entry: &mut Entry, _: &str, mut slice: Self, _: Instant) -> Change {
        slice.metadata.managed_fields = None;
        entry.slice = Some(Arc::new(slice));
        Change::State
    }

    fn remove(entry: &mut Entry, _: &str) {
        entry.slice = None;
    }

    fn names(entry: &Entry) -> Vec<String> {
        entry
            .slice
            .iter()
            .filter_map(|s| s.metadata.name.clone())
            .collect()
    }
}

impl Indexed for Pod {
    const NAME: &'static str = "pods";

    fn put(entry: &mut Entry, name: &str, mut pod: Self, now: Instant) -> Change {
        pod.metadata.managed_fields = None;
        let before = entry
            .pods
            .get(name)
            .filter(|p| p.pod.metadata.uid == pod.metadata.uid);
        let scheduled = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        let addressed = pod.status.as_ref().is_some_and(|s| s.pod_ip.is_some());
        let seen = |is: bool, at: Option<Instant>| at.or(is.then_some(now));
        let observed = ObservedPod {
            scheduled: seen(scheduled, before.and_then(|b| b.scheduled)),
            addressed: seen(addressed, before.and_then(|b| b.addressed)),
            ready: seen(true, before.and_then(|b| b.ready)).filter(|_| problem::is_ready(&pod)),
            pod: slim(pod),
        };
        entry.pods.insert(name.into(), Arc::new(observed));
        Change::State
    }

    fn remove(entry: &mut Entry, name: &str) {
        entry.pods.remove(name);
    }

    fn names(entry: &Entry) -> Vec<String> {
        entry.pods.keys().cloned().collect()
    }
}

/// A pod without its spec, of which nothing is asked but the node: there may be many thousand.
fn slim(mut pod: Pod) -> Pod {
    pod.spec = None;
    pod.metadata.annotations = None;
    pod
}

/// The Function's port on the activators that a Service of ours records, if it is one that Ebb gives.
pub fn recorded_port(service: &Service) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    match ports.first()?.target_port.as_ref()? {
        IntOrString::Int(port) => {
            let port = u16::try_from(*port).ok()?;
            (FUNCTION_PORT_FIRST..=FUNCTION_PORT_LAST)
                .contains(&port)
                .then_some(port)
        }
        IntOrString::String(_) => None,
    }
}
