//! `spec.scale`: how many pods run. The same shape gives a cluster's defaults (the chart's `scale.defaults`).

// KubeSchema derives its rules on hidden copies of these types.
#![allow(unreachable_pub)]

use kube::{KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// How many pods run. What is not set follows the cluster's defaults (chart value scale.defaults); the defaults named here hold where that sets none.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.min) || !has(self.max) || self.min <= self.max").message("scale.min must not be greater than scale.max"),
    validation = Rule::new("!has(self.activation) || !has(self.max) || self.activation <= self.max").message("scale.activation must not be greater than scale.max"),
    validation = Rule::new("!has(self.initial) || !has(self.max) || self.initial <= self.max").message("scale.initial must not be greater than scale.max"),
    validation = Rule::new("!has(self.panic) || !has(self.panic.window) || !has(self.window) || duration(self.panic.window) <= duration(self.window)").message("scale.panic.window must not be longer than scale.window")
)]
pub struct Scale {
    /// Pods that always run. Default 0: none while nobody calls. At most 1000. `kubectl scale` sets this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub min: Option<i32>,

    /// Pods that may run at most. Default 100. Between 1 and 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max: Option<i32>,

    /// Time with nothing in flight or waiting after which the last pods go and the count is scale.min. Default 60s. Between 1s and 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("scale.idleAfter is between 1s and 24h"))]
    pub idle_after: Option<Duration>,

    /// What the count follows: concurrency (requests in pods or waiting for one, averaged over time) or rps (requests that arrive in
    /// a second). Default concurrency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,

    /// What one pod may carry, in units of scale.metric: requests at once, or requests a second. It is not a limit: scale.utilization of
    /// it is aimed at. Default 100 for concurrency, 200 for rps. Between 0.01 and 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000000.0))]
    // Not as a minimum of the schema: the API server compares a whole number with the whole part of it.
    #[x_kube(validation = Rule::new("self >= 0.01").message("scale.target is at least 0.01"))]
    pub target: Option<f64>,

    /// Percentage of scale.target that is aimed at, so that there is room while more pods start. Default 70. Between 1 and 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub utilization: Option<i32>,

    /// Time over which the load is averaged. Default 60s. Between 6s and 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('6s') && duration(self) <= duration('1h')").message("scale.window is between 6s and 1h"))]
    pub window: Option<Duration>,

    /// What counts as a sudden rise, which is followed at once and never lowers the count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic: Option<Panic>,

    /// Pods that a new revision starts with, whatever the load, before its count follows the load. Default 0: the first request starts it;
    /// one that replaces a running revision starts with as many pods as that one has. At most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub initial: Option<i32>,

    /// Pods that run at least while there is any load. Default 1. Between 1 and 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub activation: Option<i32>,

    /// How long the load must ask for fewer pods before the count is lowered. It does not hold the last pods beyond scale.idleAfter. Default
    /// 60s. At most 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("scale.downDelay is at most 1h"))]
    pub down_delay: Option<Duration>,

    /// The count may be raised to this many times the ready pods at once. Default 1000. Greater than 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self > 1.0").message("scale.maxUpRate is greater than 1"))]
    pub max_up_rate: Option<f64>,

    /// The count may be lowered to the ready pods divided by this, every two seconds. Default 2. Greater than 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self > 1.0").message("scale.maxDownRate is greater than 1"))]
    pub max_down_rate: Option<f64>,

    /// Percentage of the pods' room that must stay free in the lower count before the count is lowered to it, so that a load on the edge between
    /// two counts does not change the count again and again. Default 5. Between 0 and 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub down_tolerance: Option<i32>,

    /// Whether an upgraded connection, such as a WebSocket, counts as a request until it ends and so keeps its pod. Default true. With
    /// false such connections are cut off when the count goes down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count_upgrades: Option<bool>,

    /// Path that a pod is asked (GET, on the serving port) when it has nothing in flight and is about to go: 200 means that it is busy on its own
    /// account, with a job in the background for instance, and stays for another scale.idleAfter; anything else, or no answer
    /// within two seconds, that it may go. Default: pods are not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("scale.keepAliveProbe is a path and begins with /"))]
    pub keep_alive_probe: Option<String>,

    /// How the seconds of the windows are weighted: linear (all alike) or weighted (exponentially less with age). Default linear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<Aggregation>,
}

/// What counts as a sudden rise.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Panic {
    /// Time over which the load is averaged to see a rise, in whole seconds. Default 1s. Between 1s and 1h, and not longer than scale.window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("scale.panic.window is between 1s and 1h"))]
    pub window: Option<Duration>,

    /// Percentage of the ready pods that this window must ask for. Default 200: twice as many. Between 110 and 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 110, max = 1000))]
    pub threshold: Option<i32>,
}

/// What the count follows.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Metric {
    /// Requests in pods or waiting for one.
    Concurrency,
    /// Requests that arrive in a second.
    Rps,
}

/// How the seconds of a window are weighted.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Aggregation {
    /// All alike.
    Linear,
    /// Exponentially less with age.
    Weighted,
}

impl Scale {
    /// What this sets, and for the rest what `defaults` sets.
    #[must_use]
    pub fn or(&self, defaults: &Self) -> Self {
        Self {
            min: self.min.or(defaults.min),
            max: self.max.or(defaults.max),
            idle_after: self.idle_after.or(defaults.idle_after),
            metric: self.metric.or(defaults.metric),
            target: self.target.or(defaults.target),
            utilization: self.utilization.or(defaults.utilization),
            window: self.window.or(defaults.window),
            panic: match (&self.panic, &defaults.panic) {
                (Some(own), Some(other)) => Some(Panic {
                    window: own.window.or(other.window),
                    threshold: own.threshold.or(other.threshold),
                }),
                (own, other) => own.clone().or_else(|| other.clone()),
            },
            initial: self.initial.or(defaults.initial),
            activation: self.activation.or(defaults.activation),
            down_delay: self.down_delay.or(defaults.down_delay),
            max_up_rate: self.max_up_rate.or(defaults.max_up_rate),
            max_down_rate: self.max_down_rate.or(defaults.max_down_rate),
            down_tolerance: self.down_tolerance.or(defaults.down_tolerance),
            count_upgrades: self.count_upgrades.or(defaults.count_upgrades),
            keep_alive_probe: self
                .keep_alive_probe
                .clone()
                .or_else(|| defaults.keep_alive_probe.clone()),
            aggregation: self.aggregation.or(defaults.aggregation),
        }
    }
}
