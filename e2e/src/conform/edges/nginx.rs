//! nginx as a reverse proxy with a server for each row.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result};

use crate::servers::Proxy;

/// Starts one that listens on each port for the pod beside it. As it is set up by default, but that it streams requests, as Ebb does, and speaks
/// HTTP/1.1 to pods, with the client's Host.
pub(super) fn start(folder: &Path, servers: &[(u16, SocketAddr)]) -> Result<Proxy> {
    let file = folder.join("nginx.conf");
    let server = |(port, pod): &(u16, SocketAddr)| {
        format!(
            "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{pod}; proxy_http_version 1.1;
             proxy_request_buffering off; proxy_set_header Connection ''; proxy_set_header Host $http_host; }} }}\n"
        )
    };
    let servers_text: String = servers.iter().map(server).collect();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; error_log stderr crit; pid nginx.pid;
         events {{ worker_connections 1024; }}
         http {{
           access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
           {servers_text}
         }}"
    );
    fs::write(&file, text)?;
    let (port, _) = servers.last().context("there are no rows")?;
    Proxy::start("nginx", [*port; 2], None, "nginx", |command| {
        command.arg("-p").arg(folder).arg("-c").arg(&file);
    })
}
