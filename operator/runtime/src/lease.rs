//! Leader election by a `coordination.k8s.io/v1` Lease.
//!
//! Every write carries the resource version that it was decided on, so two replicas can never both take the lease. A holder's
//! time is measured by this process's own monotonic clock from the moment that it saw the lease change, never by comparing wall clocks. A
//! leader stops counting as one when its own lease would have run out, whether or not it could still reach the API server.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams, core::response::reason};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long a lease is good without renewal. A new leader follows one that died within this time and [`RETRY`].
pub const DURATION: Duration = Duration::from_secs(10);

/// How often a leader renews: it may miss two and still hold the lease.
const RENEW: Duration = Duration::from_secs(3);

/// How often the others look, with jitter on top.
const RETRY: Duration = Duration::from_secs(2);

/// Longest wait for an answer of the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether this process leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leadership {
    /// It does not.
    #[default]
    Following,
    /// It does, until `until` unless it renews before.
    Leading {
        /// The lease's count of transitions: grows with each change of leader.
        epoch: u64,
        /// When the lease runs out.
        until: Instant,
    },
}

impl Leadership {
    /// The epoch, if this process leads at `now`.
    pub fn epoch(&self, now: Instant) -> Option<u64> {
        match self {
            Self::Leading { epoch, until } if now < *until => Some(*epoch),
            _ => None,
        }
    }
}

/// Which lease, and who wants it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub name: String,
    /// Name of this process, unique among replicas: its pod's name.
    pub identity: String,
}

/// What was last seen of the lease, and when it last changed.
struct Seen {
    lease: Lease,
    since: Instant,
}

/// Tries to hold the lease until `stop` is cancelled, then gives it up so that another replica can lead at once. `told` always has the
/// present state.
pub async fn run(
    client: Client,
    config: Config,
    told: watch::Sender<Leadership>,
    stop: CancellationToken,
) {
    let api: Api<Lease> = Api::namespaced(client, &config.namespace);
    let mut seen: Option<Seen> = None;
    while !stop.is_cancelled() {
        let wait = match turn(&api, &config, &mut seen, &told).await {
            Ok(()) if told.borrow().epoch(Instant::now()).is_some() => RENEW,
            Ok(()) => jitter(RETRY),
            Err(error) => {
                tracing::warn!(lease = config.name, %error, "lease could not be read or written");
                expire(&told);
                jitter(RETRY / 4)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
    }
    vacate(&api, &config, seen, &told).await;
}

fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + 0.5 * fastrand::f64())
}

/// One look at the lease, and a write if it is ours to renew or to take.
async fn turn(
    api: &Api<Lease>,
    config: &Config,
    seen: &mut Option<Seen>,
    told: &watch::Sender<Leadership>,
) -> kube::Result<()> {
    let asked = Instant::now();
    let Some(current) = bounded(api.get_opt(&config.name)).await? else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(config.name.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(spec(config, None)),
        };
        return written(
            bounded(api.create(&PostParams::default(), &lease)).await,
            asked,
            seen,
            told,
        );
    };
    let changed = seen
        .as_ref()
        .is_none_or(|s| s.lease.metadata.resource_version != current.metadata.resource_version);
    if changed {
        *seen = Some(Seen {
            lease: current.clone(),
            since: asked,
        });
    }
    let holder = current
        .spec
        .as_ref()
        .and_then(|s| s.holder_identity.as_deref())
        .unwrap_or_default();
    let ours = holder == config.identity;
    let free = holder.is_empty() || seen.as_ref().is_some_and(|s| s.since.elapsed() > DURATION);
    if !ours && !free {
        set(told, Leadership::Following);
        return Ok(());
    }
    let mut lease = current;
    lease.spec = Some(spec(config, lease.spec.as_ref()));
    // The resource version in its metadata makes this write conditional.
    let result = bounded(api.replace(&config.name, &PostParams::default(), &lease)).await;
    written(result, asked, seen, told)
}

/// A renewed or taken lease counts from the moment before the write was sent: the others count from when they see it, which is later.
fn written(
    result: kube::Result<Lease>,
    asked: Instant,
    seen: &mut Option<Seen>,
    told: &watch::Sender<Leadership>,
) -> kube::Result<()> {
    match result {
        Ok(lease) => {
            let transitions = lease
                .spec
                .as_ref()
                .and_then(|s| s.lease_transitions)
                .unwrap_or(0);
            let epoch = u64::try_from(transitions).unwrap_or(0);
            *seen = Some(Seen {
                lease,
                since: asked,
            });
            set(
                told,
                Leadership::Leading {
                    epoch,
                    until: asked + DURATION,
                },
            );
            Ok(())
        }
        // Another replica was faster.
        Err(kube::Error::Api(status))
            if [reason::CONFLICT, reason::ALREADY_EXISTS].contains(&status.reason.as_str()) =>
        {
            set(told, Leadership::Following);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn spec(config: &Config, before: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    let ours = before.is_some_and(|b| b.holder_identity.as_deref() == Some(&config.identity));
    let transitions = before.and_then(|b| b.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if ours {
            before.and_then(|b| b.acquire_time.clone())
        } else {
            Some(now.clone())
        },
        renew_time: Some(now),
        lease_transitions: Some(if ours {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..LeaseSpec::default()
    }
}

/// Gives the lease up, if it is ours.
async fn vacate(
    api: &Api<Lease>,
    config: &Config,
    seen: Option<Seen>,
    told: &watch::Sender<Leadership>,
) {
    let led = told.borrow().epoch(Instant::now()).is_some();
    set(told, Leadership::Following);
    let Some(mut lease) = seen.map(|s| s.lease).filter(|_| led) else {
        return;
    };
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = None;
    }
    match bounded(api.replace(&config.name, &PostParams::default(), &lease)).await {
        Ok(_) => tracing::info!(lease = config.name, "lease given up"),
        Err(error) => {
            tracing::warn!(lease = config.name, %error, "lease not given up, it will run out")
        }
    }
}

/// After an error: a lease that has run out is not ours any more, one that has not still is.
fn expire(told: &watch::Sender<Leadership>) {
    if told.borrow().epoch(Instant::now()).is_none() {
        set(told, Leadership::Following);
    }
}

fn set(told: &watch::Sender<Leadership>, new: Leadership) {
    told.send_if_modified(|old| {
        let leads = |l: &Leadership| matches!(l, Leadership::Leading { .. });
        if leads(old) != leads(&new) {
            tracing::info!(leader = leads(&new), "leadership changed");
        }
        let changed = *old != new;
        *old = new;
        changed
    });
}

async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(kube::Error::Service("no answer from the API server".into())))
}
