//! Ebb's operator.
//!
//! * [`observe`]: what is known of the cluster, fed by watches;
//! * [`shape`]: a Function's Deployments, Service, EndpointSlice and status;
//! * [`scaler`]: how many pods it has;
//! * [`fleet`]: the control streams to the activators;
//! * [`hosts`] and [`certificates`]: who has which host name, and with which certificate.
//!
//! Every replica observes and is connected to every activator; only the one that holds the lease writes, except that any replica may
//! raise a count from zero when the leader has not done so within a second.

pub mod args;
pub mod certificates;
pub mod events;
pub mod fleet;
pub mod generate;
pub mod hosts;
pub mod metrics;
pub mod observe;
pub mod pace;
pub mod queue;
pub mod scaler;
pub mod shape;

use std::sync::Arc;

use anyhow::Context as _;
use crds::{function::Function, names::LABEL_FUNCTION};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::Client;
use parking_lot::Mutex;
use prometheus::Registry;
use runtime::{
    admin,
    lease::{self, Leadership},
    readiness::{Guard, Readiness},
    shutdown,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    args::Run,
    certificates::Certificates,
    events::Events,
    fleet::{Fleet, discover},
    hosts::Hosts,
    metrics::Metrics,
    observe::{
        Index,
        kinds::{Change, Indexed},
        watch::Changed,
    },
    pace::{Pace, Statuses},
    queue::Queue,
    scaler::write::Writer,
    shape::{apply::Applier, ports::Ports, reconcile},
};

/// How long a change of a Function's state waits before the Function is reconciled, so that the changes of that time cost one reconcile. A
/// starting pod changes a dozen times in a quarter of a second, while the control plane is busy with starting it.
const STATE_DELAY: std::time::Duration = std::time::Duration::from_millis(250);

/// Runs the operator until a signal or until one of its parts fails.
///
/// # Errors
/// If the API server cannot be reached, an address cannot be listened on, or a part has failed.
pub async fn run(args: Run) -> anyhow::Result<()> {
    anyhow::ensure!(
        !args.gateway_tls || args.control_certificate_file.is_some(),
        "TLS for Functions needs --control-certificate-file: private keys must not be sent to activators in the clear"
    );
    let stop = shutdown::on_signal()?;
    let registry = Registry::new();
    let metrics = Arc::new(Metrics::new(&registry)?);
    let readiness = Readiness::default();
    let client = Client::try_default()
        .await
        .context("no way to the API server was found")?;
    let listener = TcpListener::bind(args.admin_listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.admin_listen))?;
    tokio::spawn(admin::serve(
        listener,
        readiness.clone(),
        registry,
        CancellationToken::new(),
    ));

    let (lead, led) = watch::channel(Leadership::default());
    let mut parts = Parts::new(&args, client.clone(), metrics, led);
    let mut tasks = JoinSet::new();
    parts.start_watches(&mut tasks, &readiness);
    if args.gateway_tls {
        parts.start_certificates(&mut tasks, &readiness);
    }
    parts.start_fleet(&mut tasks, &args, &readiness);
    // Deciding on half of what exists would take running Functions for new ones.
    wait_ready(&readiness, &stop).await;
    parts.start_deciding(&mut tasks, &args);
    let lease = lease::Config {
        namespace: args.namespace.clone(),
        name: args.lease.clone(),
        identity: args.pod_name.clone(),
    };
    let lease = tokio::spawn(lease::run(client, lease, lead, stop.clone()));
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = tasks.join_next() => Err(match ended {
            Ok(()) => anyhow::anyhow!("a part of the operator has ended"),
            Err(error) => anyhow::anyhow!("a part of the operator has failed: {error}"),
        }),
    };
    // Give the lease up before the process goes, so that another replica leads at once.
    stop.cancel();
    lease.await.context("the lease's task has failed")?;
    ended
}

async fn wait_ready(readiness: &Readiness, stop: &CancellationToken) {
    while !readiness.missing().is_empty() && !stop.is_cancelled() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Tells both queues of changes.
struct Hub {
    changed: Arc<Queue>,
    shape: Arc<Queue>,
}

impl Changed for Hub {
    fn changed(&self, key: &crds::names::FunctionKey, change: Change) {
        self.changed.add(key);
        match change {
            Change::Wish => self.shape.add(key),
            Change::State => self.shape.add_after(key, STATE_DELAY),
        }
    }
}

struct Parts {
    client: Client,
    scaler: scaler::Parts,
    inbox: Option<mpsc::Receiver<scaler::Message>>,
    outbox: mpsc::Sender<scaler::Message>,
    events: Option<mpsc::Receiver<(crds::names::FunctionKey, events::Event)>>,
}

impl Parts {
    fn new(
        args: &Run,
        client: Client,
        metrics: Arc<Metrics>,
        lead: watch::Receiver<Leadership>,
    ) -> Self {
        let (outbox, inbox) = mpsc::channel(scaler::INBOX);
        let (events, event_inbox) = Events::new();
        let scaler = scaler::Parts {
            index: Arc::new(Index::default()),
            fleet: Arc::new(Fleet::default()),
            changed: Arc::new(Queue::default()),
            shape: Arc::new(Queue::default()),
            writer: Writer::new(client.clone(), lead.clone()),
            lead,
            events,
            metrics,
            cluster_domain: args.cluster_domain.clone(),
            scaling: Arc::new(args.scaling()),
            contests: scaler::Contests::default(),
            hosts: Arc::new(Mutex::new(Hosts::new(&args.cluster_domain))),
            certificates: Arc::new(Certificates::new(args.gateway_tls)),
        };
        Self {
            client,
            scaler,
            inbox: Some(inbox),
            outbox,
            events: Some(event_inbox),
        }
    }

    fn start_watches(&self, tasks: &mut JoinSet<()>, readiness: &Readiness) {
        self.watch::<Function>(tasks, readiness, None);
        self.watch::<Deployment>(tasks, readiness, Some(LABEL_FUNCTION));
        self.watch::<Service>(tasks, readiness, Some(LABEL_FUNCTION));
        self.watch::<EndpointSlice>(tasks, readiness, Some(LABEL_FUNCTION));
        self.watch::<Pod>(tasks, readiness, Some(LABEL_FUNCTION));
    }

    fn watch<K: Indexed>(
        &self,
        tasks: &mut JoinSet<()>,
        readiness: &Readiness,
        selector: Option<&'static str>,
    ) {
        let (client, index) = (self.client.clone(), self.scaler.index.clone());
        let (hub, guard) = (self.hub(), readiness.guard(K::NAME));
        tasks.spawn(async move {
            observe::watch::run::<K>(client, selector, index, hub, || drop(guard)).await;
        });
    }

    fn hub(&self) -> Arc<Hub> {
        Arc::new(Hub {
            changed: self.scaler.changed.clone(),
            shape: self.scaler.shape.clone(),
        })
    }

    /// Reads Secrets as soon as it is known which ones Functions name. Nothing is decided before: activators would take the
    /// certificates that have not been read for ones that are not wanted.
    fn start_certificates(&self, tasks: &mut JoinSet<()>, readiness: &Readiness) {
        let (client, index) = (self.client.clone(), self.scaler.index.clone());
        let (hub, certificates) = (self.hub(), self.scaler.certificates.clone());
        let (guard, functions) = (readiness.guard("secrets"), readiness.clone());
        tasks.spawn(async move {
            while functions.missing().contains(&Function::NAME) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            for (key, function) in index.map(|key, e| Some((key.clone(), e.function.clone()?))) {
                certificates.name(&key, function.secret_name());
            }
            certificates::watch::run(client, certificates, hub, || drop(guard)).await;
        });
    }

    fn start_fleet(&self, tasks: &mut JoinSet<()>, args: &Run, readiness: &Readiness) {
        let config = discover::Config {
            namespace: args.namespace.clone(),
            selector: args.activator_selector.clone(),
            port: args.activator_control_port,
            token_file: args.control_token_file.clone(),
            certificate_file: args.control_certificate_file.clone(),
        };
        let (client, fleet, outbox) = (
            self.client.clone(),
            self.scaler.fleet.clone(),
            self.outbox.clone(),
        );
        let guard: Guard = readiness.guard("activators");
        tasks.spawn(discover::run(client, config, fleet, outbox, || drop(guard)));
    }

    fn start_deciding(&mut self, tasks: &mut JoinSet<()>, args: &Run) {
        if let Some(inbox) = self.inbox.take() {
            tasks.spawn(scaler::run(self.scaler.clone(), inbox));
        }
        if let Some(inbox) = self.events.take() {
            tasks.spawn(events::run(
                self.client.clone(),
                args.pod_name.clone(),
                self.scaler.index.clone(),
                Pace::new(Instant::now()),
                inbox,
            ));
        }
        let context = Arc::new(reconcile::Context {
            index: self.scaler.index.clone(),
            fleet: self.scaler.fleet.clone(),
            queue: self.scaler.shape.clone(),
            lead: self.scaler.lead.clone(),
            client: self.client.clone(),
            applier: Applier::new(self.client.clone()),
            ports: Ports::default(),
            events: self.scaler.events.clone(),
            metrics: self.scaler.metrics.clone(),
            cluster_domain: args.cluster_domain.clone(),
            statuses: Statuses::new(Instant::now()),
            scaling: self.scaler.scaling.clone(),
            contests: self.scaler.contests.clone(),
            hosts: self.scaler.hosts.clone(),
            certificates: self.scaler.certificates.clone(),
            failures: parking_lot::Mutex::default(),
        });
        let told = context.clone();
        tasks.spawn(async move { told.statuses.run(&told.queue).await });
        for _ in 0..reconcile::WORKERS {
            tasks.spawn(reconcile::work(context.clone()));
        }
    }
}
