//! The ports of single Functions.

use std::{collections::HashMap, io, net::IpAddr, sync::Arc, time::Duration};

use crds::{
    control::{ToOperator, encode},
    names::FunctionKey,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::AbortHandle};

use crate::{
    function::Function,
    operators::{Operators, Outbox},
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
    task: AbortHandle,
    told: Arc<Mutex<Told>>,
}

/// What operators were told of a listener last. Smaller than the frame, since there may be thousands of these.
#[derive(Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Bound,
    /// Why it cannot listen.
    Failed(String),
}

impl Told {
    fn frame(&self, function: &FunctionKey, port: u16) -> Option<ToOperator> {
        let function = function.clone();
        match self {
            Self::Nothing => None,
            Self::Bound => Some(ToOperator::Bound { function, port }),
            Self::Failed(error) => Some(ToOperator::BindFailed {
                function,
                port,
                error: error.clone(),
            }),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
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
        let told = Arc::new(Mutex::new(Told::Nothing));
        let listening = listen(
            (self.address, port),
            Arc::clone(function),
            Arc::clone(&self.server),
            Arc::clone(&self.operators),
            Arc::clone(&told),
        );
        // Boxed: a future that takes another one has room for it twice, and there may be thousands of these.
        let task = self.server.accepts(Box::pin(listening));
        let task = task.abort_handle();
        let listener = Listener { port, task, told };
        self.listeners.insert(function.key.clone(), listener);
    }

    /// Closes a Function's listener. Its connections live on.
    pub(crate) fn close(&mut self, key: &FunctionKey) {
        self.listeners.remove(key);
    }

    /// Tells a new operator of all ports. What it is told of one comes in order, since that is done with the lock that a change takes.
    pub(crate) fn tell_all(&self, outbox: &Outbox) {
        for (key, listener) in &self.listeners {
            let told = listener.told.lock();
            if let Some(frame) = told.frame(key, listener.port) {
                outbox.push(&encode(&frame));
            }
        }
    }
}

/// Binds a Function's port, however long that takes, and serves it; until dropped or the server stops.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` has room for each argument twice, and there may be thousands of these"
)]
fn listen(
    address: (IpAddr, u16),
    function: Arc<Function>,
    server: Arc<Server>,
    operators: Arc<Operators>,
    told: Arc<Mutex<Told>>,
) -> impl Future<Output = ()> {
    async move {
        let tell = |now: Told| {
            let mut told = told.lock();
            if *told != now {
                *told = now;
                if let Some(frame) = told.frame(&function.key, address.1) {
                    operators.send(&frame);
                }
            }
        };
        // Boxed because most Functions' ports are bound at once.
        let bound = Box::pin(bind(address, |error| {
            let (key, port) = (&function.key, address.1);
            tracing::warn!(function = %key, port, %error, "cannot listen");
            tell(Told::Failed(error.to_string()));
        }));
        let Some(listener) = server.stop.run_until_cancelled(bound).await else {
            return;
        };
        tell(Told::Bound);
        serve::accept(&listener, &Entry::Function(function), &server).await;
    }
}

async fn bind(address: (IpAddr, u16), failed: impl Fn(&io::Error)) -> TcpListener {
    let mut pause = FIRST_PAUSE;
    loop {
        match serve::bind(address.into()) {
            Ok(listener) => return listener,
            Err(error) => failed(&error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
