//! The threads that serve requests: one for each core, each with a runtime and connections to pods of its own, so that a request
//! never crosses from one to another.

use std::{
    cell::Cell,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Most threads. One serves some 30,000 requests a second; beyond this the lock of a single busy Function would bound them.
const MAX_CORES: usize = 32;

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The threads.
#[derive(Debug)]
pub(crate) struct Cores(Vec<Core>);

#[derive(Debug)]
struct Core {
    runtime: Handle,
    /// Connections on it.
    connections: Arc<AtomicUsize>,
}

/// A connection's place on a core, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

#[cfg(fuzzing)]
impl Default for Place {
    /// One on no core.
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(1)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cores {
    /// Starts so many threads, at least one. When `stop` is cancelled they end, and their connections with them.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(count: usize, stop: &CancellationToken) -> io::Result<Self> {
        let cores = (0..count.clamp(1, MAX_CORES)).map(|index| Core::start(index, stop.clone()));
        Ok(Self(cores.collect::<io::Result<_>>()?))
    }

    /// The only thread, if there is but one. It accepts connections, too: to hand one over costs more than it saves then.
    pub(crate) fn only(&self) -> Option<&Handle> {
        match self.0.as_slice() {
            [core] => Some(&core.runtime),
            _ => None,
        }
    }

    /// Spawns what `task` makes on the core with the fewest connections.
    pub(crate) fn spawn<F>(&self, task: impl FnOnce(Place) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let connections = |core: &&Core| core.connections.load(Ordering::Relaxed);
        let Some(core) = self.0.iter().min_by_key(connections) else {
            return;
        };
        core.connections.fetch_add(1, Ordering::Relaxed);
        core.runtime
            .spawn(task(Place(Arc::clone(&core.connections))));
    }
}

impl Core {
    fn start(index: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new()
            .name(format!("core-{index}"))
            .spawn(move || {
                CURRENT.set(Some(index));
                runtime.block_on(stop.cancelled());
            })?;
        Ok(Self {
            runtime: handle,
            connections: Arc::default(),
        })
    }
}

/// One value for each core, and one for all other threads.
#[derive(Debug)]
pub(crate) struct PerCore<T>(Box<[T]>);

impl<T: Default> Default for PerCore<T> {
    fn default() -> Self {
        Self((0..=MAX_CORES).map(|_| T::default()).collect())
    }
}

impl<T> PerCore<T> {
    /// This thread's.
    pub(crate) fn own(&self) -> &T {
        &self.0[CURRENT.get().unwrap_or(MAX_CORES)]
    }

    /// That of all threads that are no core.
    pub(crate) fn other(&self) -> &T {
        &self.0[MAX_CORES]
    }

    /// All.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}
