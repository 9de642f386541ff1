//! All Functions, by name and by host.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use crds::{
    control::{Backends, Certificate, Route},
    names::FunctionKey,
};
use parking_lot::Mutex;

use crate::{
    function::Function, metrics::Metrics, operators::Operators, stats::Surges, tls::Certified,
};

/// All Functions that this activator knows.
pub(crate) struct Functions {
    all: Mutex<BTreeMap<FunctionKey, Known>>,
    /// Read by every request on the shared port, written when a route changes.
    shared: ArcSwap<Shared>,
    /// Name of this activator.
    name: Arc<str>,
    max_held: usize,
    operators: Arc<Operators>,
    metrics: Arc<Metrics>,
    surges: Arc<Surges>,
}

struct Known {
    function: Arc<Function>,
    /// What was told last; its hosts count.
    route: Option<Arc<Route>>,
    /// What was told last, and what was made of it.
    certificate: Option<Arc<Certificate>>,
    certified: Option<Arc<Certified>>,
}

impl Known {
    /// Takes over what is told; returns whether it is new.
    fn certify(&mut self, told: Option<&Arc<Certificate>>) -> bool {
        if self.certificate.as_ref() == told {
            return false;
        }
        let read = |told: &Arc<Certificate>| match Certified::new(told) {
            Ok(certified) => Some(Arc::new(certified)),
            Err(error) => {
                tracing::warn!(function = %told.function, error, "a certificate cannot be used");
                None
            }
        };
        self.certified = told.and_then(read);
        self.certificate = told.cloned();
        true
    }
}

/// What the shared port knows, by host in lower case.
#[derive(Default)]
struct Shared {
    hosts: HashMap<String, Arc<Function>>,
    certified: HashMap<String, Arc<Certified>>,
}

impl Functions {
    pub(crate) fn new(
        name: &str,
        max_held: usize,
        operators: Arc<Operators>,
        metrics: Arc<Metrics>,
        surges: Arc<Surges>,
    ) -> Self {
        Self {
            all: Mutex::default(),
            shared: ArcSwap::default(),
            name: name.into(),
            max_held,
            operators,
            metrics,
            surges,
        }
    }

    /// The Function of this name.
    pub(crate) fn get(&self, key: &FunctionKey) -> Option<Arc<Function>> {
        Some(Arc::clone(&self.all.lock().get(key)?.function))
    }

    /// The Function that `host` chooses, in whatever case it is written.
    pub(crate) fn by_host(&self, host: &str) -> Option<Arc<Function>> {
        find(&self.shared.load().hosts, host)
    }

    /// The certificate for `host`, in whatever case it is written.
    pub(crate) fn certified(&self, host: &str) -> Option<Arc<Certified>> {
        find(&self.shared.load().certified, host)
    }

    /// Adds or changes a Function. A change of hosts or of the certificate counts only after [`publish`](Self::publish); returns whether
    /// there is one.
    pub(crate) fn apply(
        &self,
        route: &Arc<Route>,
        backends: Option<&Backends>,
        certificate: Option<&Arc<Certificate>>,
    ) -> (Arc<Function>, bool) {
        let mut all = self.all.lock();
        let known = all.entry(route.function.clone()).or_insert_with(|| Known {
            function: Function::new(
                route.function.clone(),
                &self.name,
                self.max_held,
                &self.operators,
                &self.metrics,
                &self.surges,
            ),
            route: None,
            certificate: None,
            certified: None,
        });
        let mut changed = known.certify(certificate);
        let before = known.route.replace(Arc::clone(route));
        changed |= before.is_none_or(|before| before.hosts != route.hosts);
        let function = Arc::clone(&known.function);
        self.count(all.len());
        drop(all);
        function.apply(route, backends);
        (function, changed)
    }

    /// Removes a Function: who waits is refused, what is in flight finishes. [`publish`](Self::publish) afterwards.
    pub(crate) fn remove(&self, key: &FunctionKey) {
        let mut all = self.all.lock();
        let known = all.remove(key);
        self.count(all.len());
        drop(all);
        if let Some(known) = known {
            known.function.close();
        }
    }

    /// Lets requests on the shared port see the present hosts and certificates. Operators give a host to one Function; while it changes hands two
    /// may have it for a moment, and the first by name is taken. A certificate counts for hosts of its own Function only.
    pub(crate) fn publish(&self) {
        let mut shared = Shared::default();
        let all = self.all.lock();
        for known in all.values() {
            for host in known.route.iter().flat_map(|route| &route.hosts) {
                let hosts = &mut shared.hosts;
                hosts
                    .entry(host.clone())
                    .or_insert_with(|| Arc::clone(&known.function));
            }
        }
        for known in all.values() {
            let Some((told, certified)) = known.certificate.as_ref().zip(known.certified.as_ref())
            else {
                continue;
            };
            for host in &told.hosts {
                let owner = shared.hosts.get(host);
                if owner.is_some_and(|owner| Arc::ptr_eq(owner, &known.function)) {
                    let certified = Arc::clone(certified);
                    shared.certified.insert(host.clone(), certified);
                }
            }
        }
        drop(all);
        self.shared.store(Arc::new(shared));
    }

    /// Every Function.
    pub(crate) fn all(&self) -> Vec<Arc<Function>> {
        let all = self.all.lock();
        all.values()
            .map(|known| Arc::clone(&known.function))
            .collect()
    }

    fn count(&self, functions: usize) {
        let functions = i64::try_from(functions).unwrap_or(i64::MAX);
        self.metrics.functions.set(functions);
    }
}

fn find<T: Clone>(hosts: &HashMap<String, T>, host: &str) -> Option<T> {
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return hosts.get(&host.to_ascii_lowercase()).cloned();
    }
    hosts.get(host).cloned()
}
