//! What a request holds: a slot on a pod, or a place in line; and what a probe holds.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use crate::{gate::Gate, pod::Load, state::Grant};

/// What became of a request.
#[derive(Debug)]
pub enum Acquired<P: Clone> {
    /// It may go.
    Slot(Slot<P>),
    /// It must wait.
    Wait(Waiter<P>),
    /// It cannot even wait: the line is full.
    Full,
    /// The gate is closed.
    Closed,
}

/// The gate was closed while a request waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the gate is closed")
    }
}

impl std::error::Error for Closed {}

/// Leave to send one request to one pod; in flight until dropped.
pub struct Slot<P: Clone> {
    gate: Arc<Gate<P>>,
    ticket: u64,
    id: Arc<str>,
    payload: P,
    load: Arc<Load>,
}

impl<P: Clone> Slot<P> {
    pub(crate) fn new(gate: Arc<Gate<P>>, grant: Grant<P>) -> Self {
        Self {
            gate,
            ticket: grant.ticket,
            id: grant.id,
            payload: grant.payload,
            load: grant.load,
        }
    }

    /// What the pod carries.
    pub fn payload(&self) -> &P {
        &self.payload
    }

    /// Says that the pod refused this request's connection: it takes no more until a probe has passed or the operator
    /// says something new of it.
    pub fn distrust(&self) {
        self.gate.trust(&self.id, false);
    }

    /// Gives the slot back and asks for another one. The request keeps its place before all that came later, and needs
    /// no new place in line, so it is never refused as [`Acquired::Full`].
    pub fn again(self) -> Acquired<P> {
        let (gate, ticket) = (Arc::clone(&self.gate), self.ticket);
        drop(self);
        gate.enter(Some(ticket))
    }
}

impl<P: Clone> Drop for Slot<P> {
    fn drop(&mut self) {
        self.gate.release(&self.load);
    }
}

impl<P: Clone> fmt::Debug for Slot<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A place in line, given up when dropped. As a future it resolves to a slot, or to [`Closed`] when there will be none.
/// A slot that arrives while the waiter is being dropped goes to the next in line.
pub struct Waiter<P: Clone> {
    gate: Arc<Gate<P>>,
    ticket: u64,
    receiver: oneshot::Receiver<Slot<P>>,
    first: bool,
}

impl<P: Clone> Waiter<P> {
    pub(crate) fn new(
        gate: Arc<Gate<P>>,
        ticket: u64,
        receiver: oneshot::Receiver<Slot<P>>,
        first: bool,
    ) -> Self {
        Self {
            gate,
            ticket,
            receiver,
            first,
        }
    }

    /// Whether nobody else waited when this one began to.
    pub fn was_first(&self) -> bool {
        self.first
    }

    /// The revision that is waited for; it can change when the weights do. `None` once there is a slot.
    pub fn revision(&self) -> Option<Arc<str>> {
        self.gate
            .waits_for(self.ticket)
            .map(|(revision, _)| revision)
    }

    /// Whether it waits for a pod to start. Else it waits for a pod that has fewer requests than its limit.
    pub fn is_starved(&self) -> bool {
        self.gate
            .waits_for(self.ticket)
            .is_some_and(|(_, starved)| starved)
    }
}

impl<P: Clone> Future for Waiter<P> {
    type Output = Result<Slot<P>, Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let received = ready!(Pin::new(&mut self.receiver).poll(cx));
        Poll::Ready(received.map_err(|_| Closed))
    }
}

impl<P: Clone> Drop for Waiter<P> {
    fn drop(&mut self) {
        self.gate.leave(self.ticket);
    }
}

impl<P: Clone> fmt::Debug for Waiter<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

/// Why a pod is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Requests wait for it.
    Awaited,
    /// It refused a connection although it is said to be serving; others take the requests.
    Suspect,
}

/// The task of probing one pod; there is at most one for each. Dropping it lets another one begin.
pub struct Probe<P: Clone> {
    gate: Arc<Gate<P>>,
    id: Arc<str>,
    payload: P,
    over: bool,
}

impl<P: Clone> Probe<P> {
    pub(crate) fn new(gate: Arc<Gate<P>>, id: Arc<str>, payload: P) -> Self {
        Self {
            gate,
            id,
            payload,
            over: false,
        }
    }

    /// What the pod carries.
    pub fn payload(&self) -> &P {
        &self.payload
    }

    /// Whether to go on, and why. After a `None` this probe is over: when it is wanted again, the gate hands out a new one.
    pub fn wanted(&mut self) -> Option<Urgency> {
        if self.over {
            return None;
        }
        let urgency = self.gate.probe_wanted(&self.id);
        self.over = urgency.is_none();
        urgency
    }

    /// Says that the pod can take requests; those that wait for it go. Returns whether that was news about a starting pod.
    pub fn passed(self) -> bool {
        self.gate.trust(&self.id, true)
    }
}

impl<P: Clone> Drop for Probe<P> {
    fn drop(&mut self) {
        if !self.over {
            self.gate.probe_ended(&self.id);
        }
    }
}

impl<P: Clone> fmt::Debug for Probe<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
