//! What the activators say of a Function's load.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crds::control::FunctionStats;

use crate::fleet::SessionId;

/// Each activator's newest report. One that has nothing to report is not in it.
#[derive(Debug, Default)]
pub struct Reports(HashMap<SessionId, Told>);

#[derive(Debug, Default)]
struct Told {
    load: Report,
    /// Requests in each pod that has any, by UID.
    pods: BTreeMap<String, u32>,
}

/// A load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Requests in pods.
    pub in_flight: u32,
    /// Requests that wait for one.
    pub waiting: u32,
    /// Requests in pods or waiting, averaged over the report's time.
    pub concurrency: f64,
    /// Requests that arrive in a second.
    pub rps: f64,
}

impl Reports {
    /// Requests wait in an activator.
    pub fn woken(&mut self, session: SessionId, waiting: u32) {
        let report = &mut self.0.entry(session).or_default().load;
        report.waiting = waiting.max(1);
        report.concurrency = report.concurrency.max(f64::from(report.waiting));
    }

    /// An activator's report.
    pub fn told(&mut self, session: SessionId, stats: &FunctionStats) {
        let load = Report {
            in_flight: stats.in_flight,
            waiting: stats.queued,
            concurrency: stats.concurrency,
            rps: stats.rps,
        };
        if load == Report::default() {
            self.0.remove(&session);
        } else {
            let pods = stats.pods.clone();
            self.0.insert(session, Told { load, pods });
        }
    }

    /// Forgets activators that are gone, and their requests with them.
    pub fn keep(&mut self, sessions: &BTreeSet<SessionId>) {
        self.0.retain(|session, _| sessions.contains(session));
    }

    /// Requests in a pod, over all activators, as they said last.
    pub fn in_pod(&self, uid: &str) -> u32 {
        self.0.values().filter_map(|told| told.pods.get(uid)).sum()
    }

    /// The load over all activators.
    pub fn total(&self) -> Report {
        let loads = self.0.values().map(|told| told.load);
        loads.fold(Report::default(), |sum, one| Report {
            in_flight: sum.in_flight.saturating_add(one.in_flight),
            waiting: sum.waiting.saturating_add(one.waiting),
            concurrency: sum.concurrency + one.concurrency,
            rps: sum.rps + one.rps,
        })
    }
}
