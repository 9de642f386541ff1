//! A pod as requests see it.

use std::sync::Arc;

use crds::control::{self, Readiness, RevisionBackends};
use throttle::Told;

use crate::{metrics::Metrics, pool::Pool};

/// A pod as the operator described it last, and its connections, which outlive the description.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) uid: Arc<str>,
    pub(crate) name: String,
    pub(crate) revision: Arc<str>,
    pub(crate) told: Told,
    pub(crate) readiness: Readiness,
    pub(crate) startup: Option<control::Startup>,
    pub(crate) pool: Arc<Pool>,
}

impl Pod {
    /// The pod that `pod` of `revision` describes; `before` is what was known of it.
    pub(crate) fn new(
        pod: &control::Pod,
        revision: &RevisionBackends,
        before: Option<&Self>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let address = (pod.address, revision.port).into();
        let pool = match before {
            Some(before) if before.pool.serves(address, revision.protocol) => {
                Arc::clone(&before.pool)
            }
            _ => Arc::new(Pool::new(address, revision.protocol, Arc::clone(metrics))),
        };
        Self {
            uid: pod.uid.as_str().into(),
            name: pod.name.clone(),
            revision: revision.revision.as_str().into(),
            told: told(pod.state),
            readiness: revision.readiness.clone(),
            // Another operator's picture may lack the times of a start that it did not see.
            startup: pod.startup.or(before.and_then(|before| before.startup)),
            pool,
        }
    }

    /// For the gate.
    pub(crate) fn member(self: &Arc<Self>) -> throttle::Pod<Arc<Self>> {
        throttle::Pod {
            id: Arc::clone(&self.uid),
            revision: Arc::clone(&self.revision),
            told: self.told,
            payload: Arc::clone(self),
        }
    }
}

fn told(state: control::PodState) -> Told {
    match state {
        control::PodState::Starting => Told::Starting,
        control::PodState::Serving => Told::Serving,
        control::PodState::Draining => Told::Draining,
    }
}
