//! Telling the operators that requests wait for a pod, for as long as they do: by one task of the Function, so that those who wait need no
//! clock of their own for it.

use std::{sync::Arc, time::Duration};

use crds::control::{ToOperator, WAKE_REPEAT_MS};
use tokio::time::{Instant, sleep};

use super::Function;
use crate::timing::ColdStart;

/// Time after which a wake that led to nothing is sent again.
const REPEAT: Duration = Duration::from_millis(WAKE_REPEAT_MS);

/// What was told.
#[derive(Default)]
pub(super) struct Wakes {
    last: Option<Wake>,
    /// Whether a task repeats it.
    repeating: bool,
}

/// The last wake that was sent.
struct Wake {
    at: Instant,
    /// What it began.
    cold_start: Arc<ColdStart>,
}

impl Wakes {
    /// The next request that finds no pod begins a new start from zero, whose wake must not wait.
    pub(super) fn begin_anew(&mut self) {
        self.last = None;
    }
}

impl Function {
    /// Tells the operators that requests wait for a pod to start, unless they were told a moment ago, and goes on to tell them until none
    /// does. `first`: nobody waited before. Returns the start from zero that the request waits for.
    pub(crate) fn wake(self: &Arc<Self>, first: bool) -> Arc<ColdStart> {
        let now = Instant::now();
        let mut wakes = self.wakes.lock();
        if !wakes.repeating {
            wakes.repeating = true;
            tokio::spawn(repeat(Arc::clone(self)));
        }
        let cold_start = match &wakes.last {
            Some(last) if now.duration_since(last.at) < REPEAT => {
                return Arc::clone(&last.cold_start);
            }
            Some(last) if !first => Arc::clone(&last.cold_start),
            _ => Arc::new(ColdStart::new(now)),
        };
        wakes.last = Some(Wake {
            at: now,
            cold_start: Arc::clone(&cold_start),
        });
        drop(wakes);
        self.metrics.wakes.inc();
        self.tell(&ToOperator::Wake {
            function: self.key.clone(),
            waiting: self.gate.waiting(),
        });
        cold_start
    }

    /// Does what those who wait for a pod now need: those who waited for a busy one may have lost it, so that they wait for one to start.
    pub(crate) fn rouse(self: &Arc<Self>) {
        if self.gate.starves() {
            self.wake(false);
        }
        self.probe_pods();
    }

    /// Whether somebody still waits for a pod to start. If not, the repetition is over: whoever comes next begins another one.
    fn goes_on(&self) -> bool {
        // Who begins to wait is in line before it asks for this lock, so it is seen here or finds the repetition over.
        let mut wakes = self.wakes.lock();
        wakes.repeating = self.gate.starves();
        wakes.repeating
    }
}

/// Repeats the wake while somebody waits for a pod to start, and lets those who wait see whether that is still of use.
async fn repeat(function: Arc<Function>) {
    loop {
        sleep(REPEAT).await;
        if !function.goes_on() {
            return;
        }
        function.rouse();
        if function.settings().is_hopeless() {
            function.hopeless.notify_waiters();
        }
    }
}
