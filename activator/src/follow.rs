//! Which operator this activator follows, and what each one has told.
//!
//! Every operator replica is connected and tells its whole picture. They agree but for moments; in those the leader's counts. The others' pictures are
//! kept so that following another one needs nothing to be sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crds::{
    control::{Backends, Certificate, Route, ToActivator},
    names::FunctionKey,
};
use parking_lot::Mutex;
use runtime::readiness::Guard;

use crate::{functions::Functions, operators::Outbox, ports::Ports};

/// Names a control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(u64);

/// What is told and whom to follow.
pub(crate) struct Follower {
    state: Mutex<State>,
}

struct State {
    functions: Arc<Functions>,
    ports: Ports,
    next: u64,
    sessions: BTreeMap<SessionId, Session>,
    followed: Option<SessionId>,
    /// Held until an operator has told its whole picture.
    unready: Option<Guard>,
}

/// What an operator has told.
#[derive(Default)]
struct Session {
    synced: bool,
    /// Of the lease, if the operator holds it.
    epoch: Option<u64>,
    picture: HashMap<FunctionKey, Told>,
}

/// What an operator has told of one Function. Operators that tell the same share it.
#[derive(Default)]
struct Told {
    route: Option<Arc<Route>>,
    backends: Option<Arc<Backends>>,
    certificate: Option<Arc<Certificate>>,
}

impl Follower {
    /// Follows nobody yet; `unready` is dropped when somebody has told everything.
    pub(crate) fn new(functions: Arc<Functions>, ports: Ports, unready: Guard) -> Self {
        Self {
            state: Mutex::new(State {
                functions,
                ports,
                next: 0,
                sessions: BTreeMap::new(),
                followed: None,
                unready: Some(unready),
            }),
        }
    }

    /// A control stream was opened. Into `outbox` goes what a new operator must know: the ports, and the drains that hold.
    pub(crate) fn open(&self, outbox: &Outbox) -> SessionId {
        let mut state = self.state.lock();
        state.next += 1;
        let id = SessionId(state.next);
        state.sessions.insert(id, Session::default());
        state.ports.tell_all(outbox);
        for function in state.functions.all() {
            function.tell_drained();
        }
        id
    }

    /// A control stream has ended. When no other is left, what was told last goes on to hold.
    pub(crate) fn close(&self, id: SessionId) {
        let mut state = self.state.lock();
        state.sessions.remove(&id);
        state.choose();
    }

    /// An operator has told something.
    pub(crate) fn receive(&self, id: SessionId, frame: ToActivator) {
        let mut state = self.state.lock();
        match state.take(id, frame) {
            Change::Function(key) if state.followed == Some(id) => state.apply(&key),
            Change::Standing => state.choose(),
            Change::Function(_) | Change::None => {}
        }
    }
}

/// What a frame has changed.
enum Change {
    /// What is known of a Function.
    Function(FunctionKey),
    /// Whether the operator can be followed.
    Standing,
    None,
}

impl State {
    /// Takes over what an operator tells.
    fn take(&mut self, id: SessionId, frame: ToActivator) -> Change {
        match frame {
            ToActivator::Route(route) => {
                let key = route.function.clone();
                let route = share(&self.sessions, &key, route, |told| told.route.as_ref());
                // The one that is shared, so that the names are, too.
                let key = route.function.clone();
                self.told(id, key, |told| told.route = Some(route))
            }
            ToActivator::Backends(backends) => {
                let key = backends.function.clone();
                let backends = share(&self.sessions, &key, backends, |told| {
                    told.backends.as_ref()
                });
                self.told(id, key, |told| told.backends = Some(backends))
            }
            ToActivator::Certificate(certificate) => {
                let key = certificate.function.clone();
                let certificate = share(&self.sessions, &key, certificate, |told| {
                    told.certificate.as_ref()
                });
                self.told(id, key, |told| told.certificate = Some(certificate))
            }
            ToActivator::NoCertificate { function } => {
                let session = self.sessions.get_mut(&id);
                if let Some(told) = session.and_then(|s| s.picture.get_mut(&function)) {
                    told.certificate = None;
                }
                Change::Function(function)
            }
            ToActivator::Remove { function } => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.picture.remove(&function);
                }
                Change::Function(function)
            }
            ToActivator::Synced => self.stands(id, |session| session.synced = true),
            ToActivator::Lead { epoch } => self.stands(id, |session| session.epoch = epoch),
            ToActivator::Unknown => Change::None,
        }
    }

    fn told(&mut self, id: SessionId, key: FunctionKey, set: impl FnOnce(&mut Told)) -> Change {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Change::None;
        };
        set(session.picture.entry(key.clone()).or_default());
        Change::Function(key)
    }

    fn stands(&mut self, id: SessionId, set: impl FnOnce(&mut Session)) -> Change {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Change::None;
        };
        set(session);
        Change::Standing
    }

    /// Follows the operator with the highest epoch of those that have told everything; without a leader the one followed so far,
    /// else the one connected longest.
    fn choose(&mut self) {
        let synced = self.sessions.iter().filter(|(_, session)| session.synced);
        let best = synced.max_by_key(|(id, session)| {
            let followed = self.followed == Some(**id);
            (session.epoch, followed, std::cmp::Reverse(**id))
        });
        let best = best.map(|(id, _)| *id);
        if best != self.followed {
            self.followed = best;
            self.replace();
        }
    }

    /// Takes over the whole picture of the operator that is followed now.
    fn replace(&mut self) {
        let Some(session) = self.followed.and_then(|id| self.sessions.get(&id)) else {
            return;
        };
        let told = session
            .picture
            .iter()
            .filter(|(_, told)| told.route.is_some());
        let told: BTreeSet<FunctionKey> = told.map(|(key, _)| key.clone()).collect();
        tracing::info!(
            functions = told.len(),
            epoch = session.epoch,
            "following an operator"
        );
        for function in self.functions.all() {
            if !told.contains(&function.key) {
                self.remove(&function.key);
            }
        }
        for key in &told {
            self.apply_route(key);
        }
        self.functions.publish();
        self.unready = None;
    }

    /// Takes over what the followed operator tells of one Function.
    fn apply(&mut self, key: &FunctionKey) {
        let session = self.followed.and_then(|id| self.sessions.get(&id));
        let told = session.and_then(|session| session.picture.get(key));
        let shared_changed = match told {
            // Without a route there is nothing to serve yet.
            Some(told) if told.route.is_none() => false,
            Some(_) => self.apply_route(key),
            None => {
                self.remove(key);
                true
            }
        };
        if shared_changed {
            self.functions.publish();
        }
    }

    /// Returns whether the Function's hosts or its certificate have changed.
    fn apply_route(&mut self, key: &FunctionKey) -> bool {
        let session = self.followed.and_then(|id| self.sessions.get(&id));
        let Some(told) = session.and_then(|session| session.picture.get(key)) else {
            return false;
        };
        let Some(route) = &told.route else {
            return false;
        };
        let (backends, certificate) = (told.backends.as_deref(), told.certificate.as_ref());
        let (function, shared_changed) = self.functions.apply(route, backends, certificate);
        self.ports.open(&function, route.port);
        shared_changed
    }

    fn remove(&mut self, key: &FunctionKey) {
        self.ports.close(key);
        self.functions.remove(key);
    }
}

/// What was told of a Function by any operator already, or `told`.
fn share<T: PartialEq>(
    sessions: &BTreeMap<SessionId, Session>,
    key: &FunctionKey,
    told: T,
    part: impl Fn(&Told) -> Option<&Arc<T>>,
) -> Arc<T> {
    let known = sessions.values();
    let mut known = known.filter_map(|session| part(session.picture.get(key)?));
    let same = known.find(|known| ***known == told);
    same.cloned().unwrap_or_else(|| Arc::new(told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_that_tell_the_same_share_it() {
        let key = FunctionKey::new("shop", "hello");
        let mut sessions = BTreeMap::new();
        let mut tell = |operator, drain| {
            let told = Backends {
                function: FunctionKey::new("shop", "hello"),
                drain,
                revisions: Vec::new(),
                problem: None,
                limit: None,
            };
            let told = share(&sessions, &key, told, |told| told.backends.as_ref());
            let session: &mut Session = sessions.entry(SessionId(operator)).or_default();
            session.picture.entry(key.clone()).or_default().backends = Some(Arc::clone(&told));
            told
        };
        let first = tell(1, 7);
        assert!(
            Arc::ptr_eq(&first, &tell(2, 7)),
            "the second tells the same"
        );
        let other = tell(2, 8);
        assert_eq!((first.drain, other.drain), (7, 8), "each has its own now");
        assert!(Arc::ptr_eq(&other, &tell(1, 8)), "the first follows");
    }
}
