//! An activator with an operator and one Function, `shop/hello`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU16, AtomicU32, Ordering},
    time::Duration,
};

use activator::{Activator, Args};
use clap::Parser as _;
use crds::{
    control::{PodState, Route, ToActivator},
    names::{FUNCTION_PORT_FIRST, FunctionKey},
};

use super::{
    backend::Backend,
    client,
    operator::{Operator, TOKEN, bound},
    told::{self, Pods},
};

/// What a test happens in.
pub(crate) struct World {
    pub(crate) activator: Activator,
    pub(crate) operator: Operator,
    pub(crate) function: FunctionKey,
    pub(crate) route: Route,
    /// The Function's own port.
    pub(crate) address: SocketAddr,
}

/// Starts an activator with `flags` beside those that every test needs.
pub(crate) fn activator(flags: &[&str]) -> Activator {
    named("activator-0", IpAddr::from([127, 0, 0, 1]), flags)
}

/// The same with another name, its Functions' ports being at another address.
fn named(name: &str, functions: IpAddr, flags: &[&str]) -> Activator {
    let (name, functions) = (
        format!("--pod-name={name}"),
        format!("--function-listen-ip={functions}"),
    );
    let token_file = format!("--control-token-file={}", token_file().display());
    let common = [
        "activator",
        "--gateway-listen=127.0.0.1:0",
        "--control-listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        &functions,
        &name,
        &token_file,
    ];
    let mut args = Args::parse_from(common.iter().chain(flags));
    if !flags.iter().any(|flag| flag.starts_with("--drain-delay")) {
        args.drain_delay = Duration::ZERO;
    }
    Activator::start(args).unwrap()
}

pub(super) fn token_file() -> std::path::PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ebb-token-{}-{number}", std::process::id());
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    file
}

/// A port of the range that belongs to Functions, which nobody uses.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Test processes that run side by side begin at different places.
        let offset = (std::process::id() % 97) as u16 * 100 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FUNCTION_PORT_FIRST + offset % 12_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl World {
    /// An activator that knows a Function without pods.
    pub(crate) async fn new() -> Self {
        Self::with(&[], |_| ()).await
    }

    /// The same with flags, and with a changed route.
    pub(crate) async fn with(flags: &[&str], change: impl FnOnce(&mut Route)) -> Self {
        let mut route = told::route(&FunctionKey::new("shop", "hello"), free_port());
        change(&mut route);
        let address = ([127, 0, 0, 1], route.port).into();
        Self::of(activator(flags), route, address).await
    }

    /// Another activator, `activator-1`, that knows the same Function.
    pub(crate) async fn second(&self) -> Self {
        let ip = IpAddr::from([127, 0, 0, 2]);
        let activator = named("activator-1", ip, &[]);
        let route = self.route.clone();
        let address = (ip, route.port).into();
        Self::of(activator, route, address).await
    }

    async fn of(activator: Activator, route: Route, address: SocketAddr) -> Self {
        let mut operator = Operator::connect(activator.control).await;
        let function = route.function.clone();
        operator.tell(ToActivator::Route(route.clone())).await;
        operator.tell(told::pods(&function).frame()).await;
        operator.sync(Some(1)).await;
        operator.hears("the port is bound", bound).await;
        Self {
            activator,
            operator,
            function,
            route,
            address,
        }
    }

    /// No pods yet, to add to.
    pub(crate) fn pods(&self) -> Pods {
        told::pods(&self.function)
    }

    /// Tells the operator's picture of pods.
    pub(crate) async fn tell(&mut self, pods: Pods) {
        self.operator.tell(pods.frame()).await;
    }

    /// The value of a metric without labels, or with exactly `name` as it is written.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let answer = client::get(self.activator.admin, "/metrics").await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        text.lines().find_map(value).unwrap_or(0.0)
    }

    /// Waits until `name` is `value`.
    pub(crate) async fn metric_is(&self, name: &str, value: f64) {
        let what = format!("{name} is {value}");
        super::eventually(&what, async || {
            (self.metric(name).await == value).then_some(())
        })
        .await;
    }

    /// Waits until `count` requests are held.
    pub(crate) async fn held(&self, count: u32) {
        self.metric_is("ebb_activator_requests_held", f64::from(count))
            .await;
    }
}

/// The time after which nothing more is expected to happen. Only for showing that something does not.
pub(crate) const A_WHILE: Duration = Duration::from_millis(200);

/// A world with one serving pod.
pub(crate) async fn serving() -> (World, Backend) {
    let world = World::new().await;
    let backend = Backend::start("a");
    (serving_at(world, backend.address).await, backend)
}

pub(crate) async fn serving_at(mut world: World, address: SocketAddr) -> World {
    let pods = world.pods().pod("a", address, PodState::Serving);
    world.tell(pods).await;
    world
}
