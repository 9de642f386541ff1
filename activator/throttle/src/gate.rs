//! The gate: the state behind a lock, and what is done after the lock is released.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    activity::Sample,
    line::{Acquired, Probe, Slot, Urgency, Waiter},
    pod::{Load, Target},
    state::{Entry, State},
};

/// Called inside the call that made it so, so it must be short, and must neither block nor call the gate.
type OnNotice = Box<dyn Fn(Notice) + Send + Sync>;

/// What a gate has to say of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nothing is in flight to any draining pod. Said once for each drain number.
    Drained(u64),
    /// The number of requests has risen suddenly. Said once until the next sample, which is of the time since then.
    Surge,
    /// Nothing more is sent to pods that are [`Told::Away`](crate::Told::Away); these still have requests. Said for each number of
    /// [`Target::released`], and when one has no more.
    Released(Vec<Arc<str>>),
}

/// One Function's queue and slots. `P` is what a slot tells of its pod; it is cloned for each slot, so keep it an `Arc`.
pub struct Gate<P: Clone> {
    state: Mutex<State<P>>,
    on_notice: OnNotice,
}

impl<P: Clone> Gate<P> {
    /// A gate without pods, at which at most `max_waiting` requests wait. `on_notice` is called inside the call that gave the notice:
    /// it must neither block nor call the gate.
    pub fn new(
        max_waiting: usize,
        on_notice: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(max_waiting, Instant::now())),
            on_notice: Box::new(on_notice),
        })
    }

    /// Lets a request in: to a pod of a revision chosen by weight, or into that revision's line.
    pub fn acquire(self: &Arc<Self>) -> Acquired<P> {
        self.enter(None)
    }

    /// Replaces the picture of revisions and pods; those who wait go where a pod has become usable. Returns
    /// whether the last usable pod was lost by this.
    pub fn update(self: &Arc<Self>, target: Target<P>) -> bool {
        self.change(|state| state.update(target))
    }

    /// Ends all waiting with [`Closed`](crate::Closed) and lets nobody in any more. Slots live on.
    pub fn close(self: &Arc<Self>) {
        self.change(State::close);
    }

    /// Probes that ought to run and do not yet. Ask after a request had to wait, after an update, and after distrusting a pod.
    pub fn probes(self: &Arc<Self>) -> Vec<Probe<P>> {
        let probes = self.state.lock().probes();
        let probe = |(id, payload)| Probe::new(Arc::clone(self), id, payload);
        probes.into_iter().map(probe).collect()
    }

    /// The number of the present drain, if there are draining pods and nothing is in flight to any.
    pub fn drained(&self) -> Option<u64> {
        self.state.lock().drained()
    }

    /// What happened since the last sample; `None` if nothing did, after having said so once.
    /// A `regular` one is taken at the same moments everywhere; others come between them, at a sudden rise.
    pub fn sample(&self, regular: bool) -> Option<Sample> {
        let mut state = self.state.lock();
        let (in_flight, queued) = (state.in_flight, waiting(&state));
        let now = Instant::now();
        state.activity.sample(in_flight, queued, regular, now)
    }

    /// Requests in each pod that has any, by the pod's id; nothing while there is only one pod.
    pub fn loads(&self) -> Vec<(Arc<str>, u32)> {
        let state = self.state.lock();
        if state.members().nth(1).is_none() {
            return Vec::new();
        }
        let loads = state.members().map(|m| (Arc::clone(&m.id), m.load.get()));
        loads.filter(|(_, load)| *load > 0).collect()
    }

    /// Requests in this pod.
    pub fn load_of(&self, id: &str) -> u32 {
        let state = self.state.lock();
        let member = state.members().find(|member| &*member.id == id);
        member.map_or(0, |member| member.load.get())
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> u32 {
        waiting(&self.state.lock())
    }

    /// Whether somebody waits for a pod to start.
    pub fn starves(&self) -> bool {
        self.state.lock().starves()
    }

    /// Requests in pods now.
    pub fn in_flight(&self) -> u32 {
        self.state.lock().in_flight
    }

    /// What each pod carries.
    pub fn payloads(&self) -> Vec<P> {
        let state = self.state.lock();
        state.members().map(|m| m.payload.clone()).collect()
    }

    pub(crate) fn enter(self: &Arc<Self>, again: Option<u64>) -> Acquired<P> {
        match self.change(|state| state.enter(again)) {
            Entry::Grant(grant) => Acquired::Slot(Slot::new(Arc::clone(self), grant)),
            Entry::Wait {
                ticket,
                receiver,
                first,
            } => Acquired::Wait(Waiter::new(Arc::clone(self), ticket, receiver, first)),
            Entry::Full => Acquired::Full,
            Entry::Closed => Acquired::Closed,
        }
    }

    pub(crate) fn release(self: &Arc<Self>, load: &Load) {
        self.change(|state| state.release(load));
    }

    pub(crate) fn leave(self: &Arc<Self>, ticket: u64) {
        self.change(|state| state.leave(ticket));
    }

    pub(crate) fn trust(self: &Arc<Self>, id: &str, trusted: bool) -> bool {
        self.change(|state| state.trust(id, trusted))
    }

    pub(crate) fn waits_for(&self, ticket: u64) -> Option<(Arc<str>, bool)> {
        self.state.lock().waits_for(ticket)
    }

    pub(crate) fn probe_wanted(&self, id: &str) -> Option<Urgency> {
        self.state.lock().probe_wanted(id)
    }

    pub(crate) fn probe_ended(&self, id: &str) {
        self.state.lock().probe_ended(id);
    }

    /// Every change goes through here: afterwards those who can go do, and a drain that has just come to its end is announced.
    fn change<R>(self: &Arc<Self>, change: impl FnOnce(&mut State<P>) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let granted = state.dispatch();
        let drained = state.newly_drained();
        if let Some(busy) = state.newly_released() {
            // Under the lock, since what is said last must be what is true last.
            (self.on_notice)(Notice::Released(busy));
        }
        let level = state.in_flight.saturating_add(waiting(&state));
        let surge = state.activity.set(level, Instant::now());
        drop(state);
        for (sender, grant) in granted {
            // The slot comes back and is dropped here when its waiter was dropped meanwhile; that frees it for the next.
            let _ = sender.send(Slot::new(Arc::clone(self), grant));
        }
        if let Some(drain) = drained {
            (self.on_notice)(Notice::Drained(drain));
        }
        if surge {
            (self.on_notice)(Notice::Surge);
        }
        result
    }
}

fn waiting<P: Clone>(state: &State<P>) -> u32 {
    u32::try_from(state.waiting).unwrap_or(u32::MAX)
}

impl<P: Clone> fmt::Debug for Gate<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Gate")
            .field("in_flight", &state.in_flight)
            .field("waiting", &state.waiting)
            .finish_non_exhaustive()
    }
}
