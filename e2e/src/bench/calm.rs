//! What else a machine does is kept out of a measurement of microseconds, as far as the machine lets us.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
};

use anyhow::Result;
use nix::unistd::{Pid, gettid};

use super::proxy::{OTHER_CORE, PROXY_CORE, pin_to};
use crate::{cluster::shell, servers::Proxy};

/// Keeps the cores awake until dropped. The priorities stay with those who have them.
pub(super) struct Calm(Arc<AtomicBool>);

impl Calm {
    /// Lets these proxies and the caller's thread go before all others: there is always one that takes a core for milliseconds now and then. And keeps both
    /// cores awake: a virtual machine's core that sleeps is woken by its host, later at one time than at another.
    pub(super) async fn start(proxies: &[&Proxy]) -> Result<Self> {
        let calm = Self(Arc::default());
        for core in [PROXY_CORE, OTHER_CORE] {
            let idler = idler(core, Arc::clone(&calm.0))?.to_string();
            schedule(&["--idle", "--pid", "0", &idler]).await;
        }
        for proxy in proxies {
            let process = proxy.pid()?.to_string();
            schedule(&["--fifo", "--all-tasks", "--pid", "1", &process]).await;
        }
        // Threads that it starts do without.
        let this = gettid().to_string();
        schedule(&["--fifo", "--reset-on-fork", "--pid", "1", &this]).await;
        Ok(calm)
    }
}

impl Drop for Calm {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A thread that is busy with nothing.
fn idler(core: usize, ends: Arc<AtomicBool>) -> Result<Pid> {
    let (tell, told) = mpsc::channel();
    thread::Builder::new().name("idler".into()).spawn(move || {
        // Whoever hears neither has failed.
        let _ = tell.send(pin_to(core).map(|()| gettid()));
        while !ends.load(Relaxed) {
            black_box(());
        }
    })?;
    told.recv()?
}

async fn schedule(how: &[&str]) {
    if let Err(error) = shell::run("chrt", how).await {
        println!("what else this machine does is in these figures: {error:#}");
    }
}
