//! A revision's pods and the line in front of them.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::oneshot;

use crate::{line::Slot, pod::Member};

/// One revision.
#[derive(Debug)]
pub(crate) struct Lane<P: Clone> {
    pub(crate) revision: Arc<str>,
    /// Share of the new requests.
    pub(crate) weight: u32,
    /// Smooth weighted round robin: grows by the weight with each choice, and is paid down by the chosen lane.
    pub(crate) credit: i64,
    pub(crate) members: Vec<Member<P>>,
    /// Where the next search for a pod begins, so that equally loaded pods take turns.
    next: usize,
    /// Those who wait, by ticket: tickets are numbered by arrival, so the first is the next to go.
    pub(crate) line: BTreeMap<u64, oneshot::Sender<Slot<P>>>,
}

impl<P: Clone> Lane<P> {
    pub(crate) fn new(revision: Arc<str>, weight: u32) -> Self {
        Self {
            revision,
            weight,
            credit: 0,
            members: Vec::new(),
            next: 0,
            line: BTreeMap::new(),
        }
    }

    /// Goes on with the turns where `old`, the same revision before an update, was.
    pub(crate) fn take_turns_of(&mut self, old: &Self) {
        self.credit = old.credit;
        self.next = old.next;
    }

    /// The pod for the next request: of those that can take one and have fewer than their limit, the one with the least in flight; in turn when equal.
    pub(crate) fn pick(&mut self) -> Option<&Member<P>> {
        let count = self.members.len();
        let (mut best, mut least) = (None, u32::MAX);
        for index in (0..count).map(|offset| (self.next + offset) % count) {
            let member = &self.members[index];
            let load = member.load.get();
            if member.standing.usable() && load < least.min(member.limit) {
                (best, least) = (Some(index), load);
                if load == 0 {
                    break;
                }
            }
        }
        let index = best?;
        self.next = (index + 1) % count;
        self.members.get(index)
    }

    /// Whether a pod takes requests, be they at their limits now.
    pub(crate) fn usable(&self) -> bool {
        self.members.iter().any(|m| m.standing.usable())
    }
}
