//! The scaler: decides how many pods each Function has, and is the only one that writes counts.
//!
//! One task owns all state. It is told of everything that happens, looks at the Function concerned ([`unit::Unit::step`], pure),
//! starts the writes that follow, and publishes to the activators what they must know.

pub mod explain;
pub mod policy;
pub mod targets;
pub mod unit;
pub mod write;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crds::{
    control::{ColdStart, ToOperator},
    names::FunctionKey,
};
use parking_lot::Mutex;
use runtime::lease::Leadership;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    certificates::{Certificates, Wanted},
    events::{Event, Events},
    fleet::{Fleet, SessionId, State, render},
    hosts::{Claim, Hosts},
    metrics::Metrics,
    observe::{Entry, Index},
    queue::Queue,
    scaler::{
        policy::Scaling,
        unit::{REPORTS_APART, Step, Surroundings, Unit, Write, counts::Failed},
        write::Writer,
    },
};

/// Messages that may wait for the scaler. Senders wait when it is full: they are control streams, whose flow control then holds the activators back.
pub const INBOX: usize = 4096;

/// What happens to the scaler, besides changes of the index.
#[derive(Debug)]
pub enum Message {
    /// An activator said something.
    Activator {
        /// Over which stream.
        session: SessionId,
        /// What.
        frame: ToOperator,
        /// When it was received.
        at: Instant,
    },
    /// An activator listens, or does not, for a Function.
    Bound(FunctionKey),
    /// A stream opened or ended, or an activator's pod changed.
    SessionsChanged,
}

/// What the scaler works with.
#[derive(Clone)]
pub struct Parts {
    /// What is known of the cluster.
    pub index: Arc<Index>,
    /// The activators.
    pub fleet: Arc<Fleet>,
    /// Functions whose entry has changed, or that are to be looked at again.
    pub changed: Arc<Queue>,
    /// Functions whose shape is to be reconciled.
    pub shape: Arc<Queue>,
    /// Whether this replica leads.
    pub lead: watch::Receiver<Leadership>,
    /// Writes counts.
    pub writer: Writer,
    /// Events for people.
    pub events: Events,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// The cluster's defaults and limits.
    pub scaling: Arc<Scaling>,
    /// Functions whose count somebody else changes, for their status.
    pub contests: Contests,
    /// Who has which host name.
    pub hosts: Arc<Mutex<Hosts>>,
    /// The certificates that Functions name.
    pub certificates: Arc<Certificates>,
}

/// Functions whose count somebody else changes: who, and what comes of it, for people.
pub type Contests = Arc<Mutex<HashMap<FunctionKey, String>>>;

struct Scaler {
    parts: Parts,
    epoch: Instant,
    units: HashMap<FunctionKey, Unit>,
    writes: JoinSet<(FunctionKey, Write, Result<String, Failed>)>,
}

/// Runs until `inbox` is closed. The index must know all that exists by now.
pub async fn run(parts: Parts, mut inbox: mpsc::Receiver<Message>) {
    let mut lead = parts.lead.clone();
    let changed = parts.changed.clone();
    let mut scaler = Scaler {
        parts,
        epoch: epoch(),
        units: HashMap::new(),
        writes: JoinSet::new(),
    };
    // All claims first: whether a Function has a host depends on the others.
    for key in scaler.parts.index.keys() {
        scaler.claim(&key, &scaler.parts.index.entry(&key));
    }
    for key in scaler.parts.index.keys() {
        scaler.step(&key);
    }
    scaler.parts.fleet.complete();
    let mut led = None;
    loop {
        tokio::select! {
            // Wakes first.
            biased;
            message = inbox.recv() => match message {
                Some(message) => scaler.handle(message),
                None => return,
            },
            Some(ended) = scaler.writes.join_next() => scaler.write_ended(ended),
            key = changed.next() => {
                scaler.step(&key);
                changed.done(&key);
            }
            Ok(()) = lead.changed() => {
                let epoch = lead.borrow_and_update().epoch(Instant::now());
                if epoch != led {
                    led = epoch;
                    scaler.lead_changed(epoch);
                }
            }
        }
    }
}

impl Scaler {
    fn handle(&mut self, message: Message) {
        match message {
            Message::Activator { session, frame, at } => self.heard(session, frame, at),
            Message::Bound(key) => {
                self.parts.shape.add(&key);
                if self.units.get(&key).is_some_and(|u| u.keeping().is_some()) {
                    self.parts.changed.add(&key);
                }
            }
            Message::SessionsChanged => {
                let sessions = self.parts.fleet.sessions();
                self.parts
                    .metrics
                    .control_sessions
                    .set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
                self.everything();
            }
        }
    }

    /// Looks at all Functions again, and has their shape reconciled.
    fn everything(&self) {
        for key in self.parts.index.keys() {
            self.parts.changed.add(&key);
            self.parts.shape.add(&key);
        }
    }

    fn lead_changed(&mut self, epoch: Option<u64>) {
        self.parts.fleet.lead(epoch);
        self.parts.metrics.leader.set(i64::from(epoch.is_some()));
        if epoch.is_none() {
            self.parts.metrics.forget_functions();
        }
        self.everything();
    }

    fn heard(&mut self, session: SessionId, frame: ToOperator, at: Instant) {
        match frame {
            ToOperator::Wake { function, waiting } => {
                self.unit(&function).woken(session, waiting, at);
                self.step(&function);
            }
            ToOperator::Stats { functions } => {
                for stats in functions {
                    let epoch = self.epoch;
                    let unit = self.unit(&stats.function);
                    unit.reported(session, &stats, at, epoch);
                    let changed = &self.parts.changed;
                    changed.add_after(&stats.function, REPORTS_APART);
                }
            }
            ToOperator::Drained { function, drain } => {
                self.unit(&function).drained(session, drain);
                self.step(&function);
            }
            ToOperator::Busy { function, drain } => {
                let epoch = self.epoch;
                self.unit(&function).busy(drain, at, epoch);
                self.step(&function);
            }
            ToOperator::Released {
                function,
                term,
                newest,
                busy,
            } => {
                self.unit(&function).released(session, term, newest, busy);
                self.step(&function);
            }
            ToOperator::ColdStart(cold) => self.cold_start(&cold),
            // The stream itself has dealt with the others.
            _ => {}
        }
    }

    /// Each replica hears of a cold start; the leader tells it.
    fn cold_start(&self, cold: &ColdStart) {
        self.parts.metrics.cold_start(&cold.phases);
        if self.leads(Instant::now()) {
            self.parts
                .events
                .publish(&cold.function, Event::cold_start(cold));
        }
    }

    fn leads(&self, now: Instant) -> bool {
        self.parts.lead.borrow().epoch(now).is_some()
    }

    fn unit(&mut self, key: &FunctionKey) -> &mut Unit {
        let (epoch, index) = (self.epoch, &self.parts.index);
        self.units.entry(key.clone()).or_insert_with(|| {
            let entry = index.entry(key);
            let ready = entry.serving().map_or(0, |revision| entry.ready(revision));
            Unit::new(ready, Instant::now(), epoch)
        })
    }

    fn step(&mut self, key: &FunctionKey) {
        let entry = self.parts.index.entry(key);
        if !self.claim(key, &entry) {
            self.forget(key);
            return;
        }
        let now = Instant::now();
        let sessions = self.parts.fleet.sessions();
        let scaling = self.parts.scaling.clone();
        let limited = entry
            .function
            .as_ref()
            .is_some_and(|f| f.spec.concurrency_limit.is_some());
        let keeper = entry.port().filter(|_| limited);
        let keeper = keeper.and_then(|port| self.parts.fleet.keeper(key, port));
        let around = Surroundings {
            now,
            epoch: self.epoch,
            leader: self.leads(now),
            sessions: &sessions,
            strangers: self.parts.fleet.strangers(),
            unix_ms: unix_ms(),
            keeper: keeper.as_ref(),
            fresh: (unix_ms() << 12) | fastrand::u64(..1 << 12),
            scaling: &scaling,
        };
        let before = self.unit(key).decided().map(|d| d.desired);
        let step = self.unit(key).step(&entry, &around);
        self.publish(key, &entry, now);
        if let Some(again) = step.again {
            self.parts
                .changed
                .add_after(key, again.saturating_duration_since(now));
        }
        if around.leader {
            self.tell(key, &entry, &step, before);
        }
        for write in step.writes {
            let (writer, key) = (self.parts.writer.clone(), key.clone());
            self.writes.spawn(async move {
                let result = writer.write(&key, &write).await;
                (key, write, result)
            });
        }
    }

    /// Takes note of the hosts that a Function claims and of the Secret that it names. Returns whether it exists: one that is being deleted in the
    /// foreground is still there, but its pods are going.
    fn claim(&self, key: &FunctionKey, entry: &Entry) -> bool {
        let function = entry.function.as_ref();
        let function = function.filter(|f| f.metadata.deletion_timestamp.is_none());
        let secret = function.and_then(|function| function.secret_name());
        self.parts.certificates.name(key, secret);
        let claim = function.map(|function| Claim::of(function));
        let touched = self.parts.hosts.lock().set(key, claim);
        for other in touched {
            self.parts.shape.add(&other);
            if other != *key {
                self.parts.changed.add(&other);
            }
        }
        function.is_some()
    }

    fn forget(&mut self, key: &FunctionKey) {
        if self.units.remove(key).is_some() {
            self.parts.metrics.forget(key);
            self.parts.contests.lock().remove(key);
        }
        self.parts.fleet.publish(key, None);
    }

    /// Tells people what a step of the leader has found.
    fn tell(&self, key: &FunctionKey, entry: &Entry, step: &Step, before: Option<u32>) {
        let metrics = &self.parts.metrics;
        if let Some(change) = &step.changed_by {
            metrics.foreign_changes.inc();
            self.parts.events.publish(key, Event::contested(change));
        }
        if step.drain_cancelled {
            metrics.drains.with_label_values(&["cancelled"]).inc();
        }
        let Some(unit) = self.units.get(key) else {
            return;
        };
        let message = unit.contested();
        let mut contests = self.parts.contests.lock();
        if contests.get(key) != message.as_ref() {
            match message {
                Some(message) => contests.insert(key.clone(), message),
                None => contests.remove(key),
            };
            self.parts.shape.add(key);
        }
        drop(contests);
        if let Some(decision) = unit.decided() {
            let ready = entry.serving().map_or(0, |revision| entry.ready(revision));
            metrics.function(key, decision, ready);
            if before != Some(decision.desired) {
                let reason = decision.reason.as_str();
                metrics.decisions.with_label_values(&[reason]).inc();
            }
        }
    }

    fn publish(&self, key: &FunctionKey, entry: &Entry, now: Instant) {
        if let Some(unit) = self.units.get(key)
            && let Some((mut route, backends)) = {
                let (domain, scaling) = (&self.parts.cluster_domain, &self.parts.scaling);
                let activators = || self.parts.fleet.addresses();
                render::state(key, entry, unit, domain, scaling, activators, now)
            }
        {
            let hosts = self.parts.hosts.lock().of(key);
            let certificate = self.parts.certificates.of(key);
            let new = hosts.iter().filter(|host| !route.hosts.contains(host));
            let new: Vec<String> = new.cloned().collect();
            route.hosts.extend(new);
            let state = State {
                route,
                backends,
                certificate: certificate.map_or(Wanted::Nothing, |c| c.wanted()),
                hosts,
            };
            self.parts.fleet.publish(key, Some(state));
        }
    }

    fn write_ended(
        &mut self,
        ended: Result<(FunctionKey, Write, Result<String, Failed>), tokio::task::JoinError>,
    ) {
        let (key, write, result) = match ended {
            Ok(ended) => ended,
            // A bug; the unit would wait for this write for ever, so the process must not go on in that state.
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let now = Instant::now();
        if result.is_ok() {
            if let Some(woken) = write.woken {
                self.parts
                    .metrics
                    .wake_to_write
                    .observe((now - woken).as_secs_f64());
            }
            self.parts
                .metrics
                .scale_writes
                .with_label_values(&[write.reason])
                .inc();
            if write.to < write.from {
                let drains = &self.parts.metrics.drains;
                drains.with_label_values(&["finished"]).inc();
            }
            if write.to < write.from || write.woken.is_none() {
                self.parts.events.publish(&key, Event::scaled(&write));
            }
        }
        if let Some(unit) = self.units.get_mut(&key) {
            unit.write_ended(&write, result, now);
        }
        self.step(&key);
    }
}

fn unix_ms() -> u64 {
    u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
}

fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// Where decisions' clock begins: half a second before a second of the wall clock. Activators report at its seconds, so each second of the
/// windows gets one report, whichever way it is late.
fn epoch() -> Instant {
    let now = Instant::now();
    let into_second = Duration::from_nanos(since_1970().subsec_nanos().into());
    now.checked_sub(into_second + Duration::from_millis(500))
        .unwrap_or(now)
}
