//! All Functions, by name and by host.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use crds::{
    control::{Backends, Route},
    names::FunctionKey,
};
use parking_lot::Mutex;

use crate::{function::Function, metrics::Metrics, operators::Operators, stats::Surges};

/// All Functions that this activator knows.
pub(crate) struct Functions {
    all: Mutex<BTreeMap<FunctionKey, Known>>,
    /// Read by every request on the shared port, written when a route changes.
    hosts: ArcSwap<HashMap<String, Arc<Function>>>,
    /// Name of this activator.
    name: Arc<str>,
    max_held: usize,
    operators: Arc<Operators>,
    metrics: Arc<Metrics>,
    surges: Arc<Surges>,
}

struct Known {
    function: Arc<Function>,
    hosts: Vec<String>,
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
            hosts: ArcSwap::default(),
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
        let hosts = self.hosts.load();
        if host.bytes().any(|b| b.is_ascii_uppercase()) {
            return hosts.get(&host.to_ascii_lowercase()).cloned();
        }
        hosts.get(host).cloned()
    }

    /// Adds or changes a Function. A change of hosts counts only after [`publish`](Self::publish); returns whether there is one.
    pub(crate) fn apply(
        &self,
        route: &Route,
        backends: Option<&Backends>,
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
            hosts: Vec::new(),
        });
        let changed = known.hosts != route.hosts;
        if changed {
            known.hosts.clone_from(&route.hosts);
        }
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

    /// Lets requests on the shared port see the present hosts. When two Functions want one host, the first by name has it.
    pub(crate) fn publish(&self) {
        let mut hosts = HashMap::new();
        for known in self.all.lock().values() {
            for host in &known.hosts {
                hosts
                    .entry(host.clone())
                    .or_insert_with(|| Arc::clone(&known.function));
            }
        }
        self.hosts.store(Arc::new(hosts));
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
