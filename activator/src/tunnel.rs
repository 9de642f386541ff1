//! Connections that change their protocol: WebSocket and other upgrades of HTTP/1.1.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::Pending,
    body::{Flight, Upload},
    carry::carry,
    client::Wire,
    fields::Fields,
    headers,
    metrics::{Metrics, Raised},
};

/// After so long without any bytes the kernel asks whether client and pod still live: an upgraded connection has no timeout of its own.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(30);

/// A client's wish for another protocol.
pub(crate) struct Upgrade {
    protocol: HeaderValue,
}

impl Upgrade {
    /// The wish of a request that has these `fields`, if it has one that can be fulfilled. An upgrade to HTTP/2 is left out: it is a hop's own
    /// matter.
    pub(crate) fn of(request: &Request<Upload>, fields: Fields) -> Option<Self> {
        if !fields.have(Fields::UPGRADE)
            || request.version() != Version::HTTP_11
            || !request.body().is_end_stream()
        {
            return None;
        }
        let headers = request.headers();
        let protocol = headers.get(header::UPGRADE)?.clone();
        let asked = headers::lists(headers, header::CONNECTION, b"upgrade");
        if !asked || protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
            return None;
        }
        Some(Self { protocol })
    }

    /// Puts the wish into the head that the pod gets.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) {
        set(headers, self.protocol.clone());
    }
}

/// Whether a pod's answer changes the protocol.
pub(crate) fn is_switch<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// Says in the head of an answer which protocol comes now.
pub(crate) fn set(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// A pod's side of a connection that changes its protocol.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) pod: TcpStream,
    /// What the pod has sent already.
    pub(crate) begun: Bytes,
    /// What the request occupies: the pod counts as busy for as long.
    pub(crate) flight: Option<Flight>,
    /// Written at the end.
    pub(crate) line: Pending,
}

impl Tunnel {
    /// Carries bytes both ways until both sides end; the client has `sent` some already. Returns how many the pod has sent.
    async fn carry(&mut self, client: &mut Wire, sent: Bytes) -> io::Result<u64> {
        let begun = std::mem::take(&mut self.begun);
        client.write_all(&begun).await?;
        client.flush().await?;
        self.pod.write_all(&sent).await?;
        let count = begun.len() as u64;
        // The buffers that they were read into.
        drop((begun, sent));
        Ok(carry(client, &mut self.pod).await? + count)
    }

    fn end(&mut self, sent: Option<u64>) {
        if let Some(line) = self.line.take() {
            line.carried(sent);
        }
        if let Some(flight) = self.flight.take() {
            flight.end(false, Instant::now());
        }
    }
}

/// A client may leave before it hears that the protocol changes.
impl Drop for Tunnel {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// The upgraded connections of this process.
pub(crate) struct Tunnels {
    /// Waited for before the process ends, like client connections.
    pub(crate) tasks: TaskTracker,
    /// Cuts them off.
    pub(crate) force: CancellationToken,
    metrics: Arc<Metrics>,
}

impl Tunnels {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            tasks: TaskTracker::new(),
            force: CancellationToken::new(),
            metrics,
        }
    }

    /// Carries bytes both ways until both sides end. The client's stream, and what it `sent` already.
    pub(crate) fn open(&self, (mut client, sent): (Wire, Bytes), mut tunnel: Box<Tunnel>) {
        let (force, metrics) = (self.force.clone(), Arc::clone(&self.metrics));
        client.keep_alive();
        keep_alive(&tunnel.pod);
        self.tasks.spawn(async move {
            let _open = Raised::new(&metrics.upgraded);
            let carried = tunnel.carry(&mut client, sent);
            let sent = match force.run_until_cancelled(carried).await {
                Some(Ok(sent)) => Some(sent),
                Some(Err(error)) => {
                    tracing::debug!(%error, "upgraded connection ended");
                    None
                }
                None => None,
            };
            tunnel.end(sent);
        });
    }
}

/// Has the kernel notice whoever is gone without a word.
pub(crate) fn keep_alive(stream: &TcpStream) {
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&probes) {
        tracing::debug!(%error, "no keepalive for an upgraded connection");
    }
}
