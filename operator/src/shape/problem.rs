//! What keeps a revision's pods from starting, found in the places where Kubernetes says it. Pure.

use crds::{conditions::Reason, control};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStatus, Pod},
};
use tokio::time::Instant;

use crate::observe::ObservedPod;

/// Longest message in bytes: an Event's note holds 1 kB.
const MESSAGE_MAX: usize = 700;

/// A reason why pods do not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The condition's reason.
    pub reason: Reason,
    /// Kubernetes' own reason, such as `ImagePullBackOff`.
    pub detail: String,
    /// What happened, in Kubernetes' words.
    pub message: String,
}

impl Problem {
    fn new(reason: Reason, detail: &str, message: String) -> Self {
        Self {
            reason,
            detail: detail.into(),
            message: shorten(message),
        }
    }

    /// Whether waiting does not help: somebody must change the Function, or what it refers to.
    pub fn fatal(&self) -> bool {
        matches!(
            self.reason,
            Reason::ImagePullFailed | Reason::ContainerCrashed | Reason::ContainerNotCreated
        )
    }

    /// As the activators are told.
    pub fn to_control(&self) -> control::Problem {
        control::Problem {
            reason: self.detail.clone(),
            message: self.message.clone(),
            fatal: self.fatal(),
        }
    }
}

/// What keeps the pods of a revision from starting, `None` if nothing is known to. A pod that is ready proves that the revision can start, one
/// that has crashed before only when it has stayed ready for a while.
pub fn find<'a>(
    deployment: &Deployment,
    pods: impl Iterator<Item = &'a ObservedPod>,
    now: Instant,
) -> Option<Problem> {
    let mut found = None;
    for observed in pods.filter(|p| p.is_alive()) {
        let crash = last_crash(&observed.pod);
        if observed.is_ready() && (crash.is_none() || observed.is_settled(now)) {
            return None;
        }
        found = found
            .or_else(|| of_pod(&observed.pod))
            .or_else(|| crash.filter(|_| observed.is_ready()));
    }
    found.or_else(|| refused(deployment))
}

/// The last crash of a container that now runs again.
pub fn last_crash(pod: &Pod) -> Option<Problem> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|status| {
        let ended = status.last_state.as_ref()?.terminated.as_ref()?;
        let detail = ended.reason.as_deref().unwrap_or("Error");
        let message = crashed(status, ended.exit_code, detail);
        (ended.exit_code != 0).then(|| Problem::new(Reason::ContainerCrashed, detail, message))
    })
}

/// Whether the kubelet says that the pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

fn of_pod(pod: &Pod) -> Option<Problem> {
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    if let Some(problem) = containers.into_iter().find_map(of_container) {
        return Some(problem);
    }
    let unscheduled = status.conditions.iter().flatten().find(|c| {
        c.type_ == "PodScheduled"
            && c.status == "False"
            && c.reason.as_deref() == Some("Unschedulable")
    })?;
    let message = unscheduled.message.clone().unwrap_or_default();
    Some(Problem::new(
        Reason::Unschedulable,
        "Unschedulable",
        message,
    ))
}

fn of_container(status: &ContainerStatus) -> Option<Problem> {
    let state = status.state.as_ref()?;
    let name = &status.name;
    if let Some(ended) = state.terminated.as_ref().filter(|t| t.exit_code != 0) {
        let detail = ended.reason.as_deref().unwrap_or("Error");
        return Some(Problem::new(
            Reason::ContainerCrashed,
            detail,
            crashed(status, ended.exit_code, detail),
        ));
    }
    let waiting = state.waiting.as_ref()?;
    let detail = waiting.reason.as_deref()?;
    let said = waiting.message.as_deref().unwrap_or_default();
    let image = &status.image;
    match detail {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "RegistryUnavailable"
        | "ImageInspectError"
        | "SignatureValidationFailed" => {
            let message = format!("image {image:?} of container {name:?}: {said}");
            Some(Problem::new(Reason::ImagePullFailed, detail, message))
        }
        "CrashLoopBackOff" => {
            let last = status
                .last_state
                .as_ref()
                .and_then(|s| s.terminated.as_ref());
            let message = match last {
                Some(ended) => crashed(
                    status,
                    ended.exit_code,
                    ended.reason.as_deref().unwrap_or("Error"),
                ),
                None => format!("container {name:?}: {said}"),
            };
            Some(Problem::new(Reason::ContainerCrashed, detail, message))
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            let message = format!("container {name:?}: {said}");
            Some(Problem::new(Reason::ContainerNotCreated, detail, message))
        }
        _ => None,
    }
}

fn crashed(status: &ContainerStatus, code: i32, why: &str) -> String {
    let (name, restarts) = (&status.name, status.restart_count);
    format!(
        "container {name:?} exited with code {code} ({why}), restarted {restarts} times: see `kubectl logs`"
    )
}

/// A quota, limit range or admission rule: the ReplicaSet could not create pods at all.
fn refused(deployment: &Deployment) -> Option<Problem> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    let detail = failure.reason.as_deref().unwrap_or("FailedCreate");
    Some(Problem::new(
        Reason::PodRefused,
        detail,
        failure.message.clone().unwrap_or_default(),
    ))
}

fn shorten(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        let end = (0..=MESSAGE_MAX)
            .rev()
            .find(|i| message.is_char_boundary(*i))
            .unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    fn container(state: Value) -> Value {
        json!({"containerStatuses": [{"name": "app", "image": "reg/x:1", "imageID": "", "ready": false, "restartCount": 2,
            "state": state, "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]})
    }

    /// The problem of these pods, `ready` seconds after they were first seen.
    fn after(ready: u64, pods: &[Pod]) -> Option<(Reason, String, bool)> {
        let then = Instant::now();
        let now = then + std::time::Duration::from_secs(ready);
        let observed: Vec<ObservedPod> = pods
            .iter()
            .map(|pod| ObservedPod {
                pod: pod.clone(),
                scheduled: Some(then),
                addressed: Some(then),
                ready: is_ready(pod).then_some(then),
            })
            .collect();
        find(&Deployment::default(), observed.iter(), now)
            .map(|p| (p.reason, p.message.clone(), p.fatal()))
    }

    fn of(pods: &[Pod]) -> Option<(Reason, String, bool)> {
        after(0, pods)
    }

    #[test]
    fn a_container_that_crashed_must_stay_ready_to_count_as_mended() {
        let mut again = container(json!({"running": {}}));
        again["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        let again = pod(again);
        let (reason, ..) = after(1, std::slice::from_ref(&again)).unwrap();
        assert_eq!(reason, Reason::ContainerCrashed);
        assert_eq!(after(11, &[again]), None);
    }

    #[test]
    fn kubernetes_reasons() {
        let pull = pod(container(
            json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}}),
        ));
        assert_eq!(
            of(&[pull]),
            Some((
                Reason::ImagePullFailed,
                "image \"reg/x:1\" of container \"app\": not found".into(),
                true
            ))
        );
        let (reason, message, _) = of(&[pod(container(
            json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        ))])
        .unwrap();
        assert_eq!(reason, Reason::ContainerCrashed);
        assert!(message.contains("exited with code 3"), "{message}");
        let config = pod(container(
            json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"s\" not found"}}),
        ));
        assert_eq!(of(&[config]).unwrap().0, Reason::ContainerNotCreated);
        let full = pod(
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]}),
        );
        assert_eq!(
            of(&[full]),
            Some((Reason::Unschedulable, "0/1 nodes".into(), false))
        );
        assert_eq!(
            of(&[pod(container(
                json!({"waiting": {"reason": "ContainerCreating"}})
            ))]),
            None
        );
    }

    #[test]
    fn a_ready_pod_proves_that_the_revision_starts() {
        let bad = pod(container(json!({"waiting": {"reason": "ErrImagePull"}})));
        let good = pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(of(&[bad, good]), None);
    }

    #[test]
    fn a_quota_is_found_on_the_deployment() {
        let deployment: Deployment = serde_json::from_value(json!({"metadata": {}, "status": {"conditions":
            [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}]}}))
        .unwrap();
        let problem = find(&deployment, std::iter::empty(), Instant::now()).unwrap();
        assert_eq!(
            (problem.reason, problem.message.as_str()),
            (Reason::PodRefused, "exceeded quota")
        );
        assert!(!problem.fatal());
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let cut = shorten("é".repeat(1000));
        assert!(cut.len() <= MESSAGE_MAX + "…".len() && cut.ends_with('…'));
    }
}
