//! What a gate does, case by case.
#![allow(clippy::unwrap_used)] // a failed step is a failed test

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use throttle::{Acquired, Closed, Gate, Notice, Pod, Slot, Target, Told, Urgency, Waiter};

type Name = &'static str;

fn pod(id: Name, revision: Name, told: Told) -> Pod<Name> {
    Pod {
        id: id.into(),
        revision: revision.into(),
        told,
        limit: u32::MAX,
        payload: id,
    }
}

fn target(drain: u64, pods: &[(Name, Told)]) -> Target<Name> {
    Target {
        drain,
        weights: vec![("r1".into(), 100)],
        pods: pods.iter().map(|(id, told)| pod(id, "r1", *told)).collect(),
        released: None,
    }
}

/// The same with a limit for each pod.
fn limited(limit: u32, pods: &[(Name, Told)]) -> Target<Name> {
    let mut target = target(0, pods);
    target.pods.iter_mut().for_each(|pod| pod.limit = limit);
    target
}

/// A gate, and the drains that it announced.
fn gate(max_waiting: usize) -> (Arc<Gate<Name>>, Arc<Mutex<Vec<u64>>>) {
    let drains = Arc::new(Mutex::new(Vec::new()));
    let announced = Arc::clone(&drains);
    let gate = Gate::new(max_waiting, move |notice| {
        if let Notice::Drained(drain) = notice {
            announced.lock().unwrap().push(drain);
        }
    });
    (gate, drains)
}

fn slot(gate: &Arc<Gate<Name>>) -> Slot<Name> {
    match gate.acquire() {
        Acquired::Slot(slot) => slot,
        other => panic!("expected a slot, got {other:?}"),
    }
}

fn waiter(gate: &Arc<Gate<Name>>) -> Waiter<Name> {
    match gate.acquire() {
        Acquired::Wait(waiter) => waiter,
        other => panic!("expected to wait, got {other:?}"),
    }
}

use Told::{Away, Draining, Serving, Starting};

#[tokio::test]
async fn those_who_wait_go_when_a_pod_is_usable() {
    let (gate, _) = gate(10);
    let first = waiter(&gate);
    let second = waiter(&gate);
    assert!(first.was_first() && !second.was_first());
    assert_eq!(first.revision().as_deref(), Some(""));
    gate.update(target(0, &[("a", Starting)]));
    assert_eq!(first.revision().as_deref(), Some("r1"));
    assert_eq!(gate.waiting(), 2);
    gate.update(target(0, &[("a", Serving)]));
    assert_eq!(*first.await.unwrap().payload(), "a");
    assert_eq!(*second.await.unwrap().payload(), "a");
    assert_eq!((gate.waiting(), gate.in_flight()), (0, 0));
}

#[test]
fn the_line_is_bounded_and_a_dropped_place_is_free_at_once() {
    let (gate, _) = gate(2);
    let first = waiter(&gate);
    let _second = waiter(&gate);
    assert!(matches!(gate.acquire(), Acquired::Full));
    drop(first);
    assert_eq!(gate.waiting(), 1);
    let _third = waiter(&gate);
}

#[test]
fn a_slot_that_comes_while_its_waiter_is_dropped_is_given_back() {
    let (gate, drains) = gate(2);
    let unpolled = waiter(&gate);
    gate.update(target(1, &[("a", Serving)]));
    assert_eq!(gate.in_flight(), 1);
    gate.update(target(2, &[("a", Draining)]));
    assert!(drains.lock().unwrap().is_empty());
    drop(unpolled);
    assert_eq!(gate.in_flight(), 0);
    assert_eq!(*drains.lock().unwrap(), [2]);
}

#[test]
fn the_least_loaded_pod_is_taken_and_equal_ones_take_turns() {
    let (gate, _) = gate(0);
    gate.update(target(0, &[("a", Serving), ("b", Serving), ("c", Serving)]));
    let turns: Vec<_> = (0..6).map(|_| *slot(&gate).payload()).collect();
    assert_eq!(turns, ["a", "b", "c", "a", "b", "c"]);
    let held: Vec<_> = (0..3).map(|_| slot(&gate)).collect();
    drop(
        held.into_iter()
            .filter(|s| *s.payload() == "b")
            .collect::<Vec<_>>(),
    );
    let on_b = slot(&gate);
    assert_eq!(*on_b.payload(), "a");
}

#[tokio::test]
async fn closing_ends_all_waiting_and_lets_slots_live() {
    let (gate, _) = gate(10);
    gate.update(target(0, &[("a", Serving)]));
    let slot = slot(&gate);
    gate.update(target(0, &[]));
    let waiter = waiter(&gate);
    gate.close();
    assert_eq!(waiter.await.unwrap_err(), Closed);
    assert!(matches!(gate.acquire(), Acquired::Closed));
    assert_eq!(gate.in_flight(), 1);
    drop(slot);
    assert_eq!(gate.in_flight(), 0);
}

#[test]
fn a_drain_is_announced_once_when_its_last_request_ends() {
    let (gate, drains) = gate(10);
    gate.update(target(0, &[("a", Serving), ("b", Serving)]));
    let (on_a, on_b) = (slot(&gate), slot(&gate));
    gate.update(target(1, &[("a", Draining), ("b", Serving)]));
    assert_eq!(*slot(&gate).payload(), "b");
    drop(on_b);
    assert!(drains.lock().unwrap().is_empty());
    assert_eq!(gate.drained(), None);
    drop(on_a);
    assert_eq!(*drains.lock().unwrap(), [1]);
    assert_eq!(gate.drained(), Some(1));
    drop(slot(&gate));
    gate.update(target(1, &[("a", Draining), ("b", Serving)]));
    assert_eq!(*drains.lock().unwrap(), [1]);
    gate.update(target(1, &[("a", Serving), ("b", Draining)]));
    assert_eq!(*drains.lock().unwrap(), [1, 1], "other pods, other drain");
}

#[test]
fn a_cancelled_drain_is_never_announced() {
    let (gate, drains) = gate(10);
    gate.update(target(0, &[("a", Serving)]));
    let on_a = slot(&gate);
    gate.update(target(1, &[("a", Draining)]));
    gate.update(target(2, &[("a", Serving)]));
    drop(on_a);
    assert!(drains.lock().unwrap().is_empty());
    gate.update(target(3, &[("a", Draining)]));
    assert_eq!(*drains.lock().unwrap(), [3]);
}

#[tokio::test]
async fn a_request_at_draining_pods_waits_until_the_drain_is_cancelled() {
    let (gate, _) = gate(10);
    gate.update(target(0, &[("a", Serving)]));
    assert!(
        gate.update(target(1, &[("a", Draining)])),
        "capacity was lost"
    );
    let waiter = waiter(&gate);
    assert!(!gate.update(target(2, &[("a", Serving)])));
    assert_eq!(*waiter.await.unwrap().payload(), "a");
}

#[tokio::test]
async fn a_pod_that_refuses_is_left_until_probed_and_the_request_keeps_its_place() {
    let (gate, _) = gate(1);
    gate.update(target(0, &[("a", Serving)]));
    let refused = slot(&gate);
    refused.distrust();
    let later = waiter(&gate);
    // The line is full, but this one was in before.
    let Acquired::Wait(again) = refused.again() else {
        panic!("there is no pod")
    };
    let mut probe = gate.probes().pop().unwrap();
    assert!(gate.probes().is_empty(), "one probe a pod");
    assert_eq!(probe.wanted(), Some(Urgency::Awaited));
    assert!(!probe.passed(), "no news: it was said to be serving");
    assert_eq!(*again.await.unwrap().payload(), "a");
    assert_eq!(*later.await.unwrap().payload(), "a");
}

#[test]
fn starting_pods_are_probed_only_while_somebody_waits() {
    let (gate, _) = gate(10);
    gate.update(target(0, &[("a", Starting), ("b", Draining)]));
    assert!(gate.probes().is_empty());
    let waiter = waiter(&gate);
    let mut probe = gate.probes().pop().unwrap();
    assert_eq!(*probe.payload(), "a");
    drop(waiter);
    assert_eq!(probe.wanted(), None);
    let _waiter = self::waiter(&gate);
    let again = gate.probes().pop().unwrap();
    drop(probe);
    assert!(
        gate.probes().is_empty(),
        "the old probe does not end the new one"
    );
    assert!(again.passed());
}

#[test]
fn a_suspect_pod_is_probed_even_when_others_take_the_requests() {
    let (gate, _) = gate(10);
    gate.update(target(0, &[("a", Serving), ("b", Serving)]));
    let on_a = slot(&gate);
    on_a.distrust();
    assert_eq!(*slot(&gate).payload(), "b");
    assert_eq!(*slot(&gate).payload(), "b");
    let mut probe = gate.probes().pop().unwrap();
    assert_eq!(probe.wanted(), Some(Urgency::Suspect));
}

#[test]
fn revisions_get_their_shares_and_those_who_wait_move_with_them() {
    let (gate, _) = gate(100);
    let split = |first: u32, second: u32, pods: Vec<Pod<Name>>| Target {
        drain: 0,
        weights: vec![("r1".into(), first), ("r2".into(), second)],
        pods,
        released: None,
    };
    let pods = || vec![pod("a", "r1", Serving), pod("b", "r2", Serving)];
    gate.update(split(75, 25, pods()));
    let to_a = (0..100).filter(|_| *slot(&gate).payload() == "a").count();
    assert_eq!(to_a, 75);
    gate.update(split(100, 0, vec![]));
    let waiter = waiter(&gate);
    gate.update(split(0, 100, vec![pod("a", "r1", Serving)]));
    assert_eq!(waiter.revision().as_deref(), Some("r2"));
    assert_eq!(gate.waiting(), 1, "a revision without a share takes none");
}

#[tokio::test(start_paused = true)]
async fn activity_is_weighted_by_time_and_falls_silent() {
    let (gate, _) = gate(10);
    assert_eq!(gate.sample(true), None);
    let waiter = waiter(&gate);
    tokio::time::advance(Duration::from_millis(500)).await;
    gate.update(target(0, &[("a", Serving)]));
    drop(waiter);
    let (one, two) = (slot(&gate), slot(&gate));
    tokio::time::advance(Duration::from_millis(250)).await;
    drop(two);
    tokio::time::advance(Duration::from_millis(250)).await;
    let sample = gate.sample(true).unwrap();
    assert_eq!((sample.in_flight, sample.queued, sample.rps), (1, 0, 3.0));
    assert!((sample.concurrency - 1.25).abs() < 1e-6, "{sample:?}");
    assert_eq!(sample.idle, Duration::ZERO);
    tokio::time::advance(Duration::from_millis(300)).await;
    drop(one);
    tokio::time::advance(Duration::from_millis(700)).await;
    let sample = gate.sample(true).unwrap();
    assert!((sample.concurrency - 0.3).abs() < 1e-6, "{sample:?}");
    assert_eq!(sample.idle, Duration::from_millis(700));
    tokio::time::advance(Duration::from_secs(1)).await;
    let last = gate.sample(true).unwrap();
    assert_eq!((last.rps, last.idle), (0.0, Duration::from_millis(1700)));
    assert_eq!(gate.sample(true), None);
}

#[tokio::test(start_paused = true)]
async fn a_sudden_rise_is_noticed_once_and_sampled_alone() {
    let surges = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&surges);
    let gate = Gate::new(100, move |notice| {
        if notice == Notice::Surge {
            *counted.lock().unwrap() += 1;
        }
    });
    gate.update(target(0, &[("a", Serving)]));
    let mut slots = vec![slot(&gate)];
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(gate.sample(true).unwrap().concurrency, 1.0);
    tokio::time::advance(Duration::from_millis(700)).await;
    slots.extend((0..2).map(|_| slot(&gate)));
    assert_eq!(*surges.lock().unwrap(), 0, "three are no surge yet");
    slots.extend((0..7).map(|_| slot(&gate)));
    assert_eq!(*surges.lock().unwrap(), 1);
    tokio::time::advance(Duration::from_millis(100)).await;
    assert_eq!(gate.sample(true), None, "too short to say anything");
    tokio::time::advance(Duration::from_millis(400)).await;
    let sample = gate.sample(true).unwrap();
    // The seven came at the moment of the rise, the one that made it a rise is not an arrival after it.
    assert!((sample.concurrency - 10.0).abs() < 1e-6, "{sample:?}");
    assert!(
        (sample.rps - 9.0 / 1.2).abs() < 1e-6,
        "of all the time, not of the rise alone: {sample:?}"
    );
    slots.extend((0..9).map(|_| slot(&gate)));
    assert_eq!(*surges.lock().unwrap(), 1, "less than twice");
    slots.push(slot(&gate));
    assert_eq!(*surges.lock().unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn arrivals_of_half_a_second_are_not_taken_for_half_of_a_rate() {
    let (gate, _) = gate(10);
    gate.update(target(0, &[("a", Serving)]));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(gate.sample(true), None);
    let slots: Vec<_> = (0..10).map(|_| slot(&gate)).collect();
    tokio::time::advance(Duration::from_millis(470)).await;
    assert_eq!(gate.sample(false).unwrap().rps, 10.0);
    drop(slots);
    tokio::time::advance(Duration::from_millis(530)).await;
    assert_eq!(gate.sample(true).unwrap().rps, 10.0);
}

#[tokio::test(start_paused = true)]
async fn a_rise_is_sampled_for_what_it_came_to() {
    let (gate, _) = gate(10);
    gate.update(target(0, &[("a", Serving)]));
    let mut slots = Vec::new();
    for _ in 0..100 {
        slots.push(slot(&gate));
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    tokio::time::advance(Duration::from_millis(400)).await;
    let sample = gate.sample(false).unwrap();
    assert!(sample.concurrency > 98.0, "{sample:?}");
    slots.truncate(50);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(gate.sample(true).unwrap().concurrency, 50.0);
}

#[tokio::test]
async fn no_pod_has_more_than_its_limit() {
    let (gate, _) = gate(10);
    gate.update(limited(1, &[("a", Serving), ("b", Serving)]));
    let (one, two) = (slot(&gate), slot(&gate));
    assert_ne!(one.payload(), two.payload());
    let (first, second) = (waiter(&gate), waiter(&gate));
    assert!(!first.is_starved(), "pods run, they are busy");
    assert!(!gate.starves());
    let freed = *one.payload();
    drop(one);
    let third = first.await.unwrap();
    assert_eq!(third.payload(), &freed);
    gate.update(limited(1, &[("c", Starting)]));
    assert!(second.is_starved(), "no pod takes requests");
    assert!(gate.starves());
    gate.update(limited(1, &[(*two.payload(), Serving)]));
    assert!(!gate.starves(), "one runs again");
    drop(two);
    second.await.unwrap();
}

#[test]
fn a_pod_that_comes_back_still_has_what_it_had() {
    let (gate, _) = gate(10);
    gate.update(limited(1, &[("a", Serving)]));
    let slot = slot(&gate);
    gate.update(limited(1, &[]));
    gate.update(limited(1, &[("a", Serving)]));
    let waiter = waiter(&gate);
    assert_eq!(gate.waiting(), 1);
    drop(slot);
    assert_eq!(gate.in_flight(), 1);
    drop(waiter);
}

#[test]
fn pods_that_are_away_are_released_one_by_one() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let gate = Gate::new(10, move |notice| {
        if let Notice::Released(busy) = notice {
            heard
                .lock()
                .unwrap()
                .push(busy.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
    });
    let told = move || std::mem::take(&mut *told.lock().unwrap());
    gate.update(limited(
        1,
        &[("a", Serving), ("b", Serving), ("c", Serving)],
    ));
    let (one, two, three) = (slot(&gate), slot(&gate), slot(&gate));
    let away = |term, last| Target {
        released: Some(term),
        ..limited(1, &[("a", Away), ("b", Away), ("c", last)])
    };
    gate.update(away(1, Away));
    assert_eq!(told(), [["a", "b", "c"]]);
    let waiter = waiter(&gate);
    assert!(waiter.is_starved());
    gate.update(away(1, Draining));
    assert!(told().is_empty(), "a draining one still has its request");
    drop(three);
    drop(one);
    assert_eq!(told(), [vec!["a", "b"], vec!["b"]]);
    gate.update(away(2, Away));
    assert_eq!(told(), [["b"]], "each number is answered");
    drop(two);
    assert_eq!(told(), [Vec::<String>::new()]);
    gate.update(away(2, Away));
    assert!(told().is_empty());
    drop(waiter);
}
