//! The activator: a reverse proxy that holds requests while pods start.
//!
//! It never speaks to Kubernetes. What it serves, and where, operators tell it over control streams ([`crds::control`]); what it sees, it tells them.
//!
//! A request comes in through `serve`, is routed by `proxy`, waits in `hold` for a slot of its Function's `throttle::Gate`, is brought
//! to a pod by `exchange`, and occupies the slot until its answer's `body` has ended.

mod access;
mod answer;
mod args;
mod body;
mod carry;
mod client;
mod connection;
mod control;
mod cores;
mod exchange;
mod fields;
mod files;
mod follow;
mod function;
mod functions;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gather;
mod headers;
mod hold;
mod http1;
mod identity;
mod keeper;
mod memory;
mod metrics;
mod operators;
mod origin;
mod pod;
mod pool;
mod ports;
mod probe;
mod proxy;
mod sender;
mod serve;
mod stats;
mod timing;
mod tls;
mod tunnel;
mod turn;
mod veto;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use prometheus::Registry;
use runtime::{
    admin,
    readiness::Readiness,
    shutdown::{self, Drained},
    telemetry,
};
use throttle::{Budget, Most};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    access::Access, control::Control, cores::Cores, follow::Follower, functions::Functions,
    metrics::Metrics, operators::Operators, ports::Ports, proxy::Entry, proxy::Proxy,
    serve::Server, stats::Surges, tls::ControlFiles,
};
pub use crate::{
    args::Args,
    origin::{Network, Networks},
};

/// Runs the activator until a signal asks it to end, and then until its requests have ended.
///
/// # Errors
/// If it cannot start.
pub async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(&args.logging())?;
    memory::by_the_page();
    memory::give_back_apart().context("cannot start the thread that gives memory back")?;
    let asked = shutdown::on_signal()?;
    let activator = Activator::start(args)?;
    asked.cancelled().await;
    activator.shut_down().await;
    Ok(())
}

/// A running activator.
pub struct Activator {
    /// Where requests to all Functions arrive.
    pub gateway: SocketAddr,
    /// Where operators connect.
    pub control: SocketAddr,
    /// Where probes and metrics are.
    pub admin: SocketAddr,
    args: Args,
    readiness: Readiness,
    server: Arc<Server>,
    /// What serves requests indirectly, and therefore ends last: control streams, reports, the admin endpoint.
    background: TaskTracker,
    stop_background: CancellationToken,
    /// The threads that serve requests live as long as this.
    _cores: DropGuard,
}

impl Activator {
    /// Starts an activator. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// If a port cannot be opened.
    pub fn start(args: Args) -> anyhow::Result<Self> {
        let gateway = bind("gateway", args.gateway_listen)?;
        let control = bind("control", args.control_listen)?;
        let admin = bind("admin", args.admin_listen)?;
        let addresses = (
            gateway.local_addr()?,
            control.local_addr()?,
            admin.local_addr()?,
        );

        let registry = Registry::new();
        let metrics = Arc::new(Metrics::new(&registry)?);
        let readiness = Readiness::default();
        let operators = Arc::new(Operators::default());
        let surges = Arc::new(Surges::default());
        let functions = Arc::new(Functions::new(
            &args.pod_name,
            args.max_held_per_function,
            Arc::clone(&operators),
            Arc::clone(&metrics),
            Arc::clone(&surges),
        ));
        let limit = args.memory_limit_mib.map(|mib| mib << 20);
        let limit = limit.or_else(memory::limit);
        let budget = Budget::new(Most {
            count: args.max_held,
            bytes: args
                .held_memory_mib
                .map_or_else(|| memory::for_held(limit), |mib| mib << 20),
        });
        let access = Access::new(args.access_log);
        let proxy = Proxy::new(Arc::clone(&functions), Arc::clone(&metrics), budget, access);
        let pressure = Arc::clone(&proxy.pressure);
        let proxy = Arc::new(proxy);
        let stop_cores = CancellationToken::new();
        let cores = Cores::start(args.cores.unwrap_or_else(all_cores), &stop_cores)
            .context("cannot start the threads that serve requests")?;
        let server = Server::new(proxy, Arc::clone(&metrics), cores, &args);
        let server = Arc::new(server);
        let stop_background = CancellationToken::new();
        let ports = Ports::new(
            args.function_listen_ip,
            Arc::clone(&server),
            Arc::clone(&operators),
        );
        let control_streams = Arc::new(Control {
            follower: Follower::new(Arc::clone(&functions), ports, readiness.guard("control")),
            operators: Arc::clone(&operators),
            metrics,
            token_file: args.control_token_file.clone(),
            tls: control_files(&args),
            name: args.pod_name.clone(),
            stop: stop_background.clone(),
        });

        accept_gateway(&server, gateway)?;
        let background = TaskTracker::new();
        background.spawn(control::serve(control, control_streams));
        let (ready, stop) = (readiness.clone(), stop_background.clone());
        background.spawn(admin::serve(admin, ready, registry, stop));
        let reports = stats::run(functions, surges, operators);
        let memory = memory::watch(limit, pressure, Arc::clone(&server.metrics));
        let watching = async move { tokio::join!(reports, memory) };
        let stop = stop_background.clone();
        background.spawn(async move { stop.run_until_cancelled(watching).await });
        tracing::info!(
            gateway = %addresses.0,
            control = %addresses.1,
            admin = %addresses.2,
            "activator started"
        );
        Ok(Self {
            gateway: addresses.0,
            control: addresses.1,
            admin: addresses.2,
            args,
            readiness,
            server,
            background,
            stop_background,
            _cores: stop_cores.drop_guard(),
        })
    }

    /// Ends without losing a request: unready at once, but serving on while others still send here; then no new connections; then,
    /// when the last request has ended, the control streams, because until then pods may have to be woken.
    pub async fn shut_down(self) {
        // Never dropped: it does not become ready again.
        std::mem::forget(self.readiness.guard("shutting down"));
        self.server.proxy.leave();
        tokio::time::sleep(self.args.drain_delay).await;
        self.server.stop.cancel();
        self.server.listeners.close();
        self.server.listeners.wait().await;
        let (connections, force) = (&self.server.connections, &self.server.force);
        match shutdown::drain(connections, self.args.drain_timeout, force).await {
            Drained::Finished => tracing::info!("every request has ended"),
            Drained::Forced => tracing::warn!("requests were cut off at the drain timeout"),
        }
        self.stop_background.cancel();
        self.background.close();
        self.background.wait().await;
    }
}

fn control_files(args: &Args) -> Option<ControlFiles> {
    Some(ControlFiles {
        certificate: args.control_certificate_file.clone()?,
        key: args.control_key_file.clone()?,
    })
}

/// As many as this process may use, by its affinity and its cgroup.
fn all_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Has the shared port's connections accepted, by whichever thread does so.
fn accept_gateway(server: &Arc<Server>, gateway: TcpListener) -> anyhow::Result<()> {
    let gateway = gateway.into_std().context("cannot listen")?;
    let gateway = server.listener(gateway).context("cannot listen")?;
    let accepting = Arc::clone(server);
    server.accepts(async move {
        serve::accept(&gateway, &Entry::Gateway, &accepting).await;
    });
    Ok(())
}

fn bind(name: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    serve::bind(address).with_context(|| format!("cannot listen on {address} ({name})"))
}
