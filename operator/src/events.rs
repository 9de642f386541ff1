//! Kubernetes Events on Functions: one for each transition, in words for people.

use std::time::Duration;

use crds::{conditions::Reason, control::ColdStart, names::FunctionKey};
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use std::sync::Arc;
use tokio::sync::mpsc;

use crate::{
    observe::Index,
    pace::Pace,
    scaler::unit::{Write, contest::Change},
    shape::problem::Problem,
};

/// Events that may wait to be written. When it is full, new ones are only logged: events are a convenience and must not hold anything up.
const OUTBOX: usize = 1024;

/// Pause after a failed write.
const PAUSE: Duration = Duration::from_secs(1);

/// Name of the reporting controller.
const CONTROLLER: &str = "ebb.dev/operator";

/// Something that happened to a Function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    warning: bool,
    reason: &'static str,
    action: &'static str,
    note: String,
}

impl Event {
    fn normal(reason: &'static str, action: &'static str, note: String) -> Self {
        Self {
            warning: false,
            reason,
            action,
            note,
        }
    }

    /// The first request from zero was answered.
    pub fn cold_start(cold: &ColdStart) -> Self {
        let ms = |us: u64| us as f64 / 1000.0;
        let phases: Vec<String> = cold
            .phases
            .named()
            .iter()
            .map(|(name, us)| format!("{name} {:.1}", ms(*us)))
            .collect();
        let total = ms(cold.phases.total_us());
        let ColdStart { pod, status, .. } = cold;
        let note = format!(
            "first request from zero answered {status} by pod {pod} in {total:.1} ms ({})",
            phases.join(", ")
        );
        Self::normal("ColdStart", "Wake", note)
    }

    /// A count was written for another reason than a request that waits; for those the cold start tells more.
    pub fn scaled(write: &Write) -> Self {
        let Write {
            revision,
            from,
            to,
            note,
            ..
        } = write;
        let event = if *to == 0 {
            "ScaledToZero"
        } else if to < from {
            "ScaledDown"
        } else {
            "ScaledUp"
        };
        Self::normal(
            event,
            "Scale",
            format!("revision {revision} from {from} to {to}: {note}"),
        )
    }

    /// Somebody else has changed a count.
    pub fn contested(change: &Change) -> Self {
        Self {
            warning: true,
            reason: Reason::ReplicasChangedByOther.as_str(),
            action: "Scale",
            note: change.message(),
        }
    }

    /// Traffic moved to another revision.
    pub fn moved(from: &str, to: &str) -> Self {
        Self::normal(
            "RevisionServing",
            "Rollout",
            format!("revision {to} takes the requests; {from} finishes what it has and is removed"),
        )
    }

    /// A child that somebody had edited or deleted is as it should be again.
    pub fn restored(child: &str) -> Self {
        Self::normal(
            "ChildRestored",
            "Apply",
            format!("{child} was edited or deleted by somebody else and has been put back"),
        )
    }

    /// The latest revision does not start.
    pub fn problem(problem: &Problem) -> Self {
        let note = format!("{}: {}", problem.detail, problem.message);
        Self {
            warning: true,
            reason: problem.reason.as_str(),
            action: "Start",
            note,
        }
    }

    /// Something else about the Function is wrong.
    pub fn warning(reason: Reason, note: String) -> Self {
        Self {
            warning: true,
            reason: reason.as_str(),
            action: "Reconcile",
            note,
        }
    }
}

/// Takes events and writes them in the background.
#[derive(Clone, Debug)]
pub struct Events {
    outbox: mpsc::Sender<(FunctionKey, Event)>,
}

impl Events {
    /// A way to publish, and what [`run`] takes.
    pub fn new() -> (Self, mpsc::Receiver<(FunctionKey, Event)>) {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        (Self { outbox }, inbox)
    }

    /// Publishes an event; never waits.
    pub fn publish(&self, key: &FunctionKey, event: Event) {
        let Event { reason, note, .. } = &event;
        tracing::info!(function = %key, reason, note, "event");
        if self.outbox.try_send((key.clone(), event)).is_err() {
            tracing::warn!(function = %key, "too many events at once, this one is only in the log");
        }
    }
}

/// Writes events at their pace until the senders are gone.
pub async fn run(
    client: Client,
    instance: String,
    index: Arc<Index>,
    pace: Pace,
    mut inbox: mpsc::Receiver<(FunctionKey, Event)>,
) {
    while let Some((key, event)) = inbox.recv().await {
        let Some(function) = index.entry(&key).function else {
            continue;
        };
        pace.wait().await;
        let uid = function.metadata.uid.clone();
        let api: Api<v1::Event> = Api::namespaced(client.clone(), &key.namespace);
        if let Err(error) = api
            .create(
                &PostParams::default(),
                &object(&key, uid, &event, &instance),
            )
            .await
        {
            tracing::debug!(function = %key, %error, "event not written");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn object(key: &FunctionKey, uid: Option<String>, event: &Event, instance: &str) -> v1::Event {
    let now = Timestamp::now();
    v1::Event {
        metadata: ObjectMeta {
            // Kubernetes names events by their object and the time in nanoseconds.
            name: Some(format!("{}.{:x}", key.name, now.as_nanosecond())),
            namespace: Some(key.namespace.to_string()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(event.reason.into()),
        action: Some(event.action.into()),
        note: Some(event.note.chars().take(1000).collect()),
        regarding: Some(ObjectReference {
            api_version: Some(format!("{}/v1alpha1", crds::names::GROUP)),
            kind: Some("Function".into()),
            name: Some(key.name.to_string()),
            namespace: Some(key.namespace.to_string()),
            uid,
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some(instance.into()),
        ..v1::Event::default()
    }
}
