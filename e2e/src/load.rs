//! Loads on a Function, bounded in connections and time, and what became of each request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use kube::api::{ListParams, LogParams};
use parking_lot::Mutex;
use tokio::{
    sync::OnceCell,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{client::Connection, scene::Scene};

/// Failures that are kept in words; the rest is only counted.
const SHOWN: usize = 5;

/// Pause of a client after a failure, so that a Function that is down is not stormed.
const PAUSE: Duration = Duration::from_millis(20);

/// Most requests of an open load without an answer.
const OPEN: usize = 1000;

/// A load that goes on until it is ended.
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    ok: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    failures: Mutex<Vec<String>>,
    /// Of the Function's Service, asked for once: a hundred clients that ask the API server first would be a slow rise.
    address: OnceCell<SocketAddr>,
    /// When the last failure was, for the time that a Function was down.
    outage: Mutex<Option<(Instant, Instant)>>,
}

/// What became of a load's requests.
#[derive(Debug)]
pub struct Totals {
    /// Answered 200.
    pub ok: u64,
    /// Sent, and anything else came of it.
    pub failed: u64,
    /// Not sent, because no connection could be had.
    pub refused: u64,
    /// The first failures.
    pub failures: Vec<String>,
    /// From the first failure to the last.
    pub outage: Duration,
}

impl Load {
    /// So many clients, each with a connection of its own on which it sends one request after another.
    pub fn closed(scene: &Scene, function: &str, clients: usize, path: &str) -> Self {
        let mut load = Self::empty();
        for _ in 0..clients {
            let (shared, scene) = (load.shared.clone(), scene.clone());
            let (function, path) = (function.to_owned(), path.to_owned());
            load.tasks.spawn(async move {
                let mut kept = None;
                while !shared.stop.load(Relaxed) {
                    shared.send(&scene, &function, &path, &mut kept).await;
                }
            });
        }
        load
    }

    /// So many requests a second, evenly spread, whether or not the earlier ones were answered. A tick that comes late is left out:
    /// sent later all at once it would be another load.
    pub fn open(scene: &Scene, function: &str, rps: u32, path: &str) -> Self {
        let mut load = Self::empty();
        let (shared, scene) = (load.shared.clone(), scene.clone());
        let (function, path) = (Arc::<str>::from(function), Arc::<str>::from(path));
        load.tasks.spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / rps);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
            let mut sent = JoinSet::new();
            while !shared.stop.load(Relaxed) {
                ticks.tick().await;
                while sent.try_join_next().is_some() {}
                if sent.len() >= OPEN {
                    shared.note(&shared.refused, &anyhow!("{OPEN} requests have no answer"));
                    continue;
                }
                let (shared, scene, idle) = (shared.clone(), scene.clone(), idle.clone());
                let (function, path) = (function.clone(), path.clone());
                sent.spawn(async move {
                    let mut kept = idle.lock().pop();
                    shared.send(&scene, &function, &path, &mut kept).await;
                    idle.lock().extend(kept);
                });
            }
            while sent.join_next().await.is_some() {}
        });
        load
    }

    fn empty() -> Self {
        Self {
            shared: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Answered 200 so far.
    pub fn ok(&self) -> u64 {
        self.shared.ok.load(Relaxed)
    }

    /// Sent so far without a good answer.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Relaxed)
    }

    /// Not sent so far, because no connection could be had.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Relaxed)
    }

    /// Ends it, after the requests that are under way.
    pub async fn end(mut self) -> Totals {
        self.shared.stop.store(true, Relaxed);
        while self.tasks.join_next().await.is_some() {}
        let outage = *self.shared.outage.lock();
        Totals {
            ok: self.shared.ok.load(Relaxed),
            failed: self.shared.failed.load(Relaxed),
            refused: self.shared.refused.load(Relaxed),
            failures: self.shared.failures.lock().clone(),
            outage: outage.map_or(Duration::ZERO, |(first, last)| last - first),
        }
    }
}

impl Shared {
    /// Sends one request and counts what became of it.
    async fn send(&self, scene: &Scene, function: &str, path: &str, kept: &mut Option<Connection>) {
        let connection = match kept.take().filter(|kept| !kept.is_closed()) {
            Some(connection) => Ok(connection),
            None => self.connect(scene, function).await,
        };
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                self.note(&self.refused, &error);
                return sleep(PAUSE).await;
            }
        };
        let answered = connection.get(path).await;
        match answered.and_then(|answer| answer.expect(200).cloned()) {
            Ok(answer) => {
                self.ok.fetch_add(1, Relaxed);
                // A server that leaves says so; what comes next belongs on another connection.
                *kept = Some(connection).filter(|_| !answer.closes());
            }
            Err(error) => {
                self.note(&self.failed, &error);
                sleep(PAUSE).await;
            }
        }
    }

    async fn connect(&self, scene: &Scene, function: &str) -> Result<Connection> {
        let address = self.address.get_or_try_init(|| scene.address(function));
        Connection::open(*address.await?, function).await
    }

    fn note(&self, count: &AtomicU64, error: &anyhow::Error) {
        count.fetch_add(1, Relaxed);
        let now = Instant::now();
        self.outage.lock().get_or_insert((now, now)).1 = now;
        let mut failures = self.failures.lock();
        if failures.len() < SHOWN {
            failures.push(format!("{error:#}"));
        }
    }
}

impl Totals {
    /// Fails unless every request was answered 200.
    pub fn all_ok(&self) -> Result<&Self> {
        let lost = self.failed + self.refused;
        ensure!(
            lost == 0,
            "{lost} of {} requests failed: {:?}",
            self.ok + lost,
            self.failures
        );
        ensure!(self.ok > 0, "no request was sent");
        Ok(self)
    }
}

/// Follows the count of a Function, over all its revisions.
pub struct Counts {
    seen: Arc<Mutex<Vec<(Instant, i32)>>>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Counts {
    /// Looks every 100 ms, for as long as it lives.
    pub fn follow(scene: &Scene, function: &str) -> Self {
        let (scene, function) = (scene.clone(), function.to_owned());
        let seen: Arc<Mutex<Vec<(Instant, i32)>>> = Arc::default();
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                if let Ok(deployments) = scene.deployments(&function).await {
                    let count = deployments
                        .iter()
                        .filter_map(|d| d.spec.as_ref()?.replicas)
                        .sum();
                    let mut noted = noted.lock();
                    if noted.last().is_none_or(|(_, last)| *last != count) {
                        noted.push((Instant::now(), count));
                    }
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
        Self {
            seen,
            _task: tokio_util::task::AbortOnDropHandle::new(task),
        }
    }

    /// The count now.
    pub fn now(&self) -> i32 {
        self.seen.lock().last().map_or(0, |(_, count)| *count)
    }

    /// The counts since `start`, in order, beginning with the one that held then.
    pub fn since(&self, start: Instant) -> Vec<i32> {
        let seen = self.seen.lock();
        let before = seen
            .iter()
            .rev()
            .find(|(at, _)| *at < start)
            .map(|(_, count)| *count);
        let after = seen
            .iter()
            .filter(|(at, _)| *at >= start)
            .map(|(_, count)| *count);
        before.into_iter().chain(after).collect()
    }
}

/// The logs of all pods that a Function ever has, followed to their ends.
pub struct Logs {
    lines: Arc<Mutex<Vec<String>>>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Logs {
    /// Follows them for as long as it lives.
    pub fn follow(scene: &Scene, function: &str) -> Self {
        let (scene, function) = (scene.clone(), function.to_owned());
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = lines.clone();
        let task = tokio::spawn(async move {
            let mut known = std::collections::BTreeSet::new();
            let mut followed = JoinSet::new();
            loop {
                for pod in scene.pods(&function).await.unwrap_or_default() {
                    let running =
                        pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
                    let name = pod.metadata.name.unwrap_or_default();
                    if running && known.insert(name.clone()) {
                        followed.spawn(follow(scene.clone(), name, noted.clone()));
                    }
                }
                sleep(Duration::from_millis(200)).await;
            }
        });
        Self {
            lines,
            _task: tokio_util::task::AbortOnDropHandle::new(task),
        }
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }
}

async fn follow(scene: Scene, pod: String, into: Arc<Mutex<Vec<String>>>) {
    use futures::{AsyncBufReadExt, TryStreamExt};
    let params = LogParams {
        follow: true,
        ..LogParams::default()
    };
    let Ok(log) = scene
        .api::<k8s_openapi::api::core::v1::Pod>()
        .log_stream(&pod, &params)
        .await
    else {
        return;
    };
    let mut lines = log.lines();
    while let Ok(Some(line)) = lines.try_next().await {
        into.lock().push(line);
    }
}

/// Pods of a Function that are ready.
pub async fn ready(scene: &Scene, function: &str) -> Result<usize> {
    let of = ListParams::default().labels(&format!("ebb.dev/function={function}"));
    let pods = scene
        .api::<k8s_openapi::api::core::v1::Pod>()
        .list(&of)
        .await?;
    let is_ready = |pod: &&k8s_openapi::api::core::v1::Pod| {
        let conditions = pod
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten());
        pod.metadata.deletion_timestamp.is_none()
            && conditions
                .into_iter()
                .any(|c| c.type_ == "Ready" && c.status == "True")
    };
    Ok(pods.items.iter().filter(is_ready).count())
}
