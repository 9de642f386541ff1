//! What holds whatever happens, in whatever order.
#![allow(clippy::unwrap_used)] // a failed step is a failed test

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use throttle::{Acquired, Gate, Pod, Slot, Target, Told, Waiter};

/// Requests that a pod may have at once.
const LIMIT: u32 = 2;

const MAX_WAITING: usize = 8;

/// One thing that can happen. Indices are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Arrive,
    /// A request in a pod ends.
    Finish(usize),
    /// One that waits goes away.
    Leave(usize),
    /// Whoever has got a slot takes it.
    Poll,
    /// The pods are these; the number of each tells it forever.
    Update(Vec<(u8, Told)>),
    /// A request finds that its pod refuses, and asks again.
    Refused(usize),
    /// Every wanted probe passes.
    Probe,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let told = prop_oneof![
        Just(Told::Starting),
        Just(Told::Serving),
        Just(Told::Draining)
    ];
    let pods = proptest::collection::hash_map(0u8..6, told, 0..5);
    let step = prop_oneof![
        4 => Just(Step::Arrive),
        2 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Leave),
        2 => Just(Step::Poll),
        2 => pods.prop_map(|pods| Step::Update(pods.into_iter().collect())),
        1 => any::<usize>().prop_map(Step::Refused),
        1 => Just(Step::Probe),
    ];
    proptest::collection::vec(step, 1..200)
}

#[derive(Default)]
struct World {
    told: HashMap<u8, Told>,
    slots: Vec<Slot<u8>>,
    /// In order of arrival.
    waiters: Vec<Waiter<u8>>,
}

impl World {
    fn take(&mut self, acquired: Acquired<u8>) {
        match acquired {
            Acquired::Slot(slot) => {
                assert_ne!(self.told.get(slot.payload()), Some(&Told::Draining));
                assert!(self.told.contains_key(slot.payload()), "a pod that is gone");
                self.slots.push(slot);
            }
            Acquired::Wait(waiter) => self.waiters.push(waiter),
            Acquired::Full => assert!(self.waiters.len() >= MAX_WAITING),
            Acquired::Closed => panic!("nobody closed it"),
        }
    }

    fn step(&mut self, gate: &Arc<Gate<u8>>, step: Step) {
        match step {
            Step::Arrive => self.take(gate.acquire()),
            Step::Finish(index) if !self.slots.is_empty() => {
                drop(self.slots.swap_remove(index % self.slots.len()));
            }
            Step::Leave(index) if !self.waiters.is_empty() => {
                drop(self.waiters.remove(index % self.waiters.len()));
            }
            Step::Refused(index) if !self.slots.is_empty() => {
                let slot = self.slots.swap_remove(index % self.slots.len());
                slot.distrust();
                match slot.again() {
                    // It goes before those who came later; for the order below it counts as the first.
                    Acquired::Wait(waiter) => self.waiters.insert(0, waiter),
                    other => self.take(other),
                }
            }
            Step::Poll => self.poll(),
            Step::Update(pods) => {
                self.told = pods.iter().copied().collect();
                gate.update(target(&pods));
            }
            Step::Probe => gate.probes().into_iter().for_each(|probe| {
                probe.passed();
            }),
            Step::Finish(_) | Step::Leave(_) | Step::Refused(_) => {}
        }
    }

    fn poll(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for mut waiter in std::mem::take(&mut self.waiters) {
            match Pin::new(&mut waiter).poll(&mut cx) {
                Poll::Ready(slot) => self.slots.push(slot.unwrap()),
                Poll::Pending => self.waiters.push(waiter),
            }
        }
    }
}

fn target(pods: &[(u8, Told)]) -> Target<u8> {
    let pod = |(number, told): &(u8, Told)| Pod {
        id: number.to_string().into(),
        revision: "r".into(),
        told: *told,
        limit: if *number == 100 { u32::MAX } else { LIMIT },
        payload: *number,
    };
    Target {
        drain: 0,
        weights: vec![("r".into(), 1)],
        pods: pods.iter().map(pod).collect(),
        released: None,
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_is_counted_twice(steps in steps()) {
        let gate = Gate::new(MAX_WAITING, |_| ());
        let mut world = World::default();
        for step in steps {
            world.step(&gate, step);
            let held = world.slots.len() + world.waiters.len();
            prop_assert_eq!((gate.in_flight() + gate.waiting()) as usize, held);
            for slot in &world.slots {
                let same = world.slots.iter().filter(|s| s.payload() == slot.payload());
                prop_assert!(same.count() <= LIMIT as usize);
            }
        }
        world.poll();
        prop_assert_eq!(gate.in_flight() as usize, world.slots.len());
        prop_assert_eq!(gate.waiting() as usize, world.waiters.len());
        // A line means that no pod can take a request.
        world.step(&gate, Step::Update(vec![(100, Told::Serving)]));
        world.poll();
        prop_assert!(world.waiters.is_empty());
        world.slots.clear();
        prop_assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
    }

    #[test]
    fn a_drain_holds_exactly_when_no_draining_pod_has_a_request(steps in steps()) {
        let gate = Gate::new(MAX_WAITING, |_| ());
        let mut world = World::default();
        for step in steps {
            world.step(&gate, step);
            world.poll();
            let draining = |number: &u8| world.told.get(number) == Some(&Told::Draining);
            let any_draining = world.told.values().any(|t| *t == Told::Draining);
            let busy = world.slots.iter().any(|slot| draining(slot.payload()));
            prop_assert_eq!(gate.drained().is_some(), any_draining && !busy);
        }
    }
}
