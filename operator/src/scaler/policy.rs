//! From `spec.scale` and the cluster's defaults to the autoscaler's policy. Pure.

use std::time::Duration;

use autoscale::Policy;
use crds::{
    function::Function,
    scale::{self, Scale},
};

/// What a concurrent pod may carry by default: Knative's.
const TARGET_CONCURRENCY: f64 = 100.0;

/// What a pod may take in a second by default: Knative's.
const TARGET_RPS: f64 = 200.0;

/// Most pods of a Function by default. Cloud Run's too: enough for nearly all, and a bound on what a runaway caller can cost.
const MAX: u32 = 100;

/// Knative's share, in percent.
const UTILIZATION: i32 = 70;

/// Knative's stable window, and with it the time to zero.
const WINDOW: Duration = Duration::from_secs(60);

/// Shorter than Knative's six seconds: what activators report is exact and comes at once, so nothing has to be smoothed over.
const PANIC_WINDOW: Duration = Duration::from_secs(1);

/// Knative's, in percent.
const PANIC_THRESHOLD: i32 = 200;

/// Knative has none; a load near the edge between two counts then changes the count for ever.
const DOWN_DELAY: Duration = Duration::from_secs(60);

/// Knative has none. Without one a load on the edge between two counts goes on changing the count, each time after the delay (`cargo e2e bench decide`).
const DOWN_TOLERANCE: i32 = 5;

/// What holds for all Functions of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// For what a Function does not set.
    pub defaults: Scale,
    /// No Function gets more pods than this, whatever it asks for.
    pub max: u32,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            defaults: Scale::default(),
            max: u32::MAX,
        }
    }
}

impl Scaling {
    /// The Function's policy.
    pub fn policy(&self, function: &Function) -> Policy {
        let scale = function.spec.scale.or(&self.defaults);
        let panic = scale.panic.clone().unwrap_or_default();
        let max = count(scale.max, MAX).clamp(1, self.max.max(1));
        let metric = match scale.metric {
            Some(scale::Metric::Rps) => autoscale::Metric::Rps,
            Some(scale::Metric::Concurrency) | None => autoscale::Metric::Concurrency,
        };
        let target = match metric {
            autoscale::Metric::Concurrency => TARGET_CONCURRENCY,
            autoscale::Metric::Rps => TARGET_RPS,
        };
        let mut target = scale.target.unwrap_or(target);
        if let (autoscale::Metric::Concurrency, Some(limit)) =
            (metric, function.spec.concurrency_limit)
        {
            // More than that never is in a pod, as with Knative's containerConcurrency.
            target = target.min(f64::from(limit));
        }
        let window = time(scale.window, WINDOW);
        Policy {
            metric,
            target,
            utilization: share(scale.utilization, UTILIZATION),
            window,
            panic_window: time(panic.window, PANIC_WINDOW).min(window),
            panic_threshold: share(panic.threshold, PANIC_THRESHOLD),
            aggregation: match scale.aggregation {
                Some(scale::Aggregation::Weighted) => autoscale::Aggregation::Weighted,
                Some(scale::Aggregation::Linear) | None => autoscale::Aggregation::Linear,
            },
            min: count(scale.min, 0).min(max),
            max,
            activation: count(scale.activation, 1).clamp(1, max),
            max_up_rate: scale.max_up_rate.unwrap_or(1000.0),
            max_down_rate: scale.max_down_rate.unwrap_or(2.0),
            down_tolerance: share(scale.down_tolerance, DOWN_TOLERANCE),
            down_delay: time(scale.down_delay, DOWN_DELAY),
            idle_after: time(scale.idle_after, WINDOW),
        }
    }

    /// Pods that a new revision of the Function starts with.
    pub fn initial(&self, function: &Function) -> u32 {
        let scale = function.spec.scale.or(&self.defaults);
        let policy = self.policy(function);
        count(scale.initial, 0).max(policy.min).min(policy.max)
    }
}

fn count(set: Option<i32>, default: u32) -> u32 {
    // The schema has no negative counts.
    set.map_or(default, |n| u32::try_from(n).unwrap_or(0))
}

fn share(set: Option<i32>, default: i32) -> f64 {
    f64::from(set.unwrap_or(default)) / 100.0
}

fn time(set: Option<kube::core::Duration>, default: Duration) -> Duration {
    set.map_or(default, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn function(scale: Value) -> Function {
        let template = json!({"spec": {"containers": [{"name": "app", "image": "x:1"}]}});
        let spec = json!({"template": template, "scale": scale});
        serde_json::from_value(json!({"apiVersion": "ebb.dev/v1alpha1", "kind": "Function", "metadata": {"name": "f"}, "spec": spec})).unwrap()
    }

    #[test]
    fn without_any_settings() {
        let policy = Scaling::default().policy(&function(json!({})));
        let expected = Policy {
            max: 100,
            panic_window: Duration::from_secs(1),
            down_delay: Duration::from_secs(60),
            down_tolerance: 0.05,
            ..Policy::default()
        };
        assert_eq!(policy, expected);
    }

    #[test]
    fn the_target_is_at_most_the_limit() {
        let limited = |limit: i32, scale: Value| {
            let mut function = function(scale);
            function.spec.concurrency_limit = Some(limit);
            Scaling::default().policy(&function).target
        };
        assert_eq!(limited(1, json!({})), 1.0);
        assert_eq!(limited(20, json!({"target": 5})), 5.0);
        assert_eq!(limited(20, json!({"target": 50})), 20.0);
        assert_eq!(limited(1, json!({"metric": "rps", "target": 50})), 50.0);
    }

    #[test]
    fn a_function_overrides_the_clusters_defaults_and_not_its_limit() {
        let scaling = Scaling {
            defaults: serde_json::from_value(
                json!({"target": 5, "max": 7, "panic": {"threshold": 300}}),
            )
            .unwrap(),
            max: 20,
        };
        let policy = scaling.policy(&function(json!({"target": 8, "panic": {"window": "3s"}})));
        assert_eq!((policy.target, policy.max), (8.0, 7));
        assert_eq!(
            (policy.panic_threshold, policy.panic_window),
            (3.0, Duration::from_secs(3))
        );
        let policy = scaling.policy(&function(json!({"min": 30, "max": 50})));
        assert_eq!((policy.min, policy.max), (20, 20));
    }

    #[test]
    fn a_target_is_by_the_metric() {
        let policy = Scaling::default().policy(&function(json!({"metric": "rps"})));
        assert_eq!(
            (policy.target, policy.metric),
            (200.0, autoscale::Metric::Rps)
        );
    }

    #[test]
    fn initial_pods_are_not_fewer_than_min() {
        let initial = |scale| Scaling::default().initial(&function(scale));
        assert_eq!(initial(json!({})), 0);
        assert_eq!(initial(json!({"min": 2})), 2);
        assert_eq!(initial(json!({"min": 2, "initial": 5, "max": 4})), 4);
    }
}
