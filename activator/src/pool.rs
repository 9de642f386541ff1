//! Connections to one pod.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use crds::control::Protocol;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, sleep, timeout},
};

use crate::{cores::PerCore, metrics::Metrics, sender::Sender};

/// How long a connection stays unused. Below the 5 s after which Node.js, the strictest of the common servers, closes it from
/// its side: a request that crosses such a close may have to be answered 502.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Unused connections kept for a pod. One pod seldom has more requests at once; those above this connect anew.
const MAX_IDLE: usize = 512;

/// New connections at once that a pod may not have accepted yet. The backlogs of common servers are 100 (Tomcat), 128 (Rust's and Python's std),
/// 511 (Node.js, nginx) and 4096 (Go): beyond it the kernel drops the SYN, which is repeated only after a second. This leaves
/// room in the smallest for the two activators that a Function has.
const MAX_FRESH: usize = 48;

/// The same for connections that many requests share. More than one, so that a lost SYN does not hold up everybody.
const MAX_FRESH_SHARED: usize = 4;

/// How long a new connection counts as not accepted when no answer proves the contrary. A pod that has just started shares its node
/// with other things that start; one whose answers take long still gets 480 connections a second, and keeps them.
const FRESH_FOR: Duration = Duration::from_millis(100);

/// Longest wait for a connection. A pod in the same cluster accepts within a round trip; this
/// allows for one lost SYN, which the kernel repeats after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections to one pod; the one that was used last is used next, so that the others can grow old and be closed.
#[derive(Debug)]
pub(crate) struct Pool {
    address: SocketAddr,
    protocol: Protocol,
    /// A connection lives on the thread that opened it. `None` once the pod is gone.
    idle: PerCore<Mutex<Kept>>,
    fresh: Arc<Semaphore>,
    /// Tells those who wait for leave to open one that the pod does not accept any.
    unreachable: Notify,
    metrics: Arc<Metrics>,
}

/// Unused connections; `None` when no more are kept.
#[derive(Debug)]
struct Kept(Option<Vec<Idle>>);

impl Default for Kept {
    fn default() -> Self {
        Self(Some(Vec::new()))
    }
}

/// A connection that was opened just now holds this until the pod is known, or can be assumed, to have accepted it.
#[derive(Debug)]
pub(crate) struct Fresh(Option<OwnedSemaphorePermit>);

impl Fresh {
    /// Waits for an answer that comes over the connection.
    pub(crate) async fn until<F: Future>(
        fresh: Option<Self>,
        mut answer: Pin<&mut F>,
    ) -> F::Output {
        if let Some(Self(Some(permit))) = fresh {
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                () = sleep(FRESH_FOR) => drop(permit),
            }
        }
        answer.await
    }
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(address: SocketAddr, protocol: Protocol, metrics: Arc<Metrics>) -> Self {
        Self {
            address,
            protocol,
            idle: PerCore::default(),
            fresh: Arc::new(Semaphore::new(match protocol {
                Protocol::Http1 => MAX_FRESH,
                Protocol::H2c => MAX_FRESH_SHARED,
            })),
            unreachable: Notify::new(),
            metrics,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether these are connections to this address, of this protocol.
    pub(crate) fn serves(&self, address: SocketAddr, protocol: Protocol) -> bool {
        self.address == address && self.protocol == protocol
    }

    /// An unused connection that can take a request now: one of this thread, or one that a probe has opened.
    pub(crate) fn take(&self, now: Instant) -> Option<Sender> {
        let own = self.idle.own().lock().take(now);
        own.or_else(|| self.idle.other().lock().take(now))
    }

    /// Keeps a connection for the next request, if it can be.
    pub(crate) fn put(&self, mut sender: Sender, now: Instant) {
        if sender.rest() {
            self.keep(sender, now);
        }
    }

    fn keep(&self, sender: Sender, since: Instant) {
        let mut kept = self.idle.own().lock();
        if let Some(idle) = kept.0.as_mut()
            && idle.len() < MAX_IDLE
        {
            idle.push(Idle { sender, since });
        }
    }

    /// Opens a connection when the pod can take another one, or returns a used one if that comes first and `kept` allows it.
    ///
    /// # Errors
    /// If the pod does not accept one in time, or did not accept another one meanwhile.
    pub(crate) async fn open(&self, kept: bool) -> io::Result<(Sender, Option<Fresh>)> {
        let permit = self.leave().await?;
        // The answer that made room here is about to give its connection back, which saves the pod and us a new one.
        tokio::task::yield_now().await;
        if let Some(used) = kept.then(|| self.take(Instant::now())).flatten() {
            return Ok((used, None));
        }
        let sender = self.connect().await?;
        // Those who wait for leave to open one need none of their own, if this one can be shared.
        if let Some(share) = sender.share() {
            self.keep(share, Instant::now());
            return Ok((sender, Some(Fresh(None))));
        }
        Ok((sender, Some(Fresh(Some(permit)))))
    }

    /// Leave to open a connection. Whoever waits for it waits no longer than until one fails: a pod that is gone would hold up a crowd by two seconds
    /// for each few of it.
    async fn leave(&self) -> io::Result<OwnedSemaphorePermit> {
        match Arc::clone(&self.fresh).try_acquire_owned() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(io::ErrorKind::NotConnected.into()),
            Err(TryAcquireError::NoPermits) => {}
        }
        let mut unreachable = pin!(self.unreachable.notified());
        // From here on, and not only from its first poll.
        unreachable.as_mut().enable();
        tokio::select! {
            // What fails gives its leave to the next one.
            biased;
            () = unreachable => Err(io::ErrorKind::ConnectionAborted.into()),
            permit = Arc::clone(&self.fresh).acquire_owned() => permit.map_err(io::Error::other),
        }
    }

    async fn connect(&self) -> io::Result<Sender> {
        let connected = match timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address)).await {
            Ok(Ok(stream)) => Sender::new(stream, self.protocol).await,
            Ok(Err(error)) => Err(error),
            Err(elapsed) => Err(elapsed.into()),
        };
        match connected {
            Ok(_) => self.metrics.connected.inc(),
            Err(_) => {
                self.metrics.connect_failed.inc();
                self.unreachable.notify_waiters();
            }
        }
        connected
    }

    /// Keeps a connection that a probe has opened, for whichever thread needs one first. Not one that is to be shared: all
    /// requests would take the way over the probe's thread.
    pub(crate) async fn adopt(&self, stream: TcpStream) {
        if self.protocol == Protocol::H2c {
            return;
        }
        if let Ok(sender) = Sender::new(stream, self.protocol).await {
            self.metrics.connected.inc();
            self.put(sender, Instant::now());
        }
    }

    /// Closes connections that were not used for too long. To be called every second or so.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for kept in self.idle.iter() {
            if let Some(idle) = kept.lock().0.as_mut() {
                idle.retain(|idle| !idle.is_spent(now));
            }
        }
    }

    /// Closes all unused connections, and each other one when its request has ended; no new one is opened.
    pub(crate) fn close(&self) {
        for kept in self.idle.iter() {
            let closed = kept.lock().0.take();
            drop(closed);
        }
        self.fresh.close();
    }
}

impl Kept {
    fn take(&mut self, now: Instant) -> Option<Sender> {
        let idle = self.0.as_mut()?;
        for index in (0..idle.len()).rev() {
            let last = &mut idle[index];
            if last.is_spent(now) {
                idle.remove(index);
            } else if !last.sender.is_ready() {
                // It has as many requests as it may have.
            } else if let Some(share) = last.sender.share() {
                last.since = now;
                return Some(share);
            } else {
                return Some(idle.remove(index).sender);
            }
        }
        None
    }
}

impl Idle {
    fn is_spent(&self, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.since);
        let unused = !self.sender.is_used() && idle >= IDLE_TIMEOUT;
        self.sender.is_closed() || unused
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step is a failed test
mod tests {
    use tokio::{net::TcpSocket, task::JoinSet};

    use super::*;

    /// A pod whose backlog is full, so that it accepts no connection; it is until the connections in that are dropped, too.
    async fn full() -> (tokio::net::TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(connected) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        (listener, waiting, address)
    }

    fn pool(address: SocketAddr) -> Arc<Pool> {
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        Arc::new(Pool::new(address, Protocol::Http1, Arc::new(metrics)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_accepts_none_holds_up_nobody_longer_than_one_connection_may_take() {
        let (_listener, _waiting, address) = full().await;
        let pool = pool(address);
        let began = Instant::now();
        let mut opening = JoinSet::new();
        for _ in 0..3 * MAX_FRESH {
            let pool = Arc::clone(&pool);
            opening.spawn(async move { pool.open(true).await.is_err() });
        }
        assert!(opening.join_all().await.into_iter().all(|failed| failed));
        let took = began.elapsed();
        assert!(
            (CONNECT_TIMEOUT..2 * CONNECT_TIMEOUT).contains(&took),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_leave_learns_that_the_pod_is_gone() {
        let (_listener, _waiting, address) = full().await;
        let pool = pool(address);
        let _all = Arc::clone(&pool.fresh)
            .acquire_many_owned(MAX_FRESH as u32)
            .await;
        let waits = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.open(true).await.is_err() }
        });
        tokio::task::yield_now().await;
        pool.close();
        assert!(waits.await.unwrap());
        assert!(pool.open(true).await.is_err());
    }
}
