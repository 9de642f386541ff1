//! The proxies that are measured, configured alike, and what stands behind them.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result};
use crds::{
    control::{Protocol, Route},
    names::FunctionKey,
};

use crate::{
    bench::proxy::backend,
    cluster::{Layout, Progress, images, packages},
    control::{self, Control},
    servers::{Ebb, Proxy, TOKEN, accepts, free_port, function_ports},
};

/// What is measured, and what stands behind it.
pub(in crate::bench) struct Servers {
    /// nginx, Ebb, haproxy, and perhaps another build of Ebb.
    pub(in crate::bench) proxies: Vec<Proxy>,
    pub(in crate::bench) backend: SocketAddr,
    _controls: Vec<Control>,
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
        let activator = progress.step("binary", images::build_activator()).await?;
        let folder = Layout::of_checkout()?.checkout().join("target/bench");
        fs::create_dir_all(&folder)?;
        let backend = backend::start()?;
        let backends = [backend, backend::start_grpc()?];
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
    Proxy::start("nginx", [port, grpc], Some(core), "nginx", |command| {
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
    Proxy::start("haproxy", [port, grpc], Some(core), "haproxy", |command| {
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
    let ebb = Ebb::start(folder, activator, Some(core), [port, grpc], &[]).await?;
    let key = |name| FunctionKey::new("shop", name);
    let routes = vec![
        control::route(key("bench"), port),
        control::route(key("calls"), grpc),
    ];
    let serving = |route: &Route| match route.port == port {
        true => control::pods(&route.function, Some(backend)),
        false => control::speaking(&route.function, Some(calls), Protocol::H2c),
    };
    let control = Control::open(ebb.control, TOKEN, Some(1), routes, serving).await?;
    Ok((ebb.proxy, control))
}
