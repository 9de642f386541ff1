//! Clients on a thread of their own, which those that are measured do not wait for.

use std::thread;

use anyhow::Result;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// A runtime on a thread of its own, of the caller's core. Ends when dropped.
pub(super) struct Apart {
    pub(super) runtime: Handle,
    _ends: oneshot::Sender<()>,
}

impl Apart {
    pub(super) fn start(name: &str) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ends, ended) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(name.into());
        // Nothing is ever sent: that the other half is gone is the sign.
        thread.spawn(move || drop(runtime.block_on(ended)))?;
        Ok(Self {
            runtime: handle,
            _ends: ends,
        })
    }
}
