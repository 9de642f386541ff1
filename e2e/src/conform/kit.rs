//! What all parts need: programs, ports, and activators that are told of Functions.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crds::{
    control::{Protocol, Route, ToActivator},
    names::FunctionKey,
};
use parking_lot::Mutex;
use tokio::{process::Command, time::timeout};

use crate::{
    cluster::{Layout, Progress, images, modules::Module, packages, shell},
    control::{Control, route, speaking},
    servers::{Ebb, TOKEN, accepts, free_port, function_ports},
};

/// The Go packages of the peers; each makes a program of its last name.
const PACKAGES: [&str; 4] = [
    "./websocket",
    "github.com/summerwind/h2spec/cmd/h2spec",
    "google.golang.org/grpc/interop/client",
    "google.golang.org/grpc/interop/server",
];

/// Ports for all parts together.
const PORTS: usize = 500;

/// How long anything that must happen may take. Far more than it needs, so that a busy machine fails no test.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// Programs and ports.
pub(super) struct Kit {
    activator: PathBuf,
    peers: PathBuf,
    folder: PathBuf,
    ports: Mutex<Vec<u16>>,
}

impl Kit {
    /// Builds and installs what is missing.
    pub(super) async fn prepare(progress: &Progress) -> Result<Self> {
        packages::ensure_also(progress, &[("nginx", "nginx-light")]).await?;
        let layout = Layout::of_checkout()?;
        let peers = Module::of(&layout, "peers")?;
        let says = "building the peers of the conformance tests from Go modules; about two minutes the first time";
        let build = async |into: &std::path::Path| peers.compile(into, "-s -w", &PACKAGES).await;
        peers.ensure(progress, says, build).await?;
        // With the others, as the cluster's images have it, so that it is built once.
        let binaries = progress
            .step("release binaries", images::build_binaries())
            .await?;
        let ports = function_ports(IpAddr::from([127, 0, 0, 1])).take(PORTS);
        Ok(Self {
            activator: binaries.activator,
            peers: peers.folder,
            folder: layout.checkout().join("target/conform"),
            ports: Mutex::new(ports.collect()),
        })
    }

    /// A port that nobody else gets.
    pub(super) fn port(&self) -> Result<u16> {
        self.ports.lock().pop().context("too few ports are free")
    }

    /// A folder of a part's own.
    pub(super) fn folder(&self, part: &str) -> Result<PathBuf> {
        let folder = self.folder.join(part);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// A command of one of the peers, whose output is kept.
    pub(super) fn peer(&self, name: &str) -> Command {
        let mut command = shell::command(self.peers.join(name));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a server of the peers, which ends with what is returned, and waits until it listens.
    pub(super) async fn serve(
        &self,
        server: Server,
    ) -> Result<(SocketAddr, tokio::process::Child)> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut command = shell::command(self.peers.join(server.program));
        (server.listen)(&mut command, address);
        // Nobody reads what it says.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command
            .spawn()
            .with_context(|| format!("cannot start {}", server.program))?;
        accepts(address, server.program).await?;
        Ok((address, process))
    }

    /// Starts an activator that knows these Functions, with the pods that `pods` says.
    pub(super) async fn activator(
        &self,
        part: &str,
        routes: Vec<Route>,
        pods: impl Fn(&Route) -> ToActivator,
    ) -> Result<(Ebb, Control)> {
        let folder = self.folder(part)?;
        let ports = [routes.first().context("no Function is told of")?.port; 2];
        let ebb = Ebb::start(&folder, &self.activator, None, ports, &[]).await?;
        let control = Control::open(ebb.control, TOKEN, Some(1), routes, pods).await?;
        Ok((ebb, control))
    }
}

/// How a server of the peers is started.
#[derive(Clone, Copy)]
pub(super) struct Server {
    pub(super) program: &'static str,
    pub(super) listen: fn(&mut Command, SocketAddr),
    pub(super) protocol: Protocol,
}

/// An activator with Functions of one kind of server: one that runs, and some at zero.
pub(super) struct Stage<'a> {
    kit: &'a Kit,
    server: Server,
    control: Control,
    zero: Vec<FunctionKey>,
    /// Where the one that runs is called.
    pub(super) port: u16,
    ports: Vec<u16>,
    _processes: (Ebb, tokio::process::Child),
}

impl<'a> Stage<'a> {
    /// Opens one, with so many Functions at zero.
    pub(super) async fn open(
        kit: &'a Kit,
        part: &str,
        server: Server,
        zero: usize,
    ) -> Result<Self> {
        let (address, process) = kit.serve(server).await?;
        let running = FunctionKey::new("conform", part);
        let zero: Vec<FunctionKey> = (0..zero)
            .map(|number| FunctionKey::new("conform", format!("{part}-{number}")))
            .collect();
        let mut routes = vec![route(running.clone(), kit.port()?)];
        for key in &zero {
            routes.push(route(key.clone(), kit.port()?));
        }
        let ports: Vec<u16> = routes.iter().map(|route| route.port).collect();
        let pods = |route: &Route| {
            let pod = (route.function == running).then_some(address);
            speaking(&route.function, pod, server.protocol)
        };
        let (ebb, control) = kit.activator(part, routes, pods).await?;
        Ok(Self {
            kit,
            server,
            control,
            zero,
            port: ports[0],
            ports: ports[1..].to_vec(),
            _processes: (ebb, process),
        })
    }

    /// Has a client call a Function at zero, which gets a pod after the activator has asked for one. `client` is made of the port.
    pub(super) async fn cold_start(
        &self,
        number: usize,
        client: impl FnOnce(u16) -> Command,
    ) -> Result<Output> {
        let key = &self.zero[number];
        let calling = client(self.ports[number]).spawn()?;
        let woken = timeout(SOON, self.control.woken(key)).await;
        woken.context("the activator asks for no pod")??;
        let (address, _process) = self.kit.serve(self.server).await?;
        let pods = speaking(key, Some(address), self.server.protocol);
        self.control.tell(pods)?;
        finish(calling).await
    }
}

/// Waits for a client's end.
pub(super) async fn finish(client: tokio::process::Child) -> Result<Output> {
    let output = timeout(SOON, client.wait_with_output()).await;
    Ok(output.with_context(|| format!("the client is not done within {SOON:?}"))??)
}

/// Fails with what the client said, unless it succeeded.
pub(super) fn succeeded(output: &Output) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        said.trim()
    );
    Ok(())
}
