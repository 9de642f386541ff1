//! The ports of single Functions.

use std::{collections::HashMap, io, net::IpAddr, sync::Arc, time::Duration};

use crds::{control::ToOperator, names::FunctionKey};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    function::Function,
    operators::Operators,
    proxy::Entry,
    serve::{self, Server},
};

/// Pause after the first failure to bind. Short, because the usual cause is that the port's former owner is just closing it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Longest pause between two attempts to bind.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The listeners of single Functions.
pub(crate) struct Ports {
    address: IpAddr,
    server: Arc<Server>,
    operators: Arc<Operators>,
    listeners: HashMap<FunctionKey, Listener>,
}

struct Listener {
    port: u16,
    stop: CancellationToken,
    /// What operators were told of it last.
    told: Arc<Mutex<Option<ToOperator>>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Ports {
    pub(crate) fn new(address: IpAddr, server: Arc<Server>, operators: Arc<Operators>) -> Self {
        Self {
            address,
            server,
            operators,
            listeners: HashMap::new(),
        }
    }

    /// Sees to it that `function` has `port` and no other. Connections on a former port live on.
    pub(crate) fn open(&mut self, function: &Arc<Function>, port: u16) {
        if self
            .listeners
            .get(&function.key)
            .is_some_and(|l| l.port == port)
        {
            return;
        }
        let stop = self.server.stop.child_token();
        let told = Arc::new(Mutex::new(None));
        // Boxed: a future that takes another one has room for it twice, and there may be thousands of these.
        let listening = Box::pin(listen(
            (self.address, port),
            Arc::clone(function),
            Arc::clone(&self.server),
            Arc::clone(&self.operators),
            Arc::clone(&told),
        ));
        let stopped = stop.clone();
        self.server.listeners.spawn(async move {
            stopped.run_until_cancelled(listening).await;
        });
        let listener = Listener { port, stop, told };
        self.listeners.insert(function.key.clone(), listener);
    }

    /// Closes a Function's listener. Its connections live on.
    pub(crate) fn close(&mut self, key: &FunctionKey) {
        self.listeners.remove(key);
    }

    /// What a new operator must be told of all ports.
    pub(crate) fn frames(&self) -> Vec<ToOperator> {
        let told = |listener: &Listener| listener.told.lock().clone();
        self.listeners.values().filter_map(told).collect()
    }
}

/// Binds a Function's port, however long that takes, and serves it.
async fn listen(
    address: (IpAddr, u16),
    function: Arc<Function>,
    server: Arc<Server>,
    operators: Arc<Operators>,
    told: Arc<Mutex<Option<ToOperator>>>,
) {
    let tell = |frame: ToOperator| {
        let mut told = told.lock();
        if told.as_ref() != Some(&frame) {
            operators.send(&frame);
            *told = Some(frame);
        }
    };
    let (key, port) = (function.key.clone(), address.1);
    let mut pause = FIRST_PAUSE;
    let listener = loop {
        match serve::bind(address.into()) {
            Ok(listener) => break listener,
            Err(error) => tell(bind_failed(&key, port, &error)),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    };
    tell(ToOperator::Bound {
        function: key.clone(),
        port,
    });
    serve::accept(listener, Entry::Function(function), server).await;
}

fn bind_failed(key: &FunctionKey, port: u16, error: &io::Error) -> ToOperator {
    tracing::warn!(function = %key, port, %error, "cannot listen");
    ToOperator::BindFailed {
        function: key.clone(),
        port,
        error: error.to_string(),
    }
}
