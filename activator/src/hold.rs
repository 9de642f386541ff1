//! Waiting for a pod.

use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use crds::control::Problem;
use throttle::{Acquired, Budget, Closed, OverBudget, Place, Slot, Waiter};
use tokio::time::{Instant, sleep_until};

use crate::{
    answer::{Failure, Reason, Refusal},
    client::Client,
    function::Function,
    metrics::{Metrics, Raised},
    pod::Pod,
    timing::{self, ColdStart},
};

/// How long a request is held although its revision's pods have a problem that does not pass by waiting. The kubelet tries a failed pull or
/// a crashed container again after about 10 s at first; half of that gives an operator's fix in progress a chance,
/// while holding for the whole cold start timeout would only delay the news that an image's name is wrong.
const FATAL_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that a request takes in memory while it waits, besides its head: connection, task, timers and its place in line, which are 7.9 KiB by
/// `cargo e2e bench held`, and what came with its head, of its body or of the next request: at most 8 KiB.
const WAITING: usize = 16 << 10;

/// The same of a connection with TLS: a record on its way in and one on its way out.
const TLS: usize = 32 << 10;

/// A request that may have to wait, more than once if its pod turns out unreachable.
pub(crate) struct Hold<'a> {
    function: &'a Arc<Function>,
    metrics: &'a Metrics,
    budget: &'a Arc<Budget>,
    client: &'a Client,
    /// Whether the request's body is unread, so that only watching the socket tells that the client goes away.
    body_unread: bool,
    arrived: Instant,
    /// The start from zero that it waited for, if it had to wait.
    cold_start: Option<Arc<ColdStart>>,
    /// When it was given a pod: as it arrived, if it did not have to wait.
    pub(crate) granted: Instant,
}

impl<'a> Hold<'a> {
    pub(crate) fn new(
        function: &'a Arc<Function>,
        metrics: &'a Metrics,
        budget: &'a Arc<Budget>,
        client: &'a Client,
        body_unread: bool,
    ) -> Self {
        let arrived = Instant::now();
        Self {
            function,
            metrics,
            budget,
            client,
            body_unread,
            arrived,
            cold_start: None,
            granted: arrived,
        }
    }

    /// The slot of `acquired`, waited for if necessary; `bytes` says what the request keeps in memory meanwhile.
    ///
    /// # Errors
    /// With the answer for the client if there is no slot, or [`Failure::Gone`] if it went away meanwhile.
    pub(crate) async fn slot(
        &mut self,
        acquired: Acquired<Arc<Pod>>,
        bytes: impl FnOnce() -> usize,
    ) -> Result<Slot<Arc<Pod>>, Failure> {
        match acquired {
            Acquired::Slot(slot) => Ok(slot),
            // Boxed because it is large, and warm requests, whose future it would be part of, do not wait.
            Acquired::Wait(waiter) => {
                let place = self.place(bytes())?;
                Box::pin(self.wait(waiter, place)).await
            }
            Acquired::Full => Err(self.full().into()),
            Acquired::Closed => Err(self.removed().into()),
        }
    }

    /// The cold start that the request waited for, and what it knows of its own time, with the answer now; `None` if it did not wait.
    pub(crate) fn timing(&self) -> Option<(&ColdStart, timing::Held)> {
        let cold_start = self.cold_start.as_deref()?;
        let answered = Instant::now();
        let held = timing::Held {
            arrived: self.arrived,
            woken: cold_start.began,
            granted: self.granted,
            answered,
        };
        Some((cold_start, held))
    }

    fn place(&self, bytes: usize) -> Result<Place, Refusal> {
        let namespace = &self.function.key.namespace;
        let tls = self.client.certified.as_ref().map_or(0, |_| TLS);
        let entered = self.budget.enter(namespace, WAITING + tls + bytes);
        entered.map_err(|OverBudget| self.over_budget())
    }

    async fn wait(
        &mut self,
        mut waiter: Waiter<Arc<Pod>>,
        mut place: Place,
    ) -> Result<Slot<Arc<Pod>>, Failure> {
        let _held = Held::new(self.metrics, place.bytes());
        if waiter.is_starved() {
            let cold_start = self.function.wake(waiter.was_first());
            self.cold_start.get_or_insert(cold_start);
            self.function.probe_pods();
        }
        let limit = self.function.settings().cold_start;
        let mut deadline = pin!(sleep_until(self.arrived + limit));
        let mut hopeless = pin!(self.function.hopeless.notified());
        let (client, watch) = (self.client, self.body_unread);
        let mut gone = pin!(async move {
            match watch {
                true => client.gone().await,
                false => pending().await,
            }
        });
        loop {
            tokio::select! {
                biased;
                granted = &mut waiter => {
                    self.granted = Instant::now();
                    return granted.map_err(|Closed| self.removed().into());
                }
                () = &mut gone => return Err(Failure::Gone),
                () = place.shed() => return Err(self.over_budget().into()),
                () = &mut deadline => return Err(self.too_late(&waiter, limit).into()),
                () = &mut hopeless => {
                    hopeless.set(self.function.hopeless.notified());
                    if let Some(refusal) = self.hopeless(&waiter) {
                        return Err(refusal.into());
                    }
                }
            }
        }
    }

    /// The answer to give early, if waiting longer is of no use.
    fn hopeless(&self, waiter: &Waiter<Arc<Pod>>) -> Option<Refusal> {
        if self.arrived.elapsed() < FATAL_PATIENCE || !waiter.is_starved() {
            return None;
        }
        let (revision, problem) = self.problem(waiter);
        let problem = problem.filter(|problem| problem.fatal)?;
        let key = &self.function.key;
        let what = match &*revision {
            "" => format!("{key} has no revision"),
            revision => format!("no pod of {key} (revision {revision}) can start"),
        };
        let text = format!("{what}: {}: {}", problem.reason, problem.message);
        Some(Refusal::new(Reason::PodProblem, text))
    }

    fn too_late(&self, waiter: &Waiter<Arc<Pod>>, limit: Duration) -> Refusal {
        if !waiter.is_starved() {
            let (key, limit) = (&self.function.key, limit.as_secs_f64());
            let text = format!(
                "all pods of {key} had as many requests as concurrencyLimit allows for {limit} s"
            );
            return Refusal::new(Reason::AtLimit, text);
        }
        let (revision, problem) = self.problem(waiter);
        let mut text = match &*revision {
            "" => format!("no revision of {} took requests", self.function.key),
            revision => format!(
                "no pod of {} (revision {revision}) was ready",
                self.function.key
            ),
        };
        text += &format!(" in {} s", limit.as_secs_f64());
        if let Some(problem) = problem {
            text += &format!(": {}: {}", problem.reason, problem.message);
        }
        Refusal::new(Reason::NoPod, text)
    }

    /// The revision that is waited for, and what keeps its pods from starting, as known now.
    fn problem(&self, waiter: &Waiter<Arc<Pod>>) -> (Arc<str>, Option<Problem>) {
        let revision = waiter.revision().unwrap_or_default();
        let problem = self.function.settings().problem(&revision).cloned();
        (revision, problem)
    }

    fn full(&self) -> Refusal {
        let text = format!("too many requests wait for {}", self.function.key);
        Refusal::new(Reason::QueueFull, text)
    }

    fn over_budget(&self) -> Refusal {
        let text = format!(
            "too many requests wait over all, and those in namespace {} have their share",
            self.function.key.namespace
        );
        Refusal::new(Reason::OverBudget, text)
    }

    fn removed(&self) -> Refusal {
        Refusal::new(
            Reason::Removed,
            format!("{} was deleted", self.function.key),
        )
    }
}

/// Counts a request as held for as long as it lives.
struct Held<'a> {
    metrics: &'a Metrics,
    since: Instant,
    bytes: i64,
    _gauge: Raised,
}

impl<'a> Held<'a> {
    fn new(metrics: &'a Metrics, bytes: usize) -> Self {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics.held_bytes.add(bytes);
        Self {
            metrics,
            bytes,
            since: Instant::now(),
            _gauge: Raised::new(&metrics.held),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed().as_secs_f64();
        self.metrics.held_duration.observe(waited);
        self.metrics.held_bytes.sub(self.bytes);
    }
}
