//! The activators: a control stream to each, what each has been told, and which of them listen for which Function.
//!
//! The fleet itself decides nothing. The scaler publishes each Function's state here; sessions carry it to the activators, and bring
//! what they answer to the scaler.

pub mod discover;
pub mod owners;
pub mod render;
mod secure;
pub mod session;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use crds::{
    control::{Backends, Certificate, Route, ToActivator, encode},
    names::FunctionKey,
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    certificates::{Wanted, pair::Pair},
    scaler::unit::keeping::Candidate,
};

/// Frames that may wait for one activator. A burst of changes of a thousand Functions fits; an activator that is further behind is
/// stuck, and gets a new stream and the full state instead.
const OUTBOX: usize = 4096;

/// Names one control stream; a new stream to the same activator has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// An activator's pod, as the watch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activator {
    /// Name of the pod.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Ready by the kubelet's word and not being deleted: clients may be sent to it.
    pub ready: bool,
}

/// All activators and what they are told.
#[derive(Debug, Default)]
pub struct Fleet {
    inner: Mutex<Inner>,
    next_session: AtomicU64,
}

/// What activators must know of a Function.
#[derive(Clone, Debug)]
pub struct State {
    /// How requests reach it.
    pub route: Route,
    /// Its pods.
    pub backends: Backends,
    /// Its certificate.
    pub certificate: Wanted,
    /// The hosts that it claims and has, which the certificate is for.
    pub hosts: Vec<String>,
}

#[derive(Debug, Default)]
struct Inner {
    published: BTreeMap<FunctionKey, Published>,
    sessions: BTreeMap<SessionId, Session>,
    /// Activators that run, by pod UID.
    activators: BTreeMap<String, Activator>,
    epoch: Option<u64>,
    /// Whether all Functions have been published. Before that no activator may take what it was told for all that there is.
    complete: bool,
    /// Since when no stream has been open; `None` while one is, and before the first look.
    alone_since: Option<Instant>,
}

#[derive(Clone)]
struct Published {
    route: Bytes,
    backends: Bytes,
    certificate: Option<Told>,
}

/// Shows nothing: among what is told are private keys.
impl std::fmt::Debug for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Published")
    }
}

/// A certificate that activators were told, and what it was made of.
#[derive(Clone)]
struct Told {
    pair: Arc<Pair>,
    hosts: Vec<String>,
    frame: Bytes,
}

impl Told {
    fn new(key: &FunctionKey, pair: Arc<Pair>, hosts: Vec<String>) -> Self {
        let covered = hosts.iter().filter(|host| pair.covers(host));
        let certificate = Certificate {
            function: key.clone(),
            hosts: covered.cloned().collect(),
            chain_pem: pair.chain_pem.clone(),
            key_pem: pair.key_pem.clone(),
        };
        let frame = encode(&ToActivator::Certificate(certificate)).into();
        Self { pair, hosts, frame }
    }

    fn is_of(&self, pair: &Arc<Pair>, hosts: &[String]) -> bool {
        Arc::ptr_eq(&self.pair, pair) && self.hosts == hosts
    }
}

#[derive(Debug)]
struct Session {
    /// UID of the activator's pod.
    pod: String,
    outbox: mpsc::Sender<Bytes>,
    bound: HashMap<FunctionKey, u16>,
}

/// A new session's outgoing frames: the full state, then what comes.
pub struct Outgoing {
    /// Frames of the full state.
    pub first: Vec<Bytes>,
    /// Frames of later changes; it closes when the session has fallen behind.
    pub then: mpsc::Receiver<Bytes>,
}

impl Fleet {
    /// Tells all activators a Function's state; `None`: it is gone. What has not changed is not sent again.
    pub fn publish(&self, key: &FunctionKey, state: Option<State>) {
        let mut inner = self.inner.lock();
        let Some(state) = state else {
            if inner.published.remove(key).is_some() {
                inner.send(
                    &encode(&ToActivator::Remove {
                        function: key.clone(),
                    })
                    .into(),
                );
            }
            return;
        };
        let old = inner.published.remove(key);
        let told = old.as_ref().and_then(|old| old.certificate.clone());
        let certificate = match state.certificate {
            Wanted::AsBefore => told.clone(),
            Wanted::Nothing => None,
            Wanted::This(pair) => Some(match &told {
                Some(told) if told.is_of(&pair, &state.hosts) => told.clone(),
                _ => Told::new(key, pair, state.hosts),
            }),
        };
        let new = Published {
            route: encode(&ToActivator::Route(state.route)).into(),
            backends: encode(&ToActivator::Backends(state.backends)).into(),
            certificate,
        };
        inner.published.insert(key.clone(), new.clone());
        if old.as_ref().is_none_or(|old| old.route != new.route) {
            inner.send(&new.route);
        }
        if old.as_ref().is_none_or(|old| old.backends != new.backends) {
            inner.send(&new.backends);
        }
        match (told, new.certificate) {
            (Some(told), Some(new)) if told.frame == new.frame => {}
            (_, Some(new)) => inner.send(&new.frame),
            (Some(_), None) => {
                let function = key.clone();
                inner.send(&encode(&ToActivator::NoCertificate { function }).into());
            }
            (None, None) => {}
        }
    }

    /// All Functions that exist have been published: tells the activators that are connected already.
    pub fn complete(&self) {
        let mut inner = self.inner.lock();
        inner.complete = true;
        inner.send(&encode(&ToActivator::Synced).into());
    }

    /// Tells all activators whether this replica holds the lease.
    pub fn lead(&self, epoch: Option<u64>) {
        let mut inner = self.inner.lock();
        inner.epoch = epoch;
        inner.send(&encode(&ToActivator::Lead { epoch }).into());
    }

    /// The activators that run now, by pod UID.
    pub fn set_activators(&self, activators: BTreeMap<String, Activator>) {
        self.inner.lock().activators = activators;
    }

    /// Registers a stream to the activator of this pod UID.
    pub fn open(&self, pod: &str) -> (SessionId, Outgoing) {
        let id = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));
        let (outbox, then) = mpsc::channel(OUTBOX);
        let mut inner = self.inner.lock();
        let mut first: Vec<Bytes> = Vec::with_capacity(2 * inner.published.len() + 2);
        for state in inner.published.values() {
            first.push(state.route.clone());
            first.push(state.backends.clone());
            first.extend(state.certificate.as_ref().map(|told| told.frame.clone()));
        }
        // Before `Synced`, so that an activator never follows this replica for a moment and then another.
        first.push(encode(&ToActivator::Lead { epoch: inner.epoch }).into());
        if inner.complete {
            first.push(encode(&ToActivator::Synced).into());
        }
        inner.sessions.insert(
            id,
            Session {
                pod: pod.into(),
                outbox,
                bound: HashMap::new(),
            },
        );
        (id, Outgoing { first, then })
    }

    /// Forgets a stream.
    pub fn close(&self, id: SessionId) {
        self.inner.lock().sessions.remove(&id);
    }

    /// For how long no stream has been open, as seen at `now`; `None` while one is.
    pub fn alone_for(&self, now: Instant) -> Option<Duration> {
        let mut inner = self.inner.lock();
        if !inner.sessions.is_empty() {
            inner.alone_since = None;
            return None;
        }
        let since = *inner.alone_since.get_or_insert(now);
        Some(now.saturating_duration_since(since))
    }

    /// An activator listens on a Function's port, or (`None`) could not.
    pub fn bound(&self, id: SessionId, key: FunctionKey, port: Option<u16>) {
        if let Some(session) = self.inner.lock().sessions.get_mut(&id) {
            match port {
                Some(port) => session.bound.insert(key, port),
                None => session.bound.remove(&key),
            };
        }
    }

    /// The streams that are open.
    pub fn sessions(&self) -> BTreeSet<SessionId> {
        self.inner.lock().sessions.keys().copied().collect()
    }

    /// Whether requests may go where no stream leads: to an activator that is not connected, or, when none is ready, straight to pods.
    pub fn strangers(&self) -> bool {
        let inner = self.inner.lock();
        let known: BTreeSet<&str> = inner.sessions.values().map(|s| s.pod.as_str()).collect();
        let mut ready = inner.activators.iter().filter(|(_, a)| a.ready).peekable();
        ready.peek().is_none() || ready.any(|(uid, _)| !known.contains(uid.as_str()))
    }

    /// Whether no activator is ready: they are leaving, or have not come yet.
    pub fn none_ready(&self) -> bool {
        !self.inner.lock().activators.values().any(|a| a.ready)
    }

    /// The activators that clients of this Function should be sent to: those that listen on its port, narrowed to its owners.
    pub fn endpoints(&self, key: &FunctionKey, port: u16) -> Vec<(String, IpAddr)> {
        let owners = self.inner.lock().owners(key, port);
        let endpoint = |owner: Candidate| (owner.name, owner.address);
        owners.into_iter().map(endpoint).collect()
    }

    /// The activator that should keep the limit of this Function: its first owner.
    pub fn keeper(&self, key: &FunctionKey, port: u16) -> Option<Candidate> {
        self.inner.lock().owners(key, port).into_iter().next()
    }

    /// Addresses of the activators.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let inner = self.inner.lock();
        inner.activators.values().map(|a| a.address).collect()
    }
}

impl Inner {
    /// The activators that listen for a Function and that clients can be sent to, narrowed to its owners, best first.
    fn owners(&self, key: &FunctionKey, port: u16) -> Vec<Candidate> {
        let listening = self
            .sessions
            .iter()
            .filter(|(_, s)| s.bound.get(key) == Some(&port));
        let candidates: BTreeMap<&str, (SessionId, &Activator)> = listening
            .filter_map(|(id, s)| Some((*id, self.activators.get(&s.pod)?)))
            .filter(|(_, a)| a.ready)
            .map(|(id, a)| (a.name.as_str(), (id, a)))
            .collect();
        let candidate = |name| {
            let (session, activator) = candidates.get(name)?;
            Some(Candidate {
                session: *session,
                name: activator.name.clone(),
                address: activator.address,
            })
        };
        owners::choose(key, candidates.keys().copied())
            .into_iter()
            .filter_map(candidate)
            .collect()
    }

    /// Queues a frame for every activator. A session whose queue is full is dropped here: its stream then ends and is opened anew.
    fn send(&mut self, frame: &Bytes) {
        self.sessions.retain(|id, session| {
            let sent = session.outbox.try_send(frame.clone()).is_ok();
            if !sent {
                tracing::warn!(
                    session = id.0,
                    pod = session.pod,
                    "activator fell behind, its control stream is opened anew"
                );
            }
            sent
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_synced(frame: &Bytes) -> bool {
        *frame == encode(&ToActivator::Synced)
    }

    fn state(certificate: Wanted, hosts: &[&str]) -> State {
        let function = FunctionKey::new("shop", "hello");
        State {
            route: Route {
                function: function.clone(),
                port: 20_000,
                hosts: Vec::new(),
                weights: Vec::new(),
                cold_start_ms: 1,
                request_ms: 1,
                first_byte_ms: None,
                idle_ms: None,
                count_upgrades: true,
                keep_alive_probe: None,
            },
            backends: Backends {
                function,
                drain: 0,
                revisions: Vec::new(),
                problem: None,
                limit: None,
            },
            certificate,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        }
    }

    /// The frame's hosts, if it tells of a certificate; none, if of its end.
    fn certificate(frame: &Bytes) -> Option<Vec<String>> {
        let mut decoder = crds::control::Decoder::default();
        decoder.push(frame);
        match decoder.next_frame().expect("a frame") {
            Some(ToActivator::Certificate(certificate)) => Some(certificate.hosts),
            Some(ToActivator::NoCertificate { .. }) => Some(Vec::new()),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_certificate_is_told_when_it_changes_and_to_new_activators() {
        use crate::certificates::pair::{
            SECRET_TYPE,
            tests::{issue, secret},
        };
        let (chain, private) = issue(&["a.example", "b.example"], 2026);
        let pair = || Arc::new(Pair::read(&secret(SECRET_TYPE, &chain, &private)).expect("good"));
        let (fleet, key) = (Fleet::default(), FunctionKey::new("shop", "hello"));
        let (_, mut early) = fleet.open("a");
        let mut told = || {
            let frames = std::iter::from_fn(|| early.then.try_recv().ok());
            frames
                .filter_map(|frame| certificate(&frame))
                .collect::<Vec<_>>()
        };
        let first = pair();
        let this = |pair: &Arc<Pair>| Wanted::This(Arc::clone(pair));
        fleet.publish(&key, Some(state(this(&first), &["a.example", "c.example"])));
        assert_eq!(told(), [["a.example"]], "it covers no other");
        fleet.publish(&key, Some(state(this(&first), &["a.example", "c.example"])));
        fleet.publish(&key, Some(state(Wanted::AsBefore, &["a.example"])));
        assert!(told().is_empty());
        let (_, late) = fleet.open("b");
        assert_eq!(late.first.iter().filter_map(certificate).count(), 1);
        fleet.publish(&key, Some(state(this(&first), &["b.example"])));
        assert_eq!(told(), [["b.example"]]);
        fleet.publish(&key, Some(state(Wanted::Nothing, &["b.example"])));
        assert_eq!(told(), [Vec::<String>::new()]);
        let (_, late) = fleet.open("c");
        assert_eq!(late.first.iter().filter_map(certificate).count(), 0);
        fleet.publish(&key, Some(state(this(&pair()), &["a.example"])));
        let shown = format!("{fleet:?}");
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }

    /// An activator that takes half a picture for a whole one refuses requests to all Functions that it has not been told of yet.
    #[tokio::test]
    async fn says_synced_only_when_everything_has_been_published() {
        let fleet = Fleet::default();
        let (_, mut early) = fleet.open("a");
        assert!(!early.first.iter().any(is_synced));
        fleet.complete();
        let then = early.then.recv().await.expect("the stream is open");
        assert!(is_synced(&then));
        let (_, late) = fleet.open("b");
        assert!(late.first.last().is_some_and(is_synced));
    }
}
