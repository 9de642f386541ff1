//! A pod as requests see it.

use std::{net::SocketAddr, sync::Arc};

use crds::control::{self, Readiness, RevisionBackends};
use throttle::Told;

use crate::{keeper::Role, metrics::Metrics, pool::Pool};

/// A pod as the operator described it last, and its connections, which outlive the description.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) uid: Arc<str>,
    pub(crate) name: String,
    pub(crate) revision: Arc<str>,
    pub(crate) told: Told,
    pub(crate) readiness: Readiness,
    pub(crate) startup: Option<control::Startup>,
    /// It is no pod of the Function but the activator that keeps its limit.
    pub(crate) is_activator: bool,
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
            is_activator: false,
            pool,
        }
    }

    /// Stands for an activator among pods. No pod's UID has a slash.
    pub(crate) fn uid_of(keeper: &control::Keeper) -> Arc<str> {
        format!("activator/{}", keeper.activator).into()
    }

    /// The activator that requests are sent on to.
    pub(crate) fn keeper(
        uid: Arc<str>,
        address: SocketAddr,
        protocol: control::Protocol,
        before: Option<&Self>,
        metrics: &Arc<Metrics>,
    ) -> Arc<Self> {
        let pool = match before {
            Some(before) if before.pool.serves(address, protocol) => Arc::clone(&before.pool),
            _ => Arc::new(Pool::new(address, protocol, Arc::clone(metrics))),
        };
        Arc::new(Self {
            name: uid.to_string(),
            uid,
            revision: Arc::from(""),
            told: Told::Serving,
            readiness: Readiness::Connect,
            startup: None,
            is_activator: true,
            pool,
        })
    }

    /// For the gate of an activator with this role.
    pub(crate) fn member(self: &Arc<Self>, role: &Role<'_>) -> throttle::Pod<Arc<Self>> {
        let (told, limit) = role.standing(&self.uid, self.told);
        throttle::Pod {
            id: Arc::clone(&self.uid),
            revision: Arc::clone(&self.revision),
            told,
            limit,
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
