//! Frames to tell an activator.

use std::net::SocketAddr;

use crds::{
    control::{
        Backends, Limit, Pod, PodState, Problem, Protocol, Readiness, RevisionBackends, Route,
        ToActivator, Weight,
    },
    names::FunctionKey,
};

/// The revision of all pods in these tests.
pub(crate) const REVISION: &str = "hello-1";

/// Builds a route.
pub(crate) fn route(function: &FunctionKey, port: u16) -> Route {
    Route {
        function: function.clone(),
        port,
        hosts: vec![format!("{}.{}", function.name, function.namespace)],
        weights: vec![Weight {
            revision: REVISION.to_owned(),
            weight: 100,
        }],
        cold_start_ms: 30_000,
        request_ms: 30_000,
        first_byte_ms: None,
        idle_ms: None,
        count_upgrades: true,
        keep_alive_probe: None,
    }
}

/// Builds `Backends`; turn it into a frame with `frame`.
#[derive(Clone)]
pub(crate) struct Pods(Backends);

/// No pods of `function`, with nothing draining.
pub(crate) fn pods(function: &FunctionKey) -> Pods {
    Pods(Backends {
        function: function.clone(),
        drain: 0,
        revisions: vec![RevisionBackends {
            revision: REVISION.to_owned(),
            port: 1,
            protocol: Protocol::Http1,
            readiness: Readiness::Connect,
            problem: None,
            pods: Vec::new(),
        }],
        problem: None,
        limit: None,
    })
}

impl Pods {
    /// Adds a pod whose UID is its name.
    pub(crate) fn pod(mut self, name: &str, address: SocketAddr, state: PodState) -> Self {
        let revision = &mut self.0.revisions[0];
        revision.port = address.port();
        revision.pods.push(Pod {
            uid: name.to_owned(),
            name: name.to_owned(),
            address: address.ip(),
            state,
            startup: None,
        });
        self
    }

    pub(crate) fn startup(mut self, startup: crds::control::Startup) -> Self {
        for pod in &mut self.0.revisions[0].pods {
            pod.startup = Some(startup);
        }
        self
    }

    pub(crate) fn drain(mut self, number: u64) -> Self {
        self.0.drain = number;
        self
    }

    pub(crate) fn protocol(mut self, protocol: Protocol) -> Self {
        self.0.revisions[0].protocol = protocol;
        self
    }

    pub(crate) fn readiness(mut self, readiness: Readiness) -> Self {
        self.0.revisions[0].readiness = readiness;
        self
    }

    pub(crate) fn problem(mut self, reason: &str, message: &str, fatal: bool) -> Self {
        self.0.revisions[0].problem = Some(Problem {
            reason: reason.to_owned(),
            message: message.to_owned(),
            fatal,
        });
        self
    }

    /// Without any revision, because of this.
    pub(crate) fn no_revision(mut self, reason: &str, message: &str) -> Self {
        self.0.revisions.clear();
        self.0.problem = Some(Problem {
            reason: reason.to_owned(),
            message: message.to_owned(),
            fatal: true,
        });
        self
    }

    /// With a limit of requests at once, in this term.
    pub(crate) fn limit(mut self, limit: Limit) -> Self {
        self.0.limit = Some(limit);
        self
    }

    pub(crate) fn frame(self) -> ToActivator {
        ToActivator::Backends(self.0)
    }
}
