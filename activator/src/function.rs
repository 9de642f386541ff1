//! A Function as this activator knows it.

mod wake;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use crds::{
    control::{self, Backends, Phases, Problem, Readiness, Route, ToOperator},
    names::FunctionKey,
};
use http::HeaderMap;
use parking_lot::Mutex;
use throttle::{Gate, Notice, Target, Told};
use tokio::sync::Notify;

use crate::{
    keeper::{Peers, Role},
    metrics::Metrics,
    operators::Operators,
    pod::Pod,
    probe,
    stats::Surges,
    timing::ColdStart,
    veto,
};
use wake::Wakes;

/// One Function.
pub(crate) struct Function {
    pub(crate) key: FunctionKey,
    pub(crate) gate: Arc<Gate<Arc<Pod>>>,
    settings: ArcSwap<Settings>,
    /// The pods of the last picture by UID, so that the next one takes over their connections.
    pods: Mutex<HashMap<Arc<str>, Arc<Pod>>>,
    wakes: Mutex<Wakes>,
    /// Tells those who wait, from time to time, that a problem keeps pods from starting that does not pass by waiting.
    pub(crate) hopeless: Notify,
    /// The highest term of a limit that was followed; see [`Role::of`].
    newest_term: AtomicU64,
    /// Name of this activator.
    name: Arc<str>,
    operators: Arc<Operators>,
    metrics: Arc<Metrics>,
}

/// What requests need to know of the Function's route and revisions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// How long a request may wait for a pod.
    pub(crate) cold_start: Duration,
    /// How long a request may take from its arrival at a pod on.
    pub(crate) request: Duration,
    /// How long a pod may take to begin its answer.
    pub(crate) first_byte: Duration,
    /// How long a pod may send nothing of an answer that it has begun, if that is bounded.
    pub(crate) idle: Option<Duration>,
    /// Whether an upgraded connection counts as a request in its pod.
    pub(crate) count_upgrades: bool,
    /// Path that is asked before a pod goes, if any.
    keep_alive_probe: Option<String>,
    /// If the Function has a limit of requests at once.
    peers: Option<Peers>,
    /// Of that limit.
    term: u64,
    /// What keeps a revision's pods from starting.
    problems: HashMap<String, Problem>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Function").field(&self.key).finish()
    }
}

impl Function {
    pub(crate) fn new(
        key: FunctionKey,
        name: &Arc<str>,
        max_held: usize,
        operators: &Arc<Operators>,
        metrics: &Arc<Metrics>,
        surges: &Arc<Surges>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|function: &Weak<Self>| Self {
            gate: Gate::new(max_held, notices(function.clone(), Arc::clone(surges))),
            key,
            settings: ArcSwap::default(),
            pods: Mutex::default(),
            wakes: Mutex::default(),
            hopeless: Notify::new(),
            newest_term: AtomicU64::new(0),
            name: Arc::clone(name),
            operators: Arc::clone(operators),
            metrics: Arc::clone(metrics),
        })
    }

    /// Follows the operator's picture. Those who wait go if a pod has become usable.
    pub(crate) fn apply(self: &Arc<Self>, route: &Route, backends: Option<&Backends>) {
        self.settings
            .store(Arc::new(Settings::new(route, backends)));
        let limit = backends.and_then(|backends| backends.limit.as_ref());
        let term = limit.map_or(0, |limit| limit.term);
        let newest = self.newest_term.fetch_max(term, Ordering::Relaxed);
        let role = Role::of(limit, &self.name, newest);
        let weights = route.weights.iter();
        let mut target = Target {
            drain: backends.map_or(0, |backends| backends.drain),
            weights: weights
                .map(|w| (w.revision.as_str().into(), w.weight))
                .collect(),
            pods: self.replace_pods(route, backends, &role),
            released: None,
        };
        if let Role::Other { term, keeper } = role {
            target.released = Some(term);
            if keeper.is_some() {
                // Which revision answers is the keeper's to choose.
                target.weights = vec![(Arc::from(""), 1)];
            }
        }
        if self.gate.update(target) {
            self.wakes.lock().begin_anew();
        }
        self.rouse();
    }

    /// The Function is gone: nobody waits any more, nobody comes in.
    pub(crate) fn close(self: &Arc<Self>) {
        self.gate.close();
        for pod in std::mem::take(&mut *self.pods.lock()).values() {
            pod.pool.close();
        }
    }

    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// How many activators have sent on a request with these headers, from this client; `None` without a limit, since then none does.
    pub(crate) fn hops(&self, client: IpAddr, headers: &HeaderMap) -> Option<u32> {
        let settings = self.settings();
        let peers = settings.peers.as_ref()?;
        Some(peers.hops(client, headers))
    }

    /// Starts the probes that are due.
    pub(crate) fn probe_pods(self: &Arc<Self>) {
        for probe in self.gate.probes() {
            let pod = probe.payload();
            // What only the kubelet can find out is not guessed; but that a pod which it calls ready accepts connections can be.
            if pod.readiness != Readiness::Kubelet || pod.told == Told::Serving {
                tokio::spawn(probe::run(Arc::clone(self), probe));
            }
        }
    }

    /// Tells the operators that the present drain has come to its end, if it did: one has just come that may not know.
    pub(crate) fn tell_drained(self: &Arc<Self>) {
        if let Some(drain) = self.gate.drained() {
            self.drained(drain);
        }
    }

    /// Nothing is in flight to the pods of this drain. They may go unless they say that they are busy otherwise.
    fn drained(self: &Arc<Self>, drain: u64) {
        match &self.settings().keep_alive_probe {
            Some(path) => {
                tokio::spawn(veto::ask(Arc::clone(self), path.clone(), drain));
            }
            None => {
                let function = self.key.clone();
                self.tell(&ToOperator::Drained { function, drain });
            }
        }
    }

    /// The pods that take no new requests.
    pub(crate) fn draining(&self) -> Vec<Arc<Pod>> {
        let pods = self.pods.lock();
        let draining = pods.values().filter(|pod| pod.told == Told::Draining);
        draining.cloned().collect()
    }

    pub(crate) fn tell(&self, frame: &ToOperator) {
        self.operators.send(frame);
    }

    /// A probe has passed that was the first to find the pod ready.
    pub(crate) fn probed(&self, pod: &Pod) {
        self.operators.send(&ToOperator::Probed {
            function: self.key.clone(),
            pod: pod.uid.to_string(),
        });
    }

    /// Reports the phases of a held request that was answered, if it is the first of its cold start.
    pub(crate) fn report(&self, cold_start: &ColdStart, pod: &Pod, status: u16, phases: Phases) {
        if cold_start.reported.swap(true, Ordering::Relaxed) {
            return;
        }
        self.metrics.cold_start(&phases);
        tracing::info!(
            function = %self.key,
            revision = %pod.revision,
            pod = pod.name,
            status,
            queued_us = phases.queued_us,
            scaled_us = phases.scaled_us,
            scheduled_us = phases.scheduled_us,
            started_us = phases.started_us,
            answered_us = phases.answered_us,
            total_us = phases.total_us(),
            "cold start"
        );
        self.operators
            .send(&ToOperator::ColdStart(control::ColdStart {
                function: self.key.clone(),
                revision: pod.revision.to_string(),
                pod: pod.name.clone(),
                status,
                phases,
            }));
    }

    /// Nothing more is sent to its pods from here; in `busy` requests still are.
    fn released(&self, busy: &[Arc<str>]) {
        self.tell(&ToOperator::Released {
            function: self.key.clone(),
            term: self.settings().term,
            newest: self.newest_term.load(Ordering::Relaxed),
            busy: busy.iter().map(ToString::to_string).collect(),
        });
    }

    /// Requests that were sent on to the keeper of the limit, who counts them.
    pub(crate) fn sent_on(&self) -> u32 {
        if self.settings().peers.is_none() {
            return 0;
        }
        let pods = self.pods.lock();
        let keeper = pods.values().find(|pod| pod.is_activator);
        keeper.map_or(0, |keeper| self.gate.load_of(&keeper.uid))
    }

    /// Takes over the pods of a new picture and closes the connections to those that are gone.
    fn replace_pods(
        &self,
        route: &Route,
        backends: Option<&Backends>,
        role: &Role<'_>,
    ) -> Vec<throttle::Pod<Arc<Pod>>> {
        let mut pods = self.pods.lock();
        let mut before = std::mem::take(&mut *pods);
        let mut members = Vec::new();
        for revision in backends.iter().flat_map(|backends| &backends.revisions) {
            for told in &revision.pods {
                let known = before.remove(told.uid.as_str());
                let pod = Arc::new(Pod::new(told, revision, known.as_deref(), &self.metrics));
                members.push(pod.member(role));
                pods.insert(Arc::clone(&pod.uid), pod);
            }
        }
        if let Role::Other {
            keeper: Some(keeper),
            ..
        } = role
        {
            let protocol = backends
                .and_then(|b| b.revisions.first())
                .map(|r| r.protocol);
            let uid = Pod::uid_of(keeper);
            let known = before.remove(&*uid);
            let address = (keeper.address, route.port).into();
            let protocol = protocol.unwrap_or_default();
            let pod = Pod::keeper(uid, address, protocol, known.as_deref(), &self.metrics);
            members.push(pod.member(&Role::Any));
            pods.insert(Arc::clone(&pod.uid), pod);
        }
        before.values().for_each(|gone| gone.pool.close());
        members
    }
}

/// What a Function's gate calls.
fn notices(function: Weak<Function>, surges: Arc<Surges>) -> impl Fn(Notice) + Send + Sync {
    move |notice| {
        // There is none only while it is being dropped.
        let Some(function) = function.upgrade() else {
            return;
        };
        match notice {
            Notice::Drained(drain) => function.drained(drain),
            Notice::Surge => surges.add(&function.key),
            Notice::Released(busy) => function.released(&busy),
        }
    }
}

impl Settings {
    fn new(route: &Route, backends: Option<&Backends>) -> Self {
        let revisions = backends.into_iter().flat_map(|b| &b.revisions);
        let limit = backends.and_then(|backends| backends.limit.as_ref());
        let problem =
            |r: &control::RevisionBackends| Some((r.revision.clone(), r.problem.clone()?));
        let none = backends.and_then(|backends| backends.problem.clone());
        let none = none.map(|problem| (String::new(), problem));
        Self {
            cold_start: Duration::from_millis(route.cold_start_ms),
            request: Duration::from_millis(route.request_ms),
            first_byte: Duration::from_millis(route.first_byte_ms.unwrap_or(route.request_ms)),
            idle: route.idle_ms.map(Duration::from_millis),
            count_upgrades: route.count_upgrades,
            keep_alive_probe: route.keep_alive_probe.clone(),
            peers: limit.map(Peers::of),
            term: limit.map_or(0, |limit| limit.term),
            problems: revisions.filter_map(problem).chain(none).collect(),
        }
    }

    /// What keeps the pods of `revision` from starting; of none, what keeps the Function from having one.
    pub(crate) fn problem(&self, revision: &str) -> Option<&Problem> {
        self.problems.get(revision)
    }

    /// Whether there is a problem that does not pass by waiting.
    fn is_hopeless(&self) -> bool {
        self.problems.values().any(|problem| problem.fatal)
    }
}
