//! The status of a Function, from what is known of it. Pure.

use crds::{
    conditions::{ConditionType, Reason, Verdict, conditions},
    function::FunctionStatus,
    names::{FunctionKey, LABEL_FUNCTION},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use tokio::time::Instant;

use crate::{
    observe::Entry,
    shape::{
        problem::{self, Problem},
        way::Way,
    },
};

/// What the reconcile of this moment found out.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The revision that takes the requests from now on.
    pub serving: Option<String>,
    /// Why the template or the Function cannot be built or applied.
    pub invalid: Option<String>,
    /// What keeps the latest revision from starting.
    pub problem: Option<Problem>,
    /// The way to the Function; `None` while nobody has looked.
    pub route: Option<Verdict>,
    /// Who else changes the count, and what comes of it.
    pub contest: Option<String>,
    /// The names of `spec.hosts` that lead to the Function.
    pub hosts: Vec<String>,
    /// Whether all do, if it has some.
    pub claimed: Option<Verdict>,
    /// How it stands with its certificate, if it has one.
    pub certificate: Option<Verdict>,
}

impl Findings {
    /// What is to be said of hosts and their certificate. It does not make the Function unready: its own names lead to it as they did.
    pub fn of_hosts(&self) -> impl Iterator<Item = (ConditionType, Verdict)> {
        let claimed = self.claimed.clone();
        let claimed = claimed.map(|verdict| (ConditionType::HostsClaimed, verdict));
        let certificate = self.certificate.clone();
        let certificate = certificate.map(|verdict| (ConditionType::CertificateReady, verdict));
        claimed.into_iter().chain(certificate)
    }
}

/// Pods of all revisions: asked for, and ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    desired: u32,
    ready: u32,
}

/// What keeps the latest revision from starting.
pub fn problem(entry: &Entry, now: Instant) -> Option<Problem> {
    let latest = entry.latest().or_else(|| entry.serving())?;
    let deployment = entry.deployments.get(latest)?;
    problem::find(deployment, entry.pods_of(latest), now)
}

/// The status that the Function should have now. Conditions keep their transition times while their status stays.
pub fn of(
    key: &FunctionKey,
    entry: &Entry,
    findings: &Findings,
    cluster_domain: &str,
    now: Timestamp,
) -> FunctionStatus {
    let function = entry.function.as_deref();
    let before = function.and_then(|f| f.status.clone()).unwrap_or_default();
    let generation = function.and_then(|f| f.metadata.generation);
    let counts = Counts {
        desired: entry
            .deployments
            .keys()
            .filter_map(|r| entry.replicas(r))
            .sum(),
        ready: entry.deployments.keys().map(|r| entry.ready(r)).sum(),
    };
    let latest = entry
        .latest()
        .map(String::from)
        .or_else(|| before.latest_revision.clone());
    let revision = revision_ready(entry, findings, &before, latest.as_deref());
    let routed = findings
        .route
        .clone()
        .unwrap_or_else(|| Way::AsBefore.verdict());
    let active = active(counts);
    let ready = ready(&revision, &routed, counts, findings, latest.as_deref());
    let mut verdicts = vec![
        (ConditionType::Ready, ready),
        (ConditionType::RevisionReady, revision),
        (ConditionType::Routed, routed),
        (ConditionType::Active, active),
        (ConditionType::ScalingActive, scaling(findings)),
    ];
    verdicts.extend(findings.of_hosts());
    // A count of pods fits.
    let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    FunctionStatus {
        observed_generation: generation,
        conditions: conditions(&verdicts, &before.conditions, generation, now),
        url: Some(key.url(cluster_domain)),
        hosts: findings.hosts.clone(),
        desired_replicas: count(counts.desired),
        ready_replicas: count(counts.ready),
        selector: Some(format!("{LABEL_FUNCTION}={}", key.name)),
        serving_revision: findings.serving.clone(),
        latest_revision: latest,
    }
}

/// Whether the latest template starts. Once it has failed it counts as failing until one of its pods is ready: taking a crashing container to
/// zero does not mend it.
fn revision_ready(
    entry: &Entry,
    findings: &Findings,
    before: &FunctionStatus,
    latest: Option<&str>,
) -> Verdict {
    if let Some(why) = &findings.invalid {
        return Verdict::no(Reason::InvalidTemplate, why);
    }
    if let Some(problem) = &findings.problem {
        return Verdict::no(
            problem.reason,
            format!("{}: {}", problem.detail, problem.message),
        );
    }
    let (ready, replicas) =
        latest.map_or((0, 0), |r| (entry.ready(r), entry.replicas(r).unwrap_or(0)));
    if ready > 0 {
        return Verdict::yes(Reason::Serving, "");
    }
    if let Some(failed) = failed_before(before, latest) {
        return failed;
    }
    if latest != findings.serving.as_deref() {
        return Verdict::unknown(
            Reason::Deploying,
            "the new revision's pods are starting; the former one takes the requests",
        );
    }
    match replicas {
        0 => Verdict::yes(
            Reason::ScaledToZero,
            "no pods while nobody calls; the next request starts one",
        ),
        _ => Verdict::yes(Reason::Starting, "pods are starting"),
    }
}

/// The last failure of the same revision.
fn failed_before(before: &FunctionStatus, latest: Option<&str>) -> Option<Verdict> {
    let condition = find(&before.conditions, ConditionType::RevisionReady)?;
    let same = before.latest_revision.as_deref() == latest && condition.status == "False";
    let kept = [
        Reason::ImagePullFailed,
        Reason::ContainerCrashed,
        Reason::ContainerNotCreated,
        Reason::Unschedulable,
        Reason::PodRefused,
    ];
    let reason = kept.into_iter().find(|r| r.as_str() == condition.reason)?;
    same.then(|| Verdict::no(reason, &condition.message))
}

fn scaling(findings: &Findings) -> Verdict {
    match &findings.contest {
        Some(contest) => Verdict::no(Reason::ReplicasChangedByOther, contest),
        None => Verdict::yes(Reason::FollowsLoad, ""),
    }
}

fn active(counts: Counts) -> Verdict {
    match counts {
        Counts {
            desired: 0,
            ready: 0,
        } => Verdict::no(Reason::ScaledToZero, "no pods while nobody calls"),
        Counts { ready: 0, .. } => Verdict::yes(Reason::Starting, "pods are starting"),
        _ => Verdict::yes(Reason::Running, ""),
    }
}

/// The roll-up: the first dependent that is not True decides.
fn ready(
    revision: &Verdict,
    routed: &Verdict,
    counts: Counts,
    findings: &Findings,
    latest: Option<&str>,
) -> Verdict {
    for status in [Some(false), None] {
        if let Some(bad) = [revision, routed].into_iter().find(|v| v.status == status) {
            let mut verdict = bad.clone();
            let former = findings.serving.as_deref().filter(|s| Some(*s) != latest);
            if let Some(former) = former.filter(|_| status == Some(false) && bad == revision) {
                verdict
                    .message
                    .push_str(&format!(" (revision {former} goes on serving)"));
            }
            return verdict;
        }
    }
    match counts {
        Counts { desired: 0, .. } => Verdict::yes(Reason::ScaledToZero, ""),
        Counts { ready: 0, .. } => Verdict::yes(Reason::Starting, ""),
        _ => Verdict::yes(Reason::Serving, ""),
    }
}

/// A condition by its type.
pub fn find(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == kind.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observe::kinds::Indexed;
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
    use serde_json::{Value, json};

    fn entry(replicas: i32, pod: Option<Value>) -> Entry {
        let function = serde_json::from_value(json!({
            "apiVersion": "ebb.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "hello", "namespace": "shop", "uid": "u", "generation": 1},
            "spec": {"template": {"spec": {"containers": [{"name": "app", "image": "x:1"}]}}},
        }))
        .unwrap();
        let mut entry = Entry::default();
        crds::function::Function::put(&mut entry, "hello", function, Instant::now());
        let revision = entry.latest().unwrap().to_owned();
        let deployment: Deployment =
            serde_json::from_value(json!({"metadata": {"name": revision}, "spec": {"replicas": replicas, "selector": {}, "template": {}}})).unwrap();
        entry
            .deployments
            .insert(revision.clone(), Arc::new(deployment));
        if let Some(status) = pod {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"ebb.dev/revision": revision}}, "status": status})).unwrap();
            Pod::put(&mut entry, "p", pod, Instant::now());
        }
        entry
    }

    fn status(entry: &Entry) -> FunctionStatus {
        let findings = Findings {
            serving: entry.latest().map(String::from),
            problem: problem(entry, Instant::now()),
            route: Some(Way::Activators(vec![[10, 0, 0, 1].into()]).verdict()),
            ..Findings::default()
        };
        of(
            &FunctionKey::new("shop", "hello"),
            entry,
            &findings,
            "cluster.local",
            Timestamp::UNIX_EPOCH,
        )
    }

    fn shown(status: &FunctionStatus, kind: ConditionType) -> (String, String) {
        let condition = find(&status.conditions, kind).unwrap();
        (condition.status.clone(), condition.reason.clone())
    }

    fn pair(status: &str, reason: &str) -> (String, String) {
        (status.into(), reason.into())
    }

    const CRASH: &str = r#"{"containerStatuses": [{"name": "app", "image": "x", "imageID": "", "ready": false, "restartCount": 1,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}]}"#;

    #[test]
    fn asleep_is_ready() {
        let status = status(&entry(0, None));
        assert_eq!(
            shown(&status, ConditionType::Ready),
            pair("True", "ScaledToZero")
        );
        assert_eq!(
            shown(&status, ConditionType::Active),
            pair("False", "ScaledToZero")
        );
        assert_eq!((status.desired_replicas, status.ready_replicas), (0, 0));
        assert_eq!(
            status.url.as_deref(),
            Some("http://hello.shop.svc.cluster.local")
        );
    }

    #[test]
    fn serving_and_starting() {
        let serving = status(&entry(
            1,
            Some(json!({"conditions": [{"type": "Ready", "status": "True"}]})),
        ));
        assert_eq!(
            shown(&serving, ConditionType::Ready),
            pair("True", "Serving")
        );
        assert_eq!(
            shown(&serving, ConditionType::Active),
            pair("True", "Running")
        );
        let starting = status(&entry(1, Some(json!({}))));
        assert_eq!(
            shown(&starting, ConditionType::Ready),
            pair("True", "Starting")
        );
    }

    #[test]
    fn a_failure_stays_when_the_count_goes_to_zero() {
        let failing = status(&entry(1, Some(serde_json::from_str(CRASH).unwrap())));
        assert_eq!(
            shown(&failing, ConditionType::Ready),
            pair("False", "ContainerCrashed")
        );
        let mut later = entry(0, None);
        let mut function = (**later.function.as_ref().unwrap()).clone();
        function.status = Some(failing);
        later.function = Some(Arc::new(function));
        let asleep = status(&later);
        assert_eq!(
            shown(&asleep, ConditionType::Ready),
            pair("False", "ContainerCrashed")
        );
        assert_eq!(
            shown(&asleep, ConditionType::Active),
            pair("False", "ScaledToZero")
        );
    }

    #[test]
    fn a_host_that_is_taken_is_told_and_leaves_the_function_ready() {
        let entry = entry(0, None);
        let taken = "another Function has a.example";
        let findings = Findings {
            serving: entry.latest().map(String::from),
            route: Some(Way::Activators(vec![[10, 0, 0, 1].into()]).verdict()),
            hosts: vec!["b.example".into()],
            claimed: Some(Verdict::no(Reason::HostTaken, taken)),
            ..Findings::default()
        };
        let key = FunctionKey::new("shop", "hello");
        let status = of(
            &key,
            &entry,
            &findings,
            "cluster.local",
            Timestamp::UNIX_EPOCH,
        );
        let claimed = shown(&status, ConditionType::HostsClaimed);
        assert_eq!(claimed, pair("False", "HostTaken"));
        let ready = shown(&status, ConditionType::Ready);
        assert_eq!(ready, pair("True", "ScaledToZero"));
        assert_eq!(status.hosts, ["b.example"]);
        assert!(find(&status.conditions, ConditionType::CertificateReady).is_none());
    }

    #[test]
    fn no_activator_is_not_ready() {
        let entry = entry(0, None);
        let findings = Findings {
            serving: entry.latest().map(String::from),
            ..Findings::default()
        };
        let status = of(
            &FunctionKey::new("shop", "hello"),
            &entry,
            &findings,
            "cluster.local",
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(
            shown(&status, ConditionType::Ready),
            pair("False", "NoActivator")
        );
        assert_eq!(
            shown(&status, ConditionType::RevisionReady),
            pair("True", "ScaledToZero")
        );
    }
}
