//! Proxies as processes of this machine: Ebb's activator and those that it is compared with, and what they have taken.

use std::{
    ffi::OsStr,
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    ops::Range,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use crds::names::{FUNCTION_PORT_FIRST, FUNCTION_PORT_LAST};
use tokio::process::{Child, Command};

use crate::{cluster::shell, scene::eventually};

/// What an operator shows to an activator of [`Ebb`].
pub(crate) const TOKEN: &str = "bench";

/// A proxy in one process.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Where it takes gRPC.
    pub(crate) grpc: SocketAddr,
    process: Child,
}

impl Proxy {
    /// Starts a program, on one core if there is one to be; it ends with this.
    pub(crate) fn start(
        name: &'static str,
        [port, grpc]: [u16; 2],
        core: Option<usize>,
        program: impl AsRef<OsStr>,
        configure: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let mut command = match core {
            None => shell::command(program),
            Some(core) => {
                let mut command = shell::command("taskset");
                command.args(["--cpu-list", &core.to_string()]).arg(program);
                command
            }
        };
        configure(command.stdout(Stdio::null()));
        let process = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name,
            address: ([127, 0, 0, 1], port).into(),
            grpc: ([127, 0, 0, 1], grpc).into(),
            process,
        })
    }

    /// Ends it, and waits until it is gone.
    pub(crate) async fn end(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Result<u32> {
        let pid = self.process.id();
        pid.with_context(|| format!("{} has ended", self.name))
    }

    /// Memory that it has now, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let pid = self.pid()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.context("the kernel does not tell VmRSS")? << 10)
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let pid = self.pid()?;
        let mut total = Duration::ZERO;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let spent = text
                .split_whitespace()
                .next()
                .context("schedstat is empty")?;
            total += Duration::from_nanos(spent.parse()?);
        }
        Ok(total)
    }
}

/// An activator that knows nothing yet.
pub(crate) struct Ebb {
    pub(crate) proxy: Proxy,
    /// Where the Host chooses the Function.
    pub(crate) gateway: SocketAddr,
    pub(crate) control: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Ebb {
    /// Starts one, with `flags` beside those that it needs. Functions' ports are at 127.0.0.1 unless these say otherwise.
    pub(crate) async fn start(
        folder: &Path,
        activator: &Path,
        core: Option<usize>,
        ports: [u16; 2],
        flags: &[String],
    ) -> Result<Self> {
        let token = folder.join("token");
        fs::write(&token, TOKEN)?;
        let log = folder.join("ebb.log");
        let said = fs::File::create(&log)?;
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let [gateway, control, admin] = [
            local(free_port()?),
            local(free_port()?),
            local(free_port()?),
        ];
        let mut proxy = Proxy::start("ebb", ports, core, activator, |command| {
            command
                .arg("--pod-name=bench")
                .arg(format!("--gateway-listen={gateway}"))
                .arg(format!("--control-listen={control}"))
                .arg(format!("--admin-listen={admin}"))
                .arg(format!("--control-token-file={}", token.display()))
                .args(flags)
                .stderr(said);
            if !flags
                .iter()
                .any(|flag| flag.starts_with("--function-listen-ip"))
            {
                command.arg("--function-listen-ip=127.0.0.1");
            }
        })?;
        if let Err(error) = accepts(control, "ebb").await {
            let ended = proxy.process.try_wait()?;
            let said = fs::read_to_string(&log)?;
            return Err(error.context(format!("ebb ended: {ended:?}; it said: {said}")));
        }
        Ok(Self {
            proxy,
            gateway,
            control,
            admin,
        })
    }
}

/// Free ports from the range of Functions, which the kernel does not hand out.
pub(crate) fn function_ports(ip: IpAddr) -> impl Iterator<Item = u16> {
    let range = FUNCTION_PORT_FIRST..=FUNCTION_PORT_LAST;
    range.filter(move |port| TcpListener::bind((ip, *port)).is_ok())
}

/// Ports below those of Functions, for programs that are told where to listen. The kernel hands out none of them, so nobody else gets one before the program
/// does.
const TOLD: Range<u16> = 10_000..FUNCTION_PORT_FIRST;

/// A free port; each one is given once.
pub(crate) fn free_port() -> Result<u16> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Processes that run side by side begin at different places.
    let first = (std::process::id() % 89) as u16 * 100;
    let count = TOLD.len() as u16;
    for _ in TOLD {
        let offset = first + GIVEN.fetch_add(1, Ordering::Relaxed) % count;
        let port = TOLD.start + offset % count;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {TOLD:?} is free")
}

/// Waits until something listens.
pub(crate) async fn accepts(address: SocketAddr, name: &str) -> Result<()> {
    let what = format!("{name} listens on {address}");
    let accepts = async || Ok(tokio::net::TcpStream::connect(address).await.ok());
    eventually(Duration::from_secs(10), &what, accepts)
        .await
        .map(drop)
}
