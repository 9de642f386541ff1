//! What many at once do to an activator: requests that wait, Functions that sleep, clients that are rude. Needs no cluster.

mod apart;
mod fair;
mod held;
mod rude;
mod sleeping;
mod waiting;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crds::{control::Route, names::FunctionKey};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    bench::proxy::{OTHER_CORE, PROXY_CORE, backend, pin_to},
    client::Connection,
    cluster::{Layout, Progress, images},
    control::{Control, pods, route},
    scene::eventually,
    servers::{Ebb, TOKEN, function_ports},
};

pub(super) use fair::run as fair;
pub(super) use held::run as held;
pub(super) use rude::run as rude;
pub(super) use sleeping::run as sleeping;

/// How long anything that must happen may take.
const SOON: Duration = Duration::from_secs(60);

/// Connections that are left for others than those that a measurement is about.
const SPARE: u64 = 200;

/// An activator on one core, and a backend on the other, where the clients are.
struct Crowd {
    ebb: Ebb,
    control: Control,
    /// The operator's other replica.
    _other: Control,
    backend: SocketAddr,
    functions: Vec<(FunctionKey, SocketAddr)>,
}

/// Makes room for the connections of a measurement, and chooses its core. Returns how many connections an activator takes on this machine: a
/// quarter of the files that a process may have open.
fn prepare() -> Result<usize> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    pin_to(OTHER_CORE)?;
    Ok(usize::try_from(most / 4)?.saturating_sub(usize::try_from(SPARE)?))
}

impl Crowd {
    /// Starts an activator that knows `functions` without pods, on ports of `ip`.
    async fn start(ip: IpAddr, functions: Vec<FunctionKey>, flags: &[&str]) -> Result<Self> {
        let activator = images::build_activator();
        let activator = Progress::shown().step("binary", activator).await?;
        let folder = Layout::of_checkout()?.checkout().join("target/bench");
        fs::create_dir_all(&folder)?;
        let ports: Vec<u16> = function_ports(ip).take(functions.len()).collect();
        ensure!(
            ports.len() == functions.len(),
            "too few ports of {ip} are free"
        );
        let mut all: Vec<String> = flags.iter().map(ToString::to_string).collect();
        all.push(format!("--function-listen-ip={ip}"));
        let ebb = Ebb::start(&folder, &activator, Some(PROXY_CORE), [ports[0]; 2], &all).await?;
        let routes = functions.iter().zip(&ports);
        let routes: Vec<_> = routes
            .map(|(key, port)| route(key.clone(), *port))
            .collect();
        let tells = |epoch| {
            let asleep = |route: &Route| pods(&route.function, None);
            Control::open(ebb.control, TOKEN, epoch, routes.clone(), asleep)
        };
        // As installed: a leader, and another replica that tells the same.
        let (control, _other) = (tells(Some(1)).await?, tells(None).await?);
        let addresses = ports.into_iter().map(|port| SocketAddr::from((ip, port)));
        Ok(Self {
            ebb,
            control,
            _other,
            backend: backend::start()?,
            functions: functions.into_iter().zip(addresses).collect(),
        })
    }

    /// Where this Function is called.
    fn address(&self, function: usize) -> SocketAddr {
        self.functions[function].1
    }

    /// Gives a Function a pod, or takes it away.
    fn serve(&self, function: usize, serving: bool) -> Result<()> {
        let backend = serving.then_some(self.backend);
        self.control
            .tell(pods(&self.functions[function].0, backend))
    }

    /// A metric without labels.
    async fn metric(&self, name: &str) -> Result<f64> {
        let mut admin = Connection::open(self.ebb.admin, "admin").await?;
        let answer = admin.get("/metrics").await?;
        let text = answer.expect(200)?.text();
        let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        text.lines()
            .find_map(value)
            .with_context(|| format!("there is no metric {name}"))
    }

    /// Waits until so many requests wait.
    async fn held(&self, count: usize) -> Result<()> {
        self.reaches("ebb_activator_requests_held", count).await
    }

    /// Waits until a metric is so much.
    async fn reaches(&self, metric: &str, count: usize) -> Result<()> {
        eventually(SOON, &format!("{metric} is {count}"), async || {
            let value = self.metric(metric).await?;
            Ok((value == count as f64).then_some(()))
        })
        .await
    }
}
