//! Reconciling one Function, and the workers that do it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crds::{
    conditions::{ConditionType, Reason, Verdict},
    control::Protocol,
    function::{Function, FunctionStatus},
    names::FunctionKey,
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use runtime::lease::Leadership;
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use crate::{
    certificates::Certificates,
    events::{Event, Events},
    fleet::Fleet,
    hosts::Hosts,
    metrics::Metrics,
    observe::{Entry, Index, ObservedPod, SETTLE, SETTLE_CRASHED},
    pace::Statuses,
    queue::Queue,
    scaler::{Contests, policy::Scaling},
    shape::{
        apply::{Applier, Outcome},
        build,
        ports::Ports,
        problem, rollout,
        status::{self, Findings},
        validate::Plan,
        way::{self, Way},
    },
};

/// Functions reconciled at once. Each waits for the API server most of the time, so this is some hundred a second; more would only make starts
/// from zero wait behind them.
pub const WORKERS: usize = 4;

/// First and longest wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What reconciling works with.
pub struct Context {
    /// What is known of the cluster.
    pub index: Arc<Index>,
    /// The activators.
    pub fleet: Arc<Fleet>,
    /// Functions to be reconciled.
    pub queue: Arc<Queue>,
    /// Whether this replica leads; only the leader writes.
    pub lead: watch::Receiver<Leadership>,
    /// The API server, for the status.
    pub client: Client,
    /// The API server, for children.
    pub applier: Applier,
    /// Ports of Functions on the activators.
    pub ports: Ports,
    /// Events for people.
    pub events: Events,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Statuses that only tell how things stand.
    pub statuses: Statuses,
    /// The cluster's defaults and limits.
    pub scaling: Arc<Scaling>,
    /// Functions whose count somebody else changes.
    pub contests: Contests,
    /// Who has which host name.
    pub hosts: Arc<Mutex<Hosts>>,
    /// The certificates that Functions name.
    pub certificates: Arc<Certificates>,
    /// Failures in a row, by Function.
    pub failures: Mutex<HashMap<FunctionKey, u32>>,
}

/// Works on the queue for ever.
pub async fn work(ctx: Arc<Context>) {
    loop {
        let key = ctx.queue.next().await;
        let leads = ctx.lead.borrow().epoch(Instant::now()).is_some();
        if leads {
            let started = Instant::now();
            let result = reconcile(&ctx, &key).await;
            // A Function whose namespace is being deleted goes with it.
            let result = result.or_else(|error| match is_terminating(&error) {
                true => Ok(()),
                false => Err(error),
            });
            ctx.metrics.reconciled(result.is_ok(), started.elapsed());
            retry(&ctx, &key, result);
        }
        ctx.statuses.end_turn(&key);
        ctx.queue.done(&key);
    }
}

fn retry(ctx: &Context, key: &FunctionKey, result: kube::Result<()>) {
    let mut failures = ctx.failures.lock();
    let error = match result {
        Err(error) => error,
        Ok(()) => {
            failures.remove(key);
            return;
        }
    };
    let count = failures.entry(key.clone()).or_default();
    let wait = (RETRY_FIRST * 2u32.saturating_pow((*count).min(12))).min(RETRY_MAX);
    *count += 1;
    tracing::warn!(function = %key, %error, retry_in = ?wait, "reconcile failed");
    ctx.queue
        .add_after(key, wait.mul_f64(0.75 + 0.5 * fastrand::f64()));
}

/// Whether nothing can be created because the namespace is being deleted.
fn is_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|d| &d.causes);
    causes
        .into_iter()
        .any(|cause| cause.reason == "NamespaceTerminating")
}

/// When to look again because a pod has been ready for long enough then.
fn settling(entry: &Entry, now: Instant) -> Option<Duration> {
    let unsettled = |p: &&Arc<ObservedPod>| p.is_ready() && !p.is_settled(now);
    let pods = entry.pods.values().filter(unsettled);
    let crashed = |p: &Arc<ObservedPod>| problem::last_crash(&p.pod).is_some();
    pods.map(|p| if crashed(p) { SETTLE_CRASHED } else { SETTLE })
        .min()
}

/// Observe, validate, build, apply, status.
async fn reconcile(ctx: &Context, key: &FunctionKey) -> kube::Result<()> {
    // Observe; the plan in the entry is the validated Function.
    let entry = ctx.index.entry(key);
    let Some(function) = entry.function.clone() else {
        ctx.applier.forget(key);
        return Ok(());
    };
    if function.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let now = Instant::now();
    if let Some(wait) = settling(&entry, now) {
        ctx.queue.add_after(key, wait);
    }
    let mut findings = Findings {
        serving: rollout::serving(&entry, now),
        problem: status::problem(&entry, now),
        contest: ctx.contests.lock().get(key).cloned(),
        ..Findings::default()
    };
    // Build and apply.
    match entry.plan.as_deref() {
        Some(Ok(plan)) => findings.invalid = revision(ctx, &entry, &function, plan).await?,
        Some(Err(invalid)) => findings.invalid = Some(invalid.to_string()),
        None => {}
    }
    route(ctx, key, &entry, &mut findings).await?;
    for name in rollout::finished(&entry) {
        ctx.applier.delete_deployment(key, &entry, &name).await?;
    }
    // Status. The scaler takes note of claims; if it has not yet, it adds the Function again when it has.
    if !look_at_hosts(ctx, key, &function, &mut findings) {
        return Ok(());
    }
    let wanted = status::of(
        key,
        &entry,
        &findings,
        &ctx.cluster_domain,
        Timestamp::now(),
    );
    write_status(ctx, key, &function, &findings, wanted).await
}

/// Finds out which hosts the Function has and how it stands with its certificate. Returns false if its claim is not known yet.
fn look_at_hosts(
    ctx: &Context,
    key: &FunctionKey,
    function: &Function,
    findings: &mut Findings,
) -> bool {
    let hosts = ctx.hosts.lock();
    if !hosts.knows(key, function) {
        return false;
    }
    findings.claimed = hosts.verdict(key);
    findings.hosts = hosts.of(key);
    drop(hosts);
    if let Some(standing) = ctx.certificates.of(key) {
        let now = Timestamp::now();
        findings.certificate = Some(standing.verdict(&findings.hosts, now));
        if let Some(wait) = standing.look_again(now) {
            ctx.queue.add_after(key, wait);
        }
    }
    true
}

/// Applies the latest revision's Deployment. `Some`: the API server refuses it, with its words; that is the owner's to mend, not ours to retry.
async fn revision(
    ctx: &Context,
    entry: &Entry,
    function: &Function,
    plan: &Plan,
) -> kube::Result<Option<String>> {
    // One that replaces another starts when the scaler says so, with as many pods as that one needs.
    let initial = match entry.serving() {
        None => ctx.scaling.initial(function),
        Some(_) => 0,
    };
    let known =
        status_of(entry).is_some_and(|s| s.latest_revision.as_deref() == Some(&plan.revision));
    match ctx
        .applier
        .deployment(&plan.key, entry, build::deployment(plan), initial)
        .await
    {
        Ok(outcome) => {
            if outcome == Outcome::Restored || (outcome == Outcome::Created && known) {
                ctx.events.publish(
                    &plan.key,
                    Event::restored(&format!("Deployment {}", plan.revision)),
                );
            }
            Ok(None)
        }
        Err(error) if is_terminating(&error) => Err(error),
        Err(kube::Error::Api(refused)) if refused.is_invalid() || refused.is_forbidden() => {
            Ok(Some(refused.message.clone()))
        }
        Err(error) => Err(error),
    }
}

/// Applies Service and slice, so that clients reach the activators that listen.
async fn route(
    ctx: &Context,
    key: &FunctionKey,
    entry: &Entry,
    findings: &mut Findings,
) -> kube::Result<()> {
    let uid = entry
        .function
        .as_ref()
        .and_then(|f| f.metadata.uid.clone())
        .unwrap_or_default();
    if entry.service.is_some() && entry.own_service().is_none() {
        findings.route = Some(conflict(key));
        return Ok(());
    }
    let Some(port) = ctx.ports.of(key, &ctx.index) else {
        let message = "all ports for Functions are taken: this installation has as many Functions as it can serve";
        findings.route = Some(Verdict::no(Reason::NoPortLeft, message));
        return Ok(());
    };
    let known = status_of(entry).is_some_and(|s| s.observed_generation.is_some());
    let protocol = protocol(entry);
    let service = build::service(key, &uid, port, protocol);
    match ctx.applier.service(key, entry, service).await? {
        Outcome::Foreign => {
            findings.route = Some(conflict(key));
            return Ok(());
        }
        Outcome::Restored => ctx.events.publish(key, Event::restored("the Service")),
        Outcome::Created if known => ctx.events.publish(key, Event::restored("the Service")),
        Outcome::Created | Outcome::Unchanged => {}
    }
    let alone = ctx.fleet.alone_for(Instant::now());
    if let Some(wait) = alone.and_then(|alone| way::FAIL_OPEN_AFTER.checked_sub(alone)) {
        ctx.queue.add_after(key, wait);
    }
    let limited = entry
        .function
        .as_ref()
        .is_some_and(|f| f.spec.concurrency_limit.is_some());
    // With a limit all requests go through the first owner, its keeper; the others would only send them on.
    let owners = if limited { 1 } else { usize::MAX };
    let listening = ctx.fleet.endpoints(key, port).into_iter().take(owners);
    let way = way::choose(
        entry,
        listening.map(|(_, ip)| ip).collect(),
        alone,
        ctx.fleet.none_ready(),
    );
    findings.route = Some(way.verdict());
    let slice = match &way {
        Way::Activators(activators) => build::slice(key, &uid, port, protocol, activators),
        Way::Pods(pods, port) => build::slice(key, &uid, *port, protocol, pods),
        Way::AsBefore if entry.slice.is_some() => return Ok(()),
        Way::AsBefore => build::slice(key, &uid, port, protocol, &[]),
    };
    if ctx.applier.slice(key, entry, slice).await? == Outcome::Foreign {
        findings.route = Some(conflict(key));
    }
    Ok(())
}

/// What clients are told that the Function speaks: what the revision does that serves, or else the one that will.
fn protocol(entry: &Entry) -> Protocol {
    let serving = entry.serving().and_then(|name| entry.serving_of(name));
    let planned = || Some(entry.plan.as_deref()?.as_ref().ok()?.serving.protocol);
    serving
        .map(|serving| serving.protocol)
        .or_else(planned)
        .unwrap_or_default()
}

fn conflict(key: &FunctionKey) -> Verdict {
    let name = &key.name;
    let message = format!(
        "a Service or EndpointSlice {name} exists that does not belong to this Function: rename the Function, or delete the other"
    );
    Verdict::no(Reason::ServiceConflict, message)
}

fn status_of(entry: &Entry) -> Option<&FunctionStatus> {
    entry.function.as_ref()?.status.as_ref()
}

/// Writes the status if it says something new, and tells people what has changed.
async fn write_status(
    ctx: &Context,
    key: &FunctionKey,
    function: &Function,
    findings: &Findings,
    wanted: FunctionStatus,
) -> kube::Result<()> {
    if function.status.as_ref() == Some(&wanted) {
        return Ok(());
    }
    let may_wait = !says_who_serves(function.status.as_ref(), &wanted);
    if may_wait && !ctx.statuses.may_write(key, Instant::now()) {
        return Ok(());
    }
    let api: Api<Function> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let version = function.metadata.resource_version.clone();
    // With the version that it was decided on: a status must not speak of a Function that has changed meanwhile.
    let patch = json!({"metadata": {"resourceVersion": version}, "status": wanted});
    match api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
            // The watch brings what is new.
            ctx.queue.add_after(key, RETRY_FIRST);
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    tell(ctx, key, findings, function.status.as_ref(), &wanted);
    Ok(())
}

/// Whether a status answers somebody who has changed the Function, or moves its requests to another revision. The others can wait.
fn says_who_serves(before: Option<&FunctionStatus>, after: &FunctionStatus) -> bool {
    before.is_none_or(|before| {
        before.observed_generation != after.observed_generation
            || before.serving_revision != after.serving_revision
            || before.latest_revision != after.latest_revision
    })
}

fn tell(
    ctx: &Context,
    key: &FunctionKey,
    findings: &Findings,
    before: Option<&FunctionStatus>,
    after: &FunctionStatus,
) {
    let (old, new) = (
        before.and_then(|b| b.serving_revision.as_deref()),
        after.serving_revision.as_deref(),
    );
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        ctx.events.publish(key, Event::moved(old, new));
    }
    for (kind, verdict) in findings.of_hosts() {
        if newly_false(kind, before, after).is_some() {
            let event = Event::warning(verdict.reason, verdict.message);
            ctx.events.publish(key, event);
        }
    }
    for kind in [ConditionType::RevisionReady, ConditionType::Routed] {
        let Some(condition) = newly_false(kind, before, after) else {
            continue;
        };
        let event = match (kind, &findings.problem) {
            (ConditionType::RevisionReady, Some(problem)) => Event::problem(problem),
            (ConditionType::RevisionReady, None) => {
                Event::warning(Reason::InvalidTemplate, condition.message.clone())
            }
            // A new Function is not routed for a moment; that is nothing to warn of.
            _ if before.is_none() || condition.reason == Reason::NoActivator.as_str() => continue,
            _ => Event::warning(Reason::ServiceConflict, condition.message.clone()),
        };
        ctx.events.publish(key, event);
    }
}

/// A condition that has become False, or is so for another reason than before.
fn newly_false<'a>(
    kind: ConditionType,
    before: Option<&FunctionStatus>,
    after: &'a FunctionStatus,
) -> Option<&'a Condition> {
    let condition = status::find(&after.conditions, kind).filter(|c| c.status == "False")?;
    let known = before.and_then(|b| status::find(&b.conditions, kind));
    let same = known.is_some_and(|k| k.status == "False" && k.reason == condition.reason);
    (!same).then_some(condition)
}
