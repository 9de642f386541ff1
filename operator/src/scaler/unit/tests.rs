use std::sync::Arc;

use crds::function::Function;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use serde_json::json;

use super::*;
use crate::observe::kinds::Indexed;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);

/// A Function on a cluster that does at once what is written.
struct World {
    entry: Entry,
    unit: Unit,
    epoch: Instant,
    now: Instant,
    leader: bool,
    strangers: bool,
    sessions: BTreeSet<SessionId>,
    scaling: Scaling,
    version: u64,
}

impl World {
    fn new(min: i32) -> Self {
        Self::scaled(json!({"min": min, "idleAfter": "60s"}))
    }

    fn scaled(scale: serde_json::Value) -> Self {
        let epoch = Instant::now();
        let function: Function = serde_json::from_value(json!({
            "apiVersion": "ebb.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "hello", "namespace": "shop", "uid": "u", "generation": 1},
            "spec": {"template": {"spec": {"containers": [{"name": "app", "image": "x:1"}]}}, "scale": scale},
        }))
        .unwrap();
        let mut entry = Entry::default();
        Function::put(&mut entry, "hello", function, epoch);
        let unit = Unit::new(0, epoch, epoch);
        let sessions = BTreeSet::from([A, B]);
        let mut world = Self {
            entry,
            unit,
            epoch,
            now: epoch,
            leader: true,
            strangers: false,
            sessions,
            scaling: Scaling::default(),
            version: 1,
        };
        let revision = world.revision();
        world.deployment(&revision, 0);
        world
    }

    fn revision(&self) -> String {
        self.entry.latest().unwrap().to_owned()
    }

    fn deployment(&mut self, name: &str, replicas: u32) {
        self.version += 1;
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": name, "resourceVersion": self.version.to_string()},
            "spec": {"replicas": replicas, "selector": {}, "template": {}},
        }))
        .unwrap();
        self.entry
            .deployments
            .insert(name.into(), Arc::new(deployment));
    }

    fn pod(&mut self, name: &str) {
        let revision = self.revision();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "labels": {"ebb.dev/revision": revision}},
            "spec": {"containers": [], "nodeName": "n"},
            "status": {"podIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        Pod::put(&mut self.entry, name, pod, self.now);
    }

    fn after(&mut self, seconds: f64) -> &mut Self {
        self.now += Duration::from_secs_f64(seconds);
        self
    }

    fn step(&mut self) -> Vec<(u32, u32)> {
        self.writes().iter().map(|w| (w.from, w.to)).collect()
    }

    fn writes(&mut self) -> Vec<Write> {
        self.look().writes
    }

    fn look(&mut self) -> Step {
        let around = Surroundings {
            now: self.now,
            epoch: self.epoch,
            leader: self.leader,
            sessions: &self.sessions,
            strangers: self.strangers,
            unix_ms: 1_000_000,
            keeper: None,
            fresh: 1,
            scaling: &self.scaling,
        };
        self.unit.step(&self.entry, &around)
    }

    /// The API server has answered the write, and the watch has shown it.
    fn written(&mut self, write: &Write) {
        let revision = write.revision.clone();
        self.deployment(&revision, write.to);
        self.unit
            .write_ended(write, Ok(self.version.to_string()), self.now);
    }

    /// From zero to one ready pod.
    fn warm(&mut self) {
        self.unit.woken(A, 1, self.now);
        let writes = self.writes();
        self.written(&writes[0]);
        self.pod("p1");
        self.report(A, 0, 0.0);
    }

    fn report(&mut self, session: SessionId, in_flight: u32, idle: f64) {
        self.report_pods(session, in_flight, idle, &[]);
    }

    fn report_pods(&mut self, session: SessionId, in_flight: u32, idle: f64, pods: &[(&str, u32)]) {
        let stats = FunctionStats {
            pods: pods.iter().map(|(p, n)| ((*p).to_owned(), *n)).collect(),
            function: crds::names::FunctionKey::new("shop", "hello"),
            in_flight,
            queued: 0,
            rps: f64::from(in_flight),
            concurrency: f64::from(in_flight),
            idle_ms: (idle * 1e3) as u64,
        };
        self.unit.reported(session, &stats, self.now, self.epoch);
        self.now += REPORTS_APART;
    }

    /// A load over some seconds, told each second; every write is done at once. Returns the counts that were written.
    fn load(&mut self, in_flight: u32, seconds: u32) -> Vec<u32> {
        let mut counts = Vec::new();
        for second in 0..seconds {
            self.after(1.0);
            // An activator says once that a Function is idle.
            if in_flight > 0 || second == 0 {
                self.report(A, in_flight, 0.0);
            }
            for write in self.writes() {
                counts.push(write.to);
                self.written(&write);
                self.run_pods(write.to);
            }
            if self.unit.drain_id() != 0 {
                self.drain_is_acknowledged_by(A);
                self.drain_is_acknowledged_by(B);
            }
        }
        counts
    }

    /// So many pods, no more and no fewer.
    fn run_pods(&mut self, count: u32) {
        while self.entry.pods.len() > count as usize {
            self.entry.pods.pop_last();
        }
        for index in self.entry.pods.len()..count as usize {
            self.pod(&format!("p{index:02}"));
        }
    }

    /// Somebody else sets the count.
    fn set_by(&mut self, manager: &str, replicas: u32) {
        let revision = self.revision();
        self.deployment(&revision, replicas);
        let deployment = self.entry.deployments.get_mut(&revision).unwrap();
        let fields = serde_json::from_value(json!([{"manager": manager}])).unwrap();
        Arc::make_mut(deployment).metadata.managed_fields = Some(fields);
        self.run_pods(replicas);
    }

    fn drain_is_acknowledged_by(&mut self, session: SessionId) {
        let id = self.unit.drain_id();
        self.unit.drained(session, id);
    }
}

#[test]
fn any_number_of_wakes_is_one_write() {
    let mut world = World::new(0);
    assert_eq!(world.step(), []);
    for _ in 0..500 {
        world.unit.woken(A, 1, world.now);
        world.unit.woken(B, 1, world.now);
    }
    let writes = world.writes();
    assert_eq!(
        writes.iter().map(|w| (w.from, w.to)).collect::<Vec<_>>(),
        [(0, 1)]
    );
    assert_eq!(world.step(), [], "the write is under way");
    // The answer may come before the watch shows the change …
    world
        .unit
        .write_ended(&writes[0], Ok("99".into()), world.now);
    assert_eq!(world.step(), []);
    // … and an older state may still come from it.
    let revision = world.revision();
    world.deployment(&revision, 0);
    assert_eq!(world.step(), []);
}

#[test]
fn one_change_by_somebody_else_is_one_even_if_putting_it_back_fails() {
    let mut world = World::scaled(json!({"target": 10, "utilization": 100, "downDelay": "0s"}));
    world.load(5, 5);
    world.set_by("kubectl", 3);
    world.look();
    world.drain_is_acknowledged_by(A);
    world.drain_is_acknowledged_by(B);
    let writes = world.writes();
    assert_eq!((writes[0].from, writes[0].to), (3, 1));
    world
        .unit
        .write_ended(&writes[0], Err(Failed::Conflict), world.now);
    assert_eq!(world.after(0.05).look().changed_by, None);
}

#[test]
fn a_burst_that_waits_for_the_first_pod_starts_one_and_a_load_that_stays_more() {
    let mut world = World::scaled(json!({"target": 10, "utilization": 100}));
    world.unit.woken(A, 500, world.now);
    let writes = world.writes();
    assert_eq!(writes[0].to, 1);
    world.written(&writes[0]);
    world.run_pods(1);
    assert!(
        world.load(50, 1).is_empty(),
        "they have only just been let go"
    );
    assert_eq!(world.load(50, 2), [5]);
}

#[test]
fn a_failed_write_is_tried_again_later() {
    let mut world = World::new(0);
    world.unit.woken(A, 1, world.now);
    let writes = world.writes();
    world
        .unit
        .write_ended(&writes[0], Err(Failed::Error), world.now);
    assert_eq!(world.step(), []);
    assert_eq!(world.after(0.2).step(), [(0, 1)]);
}

#[test]
fn goes_to_zero_only_when_every_activator_has_drained() {
    let mut world = World::new(0);
    world.warm();
    assert_eq!(world.after(59.0).step(), []);
    assert_eq!(world.unit.drain_id(), 0);
    assert_eq!(world.after(2.0).step(), [], "the drain has only begun");
    assert!(world.unit.is_draining("p1"));
    world.drain_is_acknowledged_by(A);
    assert_eq!(world.step(), []);
    world.drain_is_acknowledged_by(B);
    assert_eq!(world.step(), [(1, 0)]);
    assert!(
        world.unit.is_draining("p1"),
        "nothing may be sent to a pod that is on its way out"
    );
}

#[test]
fn an_activator_without_a_stream_holds_the_drain_up() {
    let mut world = World::new(0);
    world.warm();
    world.strangers = true;
    world.after(61.0).step();
    assert_eq!(world.unit.drain_id(), 0, "it may carry requests");
    world.strangers = false;
    world.step();
    world.drain_is_acknowledged_by(A);
    world.drain_is_acknowledged_by(B);
    world.strangers = true;
    assert_eq!(world.step(), []);
    world.strangers = false;
    world.step();
    world.drain_is_acknowledged_by(A);
    world.drain_is_acknowledged_by(B);
    assert_eq!(world.step(), [(1, 0)]);
}

#[test]
fn a_request_during_a_drain_cancels_it() {
    let mut world = World::new(0);
    world.warm();
    world.after(61.0).step();
    world.drain_is_acknowledged_by(A);
    let cancelled = world.unit.drain_id();
    world.unit.woken(B, 1, world.now);
    assert_eq!(world.step(), []);
    assert!(!world.unit.is_draining("p1"));
    // The next drain is another one: late answers to the first do not count.
    world.report(B, 0, 0.0);
    world.after(61.0).step();
    assert!(world.unit.drain_id() > cancelled);
    world.unit.drained(A, cancelled);
    world.unit.drained(B, cancelled);
    assert_eq!(world.step(), []);
}

#[test]
fn a_wake_after_the_write_to_zero_waits_until_the_pods_have_gone() {
    let mut world = World::new(0);
    world.warm();
    world.after(61.0).step();
    world.drain_is_acknowledged_by(A);
    world.drain_is_acknowledged_by(B);
    let writes = world.writes();
    world.written(&writes[0]);
    world.unit.woken(A, 1, world.now);
    assert_eq!(
        world.step(),
        [],
        "Kubernetes has not deleted the pod yet: a count of 1 now would keep it"
    );
    world.entry.pods.clear();
    assert_eq!(world.step(), [(0, 1)]);
}

#[test]
fn a_pod_that_stays_after_all_is_used_again() {
    let mut world = World::new(0);
    world.warm();
    world.after(61.0).step();
    world.drain_is_acknowledged_by(A);
    world.drain_is_acknowledged_by(B);
    let writes = world.writes();
    world.written(&writes[0]);
    world.unit.woken(A, 1, world.now);
    assert_eq!(world.after(11.0).step(), [(0, 1)]);
    assert!(!world.unit.is_draining("p1"));
}

#[test]
fn a_follower_only_wakes_and_only_after_the_leader_had_its_chance() {
    let mut world = World::new(1);
    world.leader = false;
    assert_eq!(world.step(), [], "scale.min is the leader's");
    world.unit.woken(A, 1, world.now);
    assert_eq!(world.step(), []);
    assert_eq!(world.after(1.1).step(), [(0, 1)]);
    let mut idle = World::new(0);
    idle.warm();
    idle.leader = false;
    idle.after(120.0).step();
    assert_eq!(idle.unit.drain_id(), 0, "followers never drain");
}

#[test]
fn a_follower_that_takes_over_decides_as_the_leader_would_have() {
    let scale = json!({"target": 10, "utilization": 100});
    let (mut leader, mut follower) = (World::scaled(scale.clone()), World::scaled(scale));
    follower.leader = false;
    for world in [&mut leader, &mut follower] {
        let revision = world.revision();
        world.deployment(&revision, 4);
        world.run_pods(4);
    }
    for second in 0..70 {
        let load = if second < 40 { 38 } else { 12 };
        leader.load(load, 1);
        follower.load(load, 1);
        let count = leader.entry.replicas(&leader.revision()).unwrap();
        let revision = follower.revision();
        follower.deployment(&revision, count);
        follower.run_pods(count);
        assert_eq!(
            leader.unit.decided(),
            follower.unit.decided(),
            "second {second}"
        );
    }
}

#[test]
fn the_count_follows_the_load_both_ways() {
    let mut world = World::scaled(
        json!({"target": 10, "utilization": 100, "window": "10s", "downDelay": "0s"}),
    );
    assert_eq!(world.load(5, 5), [1]);
    assert_eq!(world.load(35, 20), [4], "a sudden rise is followed at once");
    assert_eq!(world.load(15, 30), [3, 2]);
    assert_eq!(world.load(0, 70), [1, 0]);
}

#[test]
fn an_activator_that_is_lost_for_a_moment_takes_no_pods_with_it() {
    let mut world =
        World::scaled(json!({"target": 10, "utilization": 100, "window": "6s", "downDelay": "0s"}));
    for _ in 0..20 {
        world.report(B, 20, 0.0);
        world.load(20, 1);
    }
    let revision = world.revision();
    assert_eq!(world.entry.replicas(&revision), Some(4));
    world.sessions.remove(&B);
    world.strangers = true;
    assert!(world.load(20, 30).is_empty());
    world.strangers = false;
    assert_eq!(world.load(20, 30).last(), Some(&2), "it is gone for good");
}

#[test]
fn a_write_builds_on_the_version_that_was_decided_on() {
    let mut world = World::new(0);
    world.unit.woken(A, 1, world.now);
    let writes = world.writes();
    assert_eq!(writes[0].version.as_deref(), Some("2"));
    world
        .unit
        .write_ended(&writes[0], Err(Failed::Conflict), world.now);
    let revision = world.revision();
    world.deployment(&revision, 0);
    let again = world.after(0.05).writes();
    assert_eq!(again[0].version.as_deref(), Some("3"));
}

#[test]
fn a_count_that_somebody_else_sets_is_put_back_once() {
    let mut world = World::scaled(json!({"target": 10, "utilization": 100, "downDelay": "0s"}));
    world.load(5, 5);
    world.set_by("kubectl", 3);
    let change = world.look().changed_by.unwrap();
    assert_eq!(
        (
            change.from,
            change.to,
            change.manager.as_str(),
            change.yields
        ),
        (1, 3, "kubectl", false)
    );
    assert_eq!(world.load(5, 20), [1]);
    world.set_by("kubectl", 3);
    let change = world.look().changed_by.unwrap();
    assert!(change.yields);
    assert!(
        world.load(5, 60).is_empty(),
        "the count is left to the other"
    );
    world.set_by("kubectl", 0);
    world.step();
    world.unit.woken(A, 1, world.now);
    assert_eq!(
        world.step(),
        [(0, 1)],
        "a request that waits still starts a pod"
    );
    assert!(world.unit.contested().is_some());
    world.after(700.0).step();
    assert_eq!(world.unit.contested(), None);
}

#[test]
fn scaling_down_to_min_takes_the_youngest_pods() {
    let mut world = World::new(1);
    let revision = world.revision();
    world.deployment(&revision, 3);
    for name in ["p1", "p2", "p3"] {
        world.pod(name);
    }
    world.after(61.0).step();
    assert_eq!(
        ["p1", "p2", "p3"].map(|p| world.unit.is_draining(p)),
        [false, true, true]
    );
    world.drain_is_acknowledged_by(A);
    world.drain_is_acknowledged_by(B);
    let writes = world.writes();
    assert_eq!((writes[0].from, writes[0].to), (3, 1));
    assert_eq!(writes[0].victims, ["p2", "p3"]);
}

#[test]
fn scaling_down_takes_the_pods_with_the_least_in_flight_and_stays_with_them() {
    let mut world = World::scaled(json!({"target": 10, "utilization": 100, "downDelay": "0s"}));
    let revision = world.revision();
    world.deployment(&revision, 3);
    for name in ["p1", "p2", "p3"] {
        world.pod(name);
    }
    let report = |world: &mut World, pods: &[(&str, u32)]| {
        world.after(1.0).report_pods(A, 12, 0.0, pods);
        world.step();
        ["p1", "p2", "p3"].map(|p| world.unit.is_draining(p))
    };
    for _ in 0..120 {
        report(&mut world, &[("p1", 1), ("p2", 2), ("p3", 9)]);
    }
    assert_eq!(
        report(&mut world, &[("p2", 2), ("p3", 10)]),
        [true, false, false]
    );
    let id = world.unit.drain_id();
    assert_eq!(
        report(&mut world, &[("p1", 3), ("p3", 9)]),
        [true, false, false]
    );
    assert_eq!(world.unit.drain_id(), id, "the set has not changed");
}

#[test]
fn pods_that_say_that_they_are_busy_are_left_alone_for_a_while() {
    let mut world = World::new(1);
    let revision = world.revision();
    world.deployment(&revision, 2);
    for name in ["p1", "p2"] {
        world.pod(name);
    }
    world.after(61.0).step();
    let id = world.unit.drain_id();
    assert!(world.unit.is_draining("p2"));
    let (now, epoch) = (world.now, world.epoch);
    world.unit.busy(id, now, epoch);
    let again = world.look().again.expect("it looks again");
    assert!(!world.unit.is_draining("p2") && again <= now + Duration::from_secs(10));
    world.after(9.0).step();
    assert!(!world.unit.is_draining("p2"));
    world.after(2.0).step();
    assert!(world.unit.is_draining("p2"), "it is asked again");
}

#[test]
fn a_wake_while_pods_run_hides_no_load() {
    let mut world = World::scaled(json!({"target": 10, "utilization": 100}));
    world.warm();
    world.after(59.0).report(A, 0, 0.0);
    world.step();
    // Its only pod is distrusted for a moment, so requests wait although the count is 1.
    world.unit.woken(A, 40, world.now);
    let mut writes = world.step();
    world.after(1.0).report(A, 40, 0.0);
    writes.extend(world.step());
    assert_eq!(writes, [(1, 4)]);
}

#[test]
fn startup_times_count_from_the_wake() {
    let mut world = World::new(0);
    world.unit.woken(A, 1, world.now);
    let writes = world.writes();
    world.after(0.003);
    world.written(&writes[0]);
    world.step();
    world.after(0.2);
    world.pod("p1");
    let startup = world.unit.startup(&world.entry.pods["p1"]).unwrap();
    assert_eq!(
        (startup.scaled_us, startup.scheduled_us, startup.started_us),
        (3_000, 203_000, 203_000)
    );
}

#[test]
fn a_load_that_moves_between_activators_counts_once() {
    let mut world = World::scaled(json!({"metric": "rps", "target": 10, "utilization": 100}));
    world.warm();
    world.after(2.0);
    world.report(A, 10, 0.0);
    world.now -= REPORTS_APART;
    world.report(B, 10, 0.0);
    assert_eq!(world.step(), [(1, 2)]);
    world.pod("p2");
    world.after(1.0);
    world.report(A, 20, 0.0);
    world.now -= REPORTS_APART / 2;
    let step = world.look();
    assert_eq!(step.writes, [], "the other's report is a second old");
    assert!(
        step.again
            .is_some_and(|again| again <= world.now + REPORTS_APART / 2)
    );
    world.report(B, 0, 0.0);
    assert_eq!(world.step(), [], "20 in a second as before");
    assert_eq!(world.unit.decided().unwrap().load.stable, 20.0);
}
