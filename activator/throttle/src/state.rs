//! The gate's state: everything that happens under its lock.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    activity::Activity,
    lane::Lane,
    line::{Slot, Urgency},
    pod::{Load, Member, Pod, Target, Told},
};

/// A slot that is given but not yet wrapped into a [`Slot`].
pub(crate) struct Grant<P> {
    pub(crate) ticket: u64,
    pub(crate) id: Arc<str>,
    pub(crate) payload: P,
    pub(crate) load: Arc<Load>,
}

/// What became of a request that came in.
pub(crate) enum Entry<P: Clone> {
    Grant(Grant<P>),
    Wait {
        ticket: u64,
        receiver: oneshot::Receiver<Slot<P>>,
        first: bool,
    },
    Full,
    Closed,
}

pub(crate) struct State<P: Clone> {
    max_waiting: usize,
    closed: bool,
    next_ticket: u64,
    /// Never empty. Those with a weight take new requests.
    lanes: Vec<Lane<P>>,
    /// Sum of all lanes' lines.
    pub(crate) waiting: usize,
    /// Slots that live, those on pods that are no longer members included.
    pub(crate) in_flight: u32,
    pub(crate) activity: Activity,
    /// What is still in flight to pods that are no longer members. One of them can come back, when another operator
    /// is followed that had not seen it yet, and then these requests count for its drain.
    departed: HashMap<Arc<str>, Arc<Load>>,
    drain: u64,
    /// Ids of the members that are draining.
    draining: Vec<Arc<str>>,
    /// Whether the end of this drain was announced.
    announced: bool,
    /// [`Target::released`].
    released: Option<u64>,
    /// The pods that were announced to have requests although they are away.
    still_busy: Option<Vec<Arc<str>>>,
}

impl<P: Clone> State<P> {
    pub(crate) fn new(max_waiting: usize, now: Instant) -> Self {
        Self {
            max_waiting,
            closed: false,
            next_ticket: 0,
            // Until a target is known, requests wait in a lane of no revision.
            lanes: vec![Lane::new(Arc::from(""), 1)],
            waiting: 0,
            in_flight: 0,
            activity: Activity::new(now),
            departed: HashMap::new(),
            drain: 0,
            draining: Vec::new(),
            announced: false,
            released: None,
            still_busy: None,
        }
    }

    /// Lets a request in. `again` is the ticket of one that was let in before: it keeps its place in line and needs no new one.
    pub(crate) fn enter(&mut self, again: Option<u64>) -> Entry<P> {
        if self.closed {
            return Entry::Closed;
        }
        let ticket = again.unwrap_or_else(|| {
            self.activity.arrive();
            self.next_ticket += 1;
            self.next_ticket
        });
        let index = self.choose();
        // A line exists only while no pod can take a request, so nobody is overtaken here.
        if let Some(member) = self.lanes[index].pick() {
            let grant = grant(ticket, member);
            self.in_flight += 1;
            return Entry::Grant(grant);
        }
        if again.is_none() && self.waiting >= self.max_waiting {
            return Entry::Full;
        }
        let (sender, receiver) = oneshot::channel();
        let first = self.waiting == 0;
        self.lanes[index].line.insert(ticket, sender);
        self.waiting += 1;
        Entry::Wait {
            ticket,
            receiver,
            first,
        }
    }

    /// Who waits can go wherever a pod can take a request. The slots are to be sent after the lock is released, because
    /// a receiver that is gone drops its slot, which takes the lock again.
    pub(crate) fn dispatch(&mut self) -> Vec<(oneshot::Sender<Slot<P>>, Grant<P>)> {
        let mut grants = Vec::new();
        if self.waiting == 0 {
            return grants;
        }
        for lane in &mut self.lanes {
            while !lane.line.is_empty() {
                let Some(grant) = lane.pick().map(|member| grant(0, member)) else {
                    break;
                };
                let Some((ticket, sender)) = lane.line.pop_first() else {
                    break;
                };
                grants.push((sender, Grant { ticket, ..grant }));
                self.waiting -= 1;
                self.in_flight += 1;
            }
        }
        grants
    }

    pub(crate) fn leave(&mut self, ticket: u64) {
        let left = self
            .lanes
            .iter_mut()
            .any(|lane| lane.line.remove(&ticket).is_some());
        self.waiting -= usize::from(left);
    }

    pub(crate) fn release(&mut self, load: &Load) {
        load.remove();
        self.in_flight -= 1;
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.waiting = 0;
        for lane in &mut self.lanes {
            // A waiter whose sender is gone knows that the gate is closed; a probe whose pod is gone ends.
            lane.line.clear();
            lane.members.clear();
        }
        self.draining.clear();
    }

    /// Follows `target`. Returns whether there was a usable pod and now is none.
    pub(crate) fn update(&mut self, target: Target<P>) -> bool {
        let before = self.usable();
        let mut lanes = lanes_of(&target);
        let mut members: HashMap<Arc<str>, Member<P>> = HashMap::new();
        let mut lines = Vec::new();
        for mut old in std::mem::take(&mut self.lanes) {
            let of_old = old.members.drain(..);
            members.extend(of_old.map(|member| (Arc::clone(&member.id), member)));
            lines.push(old);
        }
        for pod in target.pods {
            let index = position(&lanes, &pod.revision).unwrap_or(0);
            let member = match members.remove(&pod.id) {
                Some(mut member) => {
                    member.limit = pod.limit;
                    member.standing.tell(pod.told);
                    member.payload = pod.payload;
                    member
                }
                None => self.enlist(pod),
            };
            lanes[index].members.push(member);
        }
        self.departed.retain(|_, load| load.get() > 0);
        let gone = members.into_values().filter(|m| m.load.get() > 0);
        self.departed.extend(gone.map(|m| (m.id, m.load)));
        self.lanes = lanes;
        for old in lines {
            self.rejoin(old);
        }
        self.follow_drain(target.drain);
        if self.released != target.released {
            (self.released, self.still_busy) = (target.released, None);
        }
        before && !self.usable()
    }

    fn enlist(&mut self, pod: Pod<P>) -> Member<P> {
        let load = self.departed.remove(&pod.id).unwrap_or_default();
        Member::new(pod, load)
    }

    /// Takes over the line and the turns of a lane of the picture before. If its revision no longer takes requests, those who
    /// wait choose again, and keep their tickets.
    fn rejoin(&mut self, old: Lane<P>) {
        let same = position(&self.lanes, &old.revision);
        if let Some(index) = same {
            self.lanes[index].take_turns_of(&old);
        }
        let same = same.filter(|index| self.lanes[*index].weight > 0);
        for (ticket, sender) in old.line {
            let index = same.unwrap_or_else(|| self.choose());
            self.lanes[index].line.insert(ticket, sender);
        }
    }

    /// A drain is another one when its number or its pods are: two operators may use one number for different sets.
    fn follow_drain(&mut self, drain: u64) {
        let ids = |m: &Member<P>| (m.standing.told == Told::Draining).then(|| Arc::clone(&m.id));
        let draining: Vec<_> = self.members().filter_map(ids).collect();
        if drain != self.drain || draining != self.draining {
            self.announced = false;
        }
        (self.drain, self.draining) = (drain, draining);
    }

    /// The lane of the next request, by weight.
    fn choose(&mut self) -> usize {
        let total: i64 = self.lanes.iter().map(|l| i64::from(l.weight)).sum();
        let mut best = 0;
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            lane.credit += i64::from(lane.weight);
            if lane.weight > 0
                && (self.lanes[best].weight == 0
                    || self.lanes[index].credit > self.lanes[best].credit)
            {
                best = index;
            }
        }
        self.lanes[best].credit -= total;
        best
    }

    pub(crate) fn usable(&self) -> bool {
        self.lanes.iter().any(Lane::usable)
    }

    /// The drain that holds: there are draining pods and nothing is in flight to any.
    pub(crate) fn drained(&self) -> Option<u64> {
        let idle = |m: &Member<P>| m.standing.told != Told::Draining || m.load.get() == 0;
        (!self.draining.is_empty() && self.members().all(idle)).then_some(self.drain)
    }

    /// The drain that holds and was not announced yet.
    pub(crate) fn newly_drained(&mut self) -> Option<u64> {
        if self.announced || self.draining.is_empty() {
            return None;
        }
        let drained = self.drained()?;
        self.announced = true;
        Some(drained)
    }

    /// The pods that are away and still have requests, if that is to be announced: for a new number, and when it has changed. Once
    /// there is none there can be none again, so that what follows costs nothing.
    pub(crate) fn newly_released(&mut self) -> Option<Vec<Arc<str>>> {
        if self.released.is_none() || self.still_busy.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        // Draining ones, too: a drain can be cancelled.
        let away = |m: &&Member<P>| matches!(m.standing.told, Told::Away | Told::Draining);
        let away = self.members().filter(away);
        let loads = away.map(|m| (&m.id, &m.load)).chain(&self.departed);
        let mut busy: Vec<_> = loads
            .filter(|(_, load)| load.get() > 0)
            .map(|(id, _)| Arc::clone(id))
            .collect();
        busy.sort_unstable();
        if self.still_busy.as_ref() == Some(&busy) {
            return None;
        }
        self.still_busy = Some(busy.clone());
        Some(busy)
    }

    /// Sets whether the pod `id` is trusted. Returns whether that changed, and was about a pod told to be starting.
    pub(crate) fn trust(&mut self, id: &str, trusted: bool) -> bool {
        let Some((_, member)) = self.find(id) else {
            return false;
        };
        let changed = member.standing.trusted != trusted;
        member.standing.trusted = trusted;
        changed && member.standing.told == Told::Starting
    }

    /// Marks every pod that ought to be probed and is not yet, and returns it.
    pub(crate) fn probes(&mut self) -> Vec<(Arc<str>, P)> {
        let mut probes = Vec::new();
        for lane in &mut self.lanes {
            let waited_for = !lane.line.is_empty();
            for member in &mut lane.members {
                if !member.probing && urgency(member, waited_for).is_some() {
                    member.probing = true;
                    probes.push((Arc::clone(&member.id), member.payload.clone()));
                }
            }
        }
        probes
    }

    /// Whether a probe of pod `id` is still wanted. If not, it is over, and a new one can begin.
    pub(crate) fn probe_wanted(&mut self, id: &str) -> Option<Urgency> {
        let (waited_for, member) = self.find(id)?;
        let urgency = urgency(member, waited_for);
        member.probing = urgency.is_some();
        urgency
    }

    pub(crate) fn probe_ended(&mut self, id: &str) {
        if let Some((_, member)) = self.find(id) {
            member.probing = false;
        }
    }

    /// The revision that `ticket` waits for, and whether it waits for a pod to start.
    pub(crate) fn waits_for(&self, ticket: u64) -> Option<(Arc<str>, bool)> {
        let lane = self.lanes.iter().find(|l| l.line.contains_key(&ticket))?;
        Some((Arc::clone(&lane.revision), !lane.usable()))
    }

    /// Whether somebody waits for a pod to start.
    pub(crate) fn starves(&self) -> bool {
        let starves = |lane: &Lane<P>| !lane.line.is_empty() && !lane.usable();
        self.lanes.iter().any(starves)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member<P>> {
        self.lanes.iter().flat_map(|lane| &lane.members)
    }

    /// Pod `id`, and whether somebody waits for its revision.
    fn find(&mut self, id: &str) -> Option<(bool, &mut Member<P>)> {
        self.lanes.iter_mut().find_map(|lane| {
            let waited_for = !lane.line.is_empty();
            let member = lane.members.iter_mut().find(|m| &*m.id == id)?;
            Some((waited_for, member))
        })
    }
}

/// One empty lane for each revision that has a weight or a pod.
fn lanes_of<P: Clone>(target: &Target<P>) -> Vec<Lane<P>> {
    let mut lanes: Vec<Lane<P>> = Vec::new();
    for (revision, weight) in &target.weights {
        match position(&lanes, revision) {
            Some(index) => lanes[index].weight = lanes[index].weight.saturating_add(*weight),
            None => lanes.push(Lane::new(Arc::clone(revision), *weight)),
        }
    }
    for pod in &target.pods {
        if position(&lanes, &pod.revision).is_none() {
            lanes.push(Lane::new(Arc::clone(&pod.revision), 0));
        }
    }
    if lanes.iter().all(|lane| lane.weight == 0) {
        // No revision takes requests: they wait in a lane that has no pods.
        lanes.push(Lane::new(Arc::from(""), 1));
    }
    lanes
}

fn position<P: Clone>(lanes: &[Lane<P>], revision: &str) -> Option<usize> {
    lanes.iter().position(|lane| &*lane.revision == revision)
}

fn grant<P: Clone>(ticket: u64, member: &Member<P>) -> Grant<P> {
    member.load.add();
    Grant {
        ticket,
        id: Arc::clone(&member.id),
        payload: member.payload.clone(),
        load: Arc::clone(&member.load),
    }
}

/// Whether a pod ought to be probed. One that is told to be serving and yet refused a connection is probed even when nobody waits:
/// nothing else would ever make it usable again.
fn urgency<P>(member: &Member<P>, waited_for: bool) -> Option<Urgency> {
    let standing = member.standing;
    match standing.told {
        _ if standing.trusted => None,
        Told::Draining | Told::Away => None,
        _ if waited_for => Some(Urgency::Awaited),
        Told::Serving => Some(Urgency::Suspect),
        Told::Starting => None,
    }
}
