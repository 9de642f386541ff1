//! The proxies as processes, and the CPU time that they have taken.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use crds::{
    control::{Protocol, Route},
    names::FunctionKey,
};
use tokio::process::{Child, Command};

use crate::{
    bench::proxy::{
        OTHER_CORE, backend,
        control::{self, Control},
    },
    cluster::{Layout, Progress, images, packages, shell},
    scene::eventually,
};

pub(in crate::bench) const TOKEN: &str = "bench";

/// What is measured, and what stands behind it.
pub(in crate::bench) struct Servers {
    /// nginx, Ebb, haproxy, and perhaps another build of Ebb.
    pub(in crate::bench) proxies: Vec<Proxy>,
    pub(in crate::bench) backend: SocketAddr,
    _controls: Vec<Control>,
}

/// A proxy in one process.
pub(in crate::bench) struct Proxy {
    pub(in crate::bench) name: &'static str,
    pub(in crate::bench) address: SocketAddr,
    /// Where it takes gRPC.
    pub(in crate::bench) grpc: SocketAddr,
    process: Child,
}

impl Proxy {
    /// Starts a program on one core; it ends with this.
    fn start(
        name: &'static str,
        [port, grpc]: [u16; 2],
        core: usize,
        program: impl AsRef<std::ffi::OsStr>,
        configure: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let mut command = shell::command("taskset");
        command
            .args(["--cpu-list", &core.to_string()])
            .arg(program)
            .stdout(Stdio::null());
        configure(&mut command);
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

    /// Memory that it has now, in bytes.
    pub(in crate::bench) fn memory(&self) -> Result<u64> {
        let pid = self.process.id();
        let pid = pid.with_context(|| format!("{} has ended", self.name))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.context("the kernel does not tell VmRSS")? << 10)
    }

    /// CPU time of all its threads so far.
    pub(in crate::bench) fn cpu(&self) -> Result<Duration> {
        let pid = self
            .process
            .id()
            .with_context(|| format!("{} has ended", self.name))?;
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

impl Servers {
    /// Starts all of them on `core`, with the activator `beside` if there is one.
    pub(in crate::bench) async fn start(core: usize, beside: Option<&Path>) -> Result<Self> {
        let progress = Progress::shown();
        packages::ensure_also(
            &progress,
            &[("nginx", "nginx-light"), ("haproxy", "haproxy")],
        )
        .await?;
        let activator = progress
            .step("release binary", images::build_activator())
            .await?;
        let folder = Layout::of_checkout()?.checkout().join("target/bench");
        fs::create_dir_all(&folder)?;
        let backend = backend::start(OTHER_CORE)?;
        let backends = [backend, backend::start_grpc(OTHER_CORE)?];
        let nginx = nginx(&folder, backends, core)?;
        let haproxy = haproxy(&folder, backends, core)?;
        let (ebb, control) = ebb(&folder, &activator, backends, core).await?;
        for proxy in [&nginx, &haproxy] {
            accepts(proxy.address, proxy.name).await?;
        }
        let (mut proxies, mut controls) = (vec![nginx, ebb, haproxy], vec![control]);
        if let Some(beside) = beside {
            let (mut other, control) = self::ebb(&folder, beside, backends, core).await?;
            other.name = "other";
            proxies.push(other);
            controls.push(control);
        }
        Ok(Self {
            proxies,
            backend,
            _controls: controls,
        })
    }
}

/// Upstream keep-alive on, logs off, and the headers that Ebb adds, too.
fn nginx(folder: &Path, [backend, calls]: [SocketAddr; 2], core: usize) -> Result<Proxy> {
    let (port, grpc) = (free_port()?, free_port()?);
    let folder = folder.join("nginx");
    fs::create_dir_all(&folder)?;
    let file = folder.join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; worker_processes 1; error_log stderr crit; pid nginx.pid;
         events {{ worker_connections 8192; }}
         http {{
           access_log off; keepalive_requests 1000000000; client_max_body_size 0;
           client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
           upstream backend {{ server {backend}; keepalive 256; keepalive_requests 1000000000; }}
           server {{
             listen 127.0.0.1:{port} backlog=4096;
             location / {{
               proxy_pass http://backend; proxy_http_version 1.1; proxy_request_buffering off; proxy_max_temp_file_size 0;
               proxy_set_header Connection ''; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
               proxy_set_header X-Forwarded-Proto http; proxy_set_header X-Forwarded-Host $http_host;
             }}
           }}
           upstream calls {{ server {calls}; keepalive 256; keepalive_requests 1000000000; }}
           server {{ listen 127.0.0.1:{grpc} http2 backlog=4096; location / {{ grpc_pass grpc://calls; }} }}
         }}"
    );
    fs::write(&file, text)?;
    Proxy::start("nginx", [port, grpc], core, "nginx", |command| {
        command.arg("-p").arg(&folder).arg("-c").arg(&file);
    })
}

fn haproxy(folder: &Path, [backend, calls]: [SocketAddr; 2], core: usize) -> Result<Proxy> {
    let (port, grpc) = (free_port()?, free_port()?);
    let file = folder.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 1\n maxconn 8192\ndefaults\n mode http\n timeout client 60s\n timeout server 60s\n timeout connect 5s\n option forwardfor\n http-reuse always\n\
         frontend in\n bind 127.0.0.1:{port} backlog 4096\n default_backend out\nbackend out\n server one {backend} pool-max-conn 512\n\
         frontend grpc\n bind 127.0.0.1:{grpc} proto h2 backlog 4096\n default_backend calls\nbackend calls\n server one {calls} proto h2\n"
    );
    fs::write(&file, text)?;
    Proxy::start("haproxy", [port, grpc], core, "haproxy", |command| {
        command.arg("-db").arg("-q").arg("-f").arg(&file);
    })
}

async fn ebb(
    folder: &Path,
    activator: &Path,
    [backend, calls]: [SocketAddr; 2],
    core: usize,
) -> Result<(Proxy, Control)> {
    let mut ports = function_ports(IpAddr::from([127, 0, 0, 1]));
    let (port, grpc) = ports
        .next()
        .zip(ports.next())
        .context("no ports are free")?;
    let ebb = Ebb::start(folder, activator, core, [port, grpc], &[]).await?;
    let key = |name| FunctionKey::new("shop", name);
    let routes = vec![
        control::route(key("bench"), port),
        control::route(key("calls"), grpc),
    ];
    let serving = |route: &Route| match route.port == port {
        true => control::pods(&route.function, Some(backend)),
        false => control::speaking(&route.function, Some(calls), Protocol::H2c),
    };
    let control = Control::open(ebb.control, TOKEN, routes, serving).await?;
    Ok((ebb.proxy, control))
}

/// An activator that knows nothing yet.
pub(in crate::bench) struct Ebb {
    pub(in crate::bench) proxy: Proxy,
    pub(in crate::bench) control: SocketAddr,
    pub(in crate::bench) admin: SocketAddr,
}

impl Ebb {
    /// Starts one, with `flags` beside those that it needs. Functions' ports are at 127.0.0.1 unless these say otherwise.
    pub(in crate::bench) async fn start(
        folder: &Path,
        activator: &Path,
        core: usize,
        ports: [u16; 2],
        flags: &[String],
    ) -> Result<Self> {
        let token = folder.join("token");
        fs::write(&token, TOKEN)?;
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (control, admin) = (local(free_port()?), local(free_port()?));
        let proxy = Proxy::start("ebb", ports, core, activator, |command| {
            command
                .args(["--gateway-listen=127.0.0.1:0", "--pod-name=bench"])
                .arg(format!("--control-listen={control}"))
                .arg(format!("--admin-listen={admin}"))
                .arg(format!("--control-token-file={}", token.display()))
                .args(flags)
                .stderr(Stdio::null());
            if !flags
                .iter()
                .any(|flag| flag.starts_with("--function-listen-ip"))
            {
                command.arg("--function-listen-ip=127.0.0.1");
            }
        })?;
        accepts(control, "ebb").await?;
        Ok(Self {
            proxy,
            control,
            admin,
        })
    }
}

/// Free ports from the range of Functions, which the kernel does not hand out.
pub(in crate::bench) fn function_ports(ip: IpAddr) -> impl Iterator<Item = u16> {
    let range = crds::names::FUNCTION_PORT_FIRST..=crds::names::FUNCTION_PORT_LAST;
    range.filter(move |port| TcpListener::bind((ip, *port)).is_ok())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn accepts(address: SocketAddr, name: &str) -> Result<()> {
    let what = format!("{name} listens on {address}");
    let accepts = async || Ok(tokio::net::TcpStream::connect(address).await.ok());
    eventually(Duration::from_secs(10), &what, accepts)
        .await
        .map(drop)
}
