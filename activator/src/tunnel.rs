//! Connections that change their protocol: WebSocket and other upgrades of HTTP/1.1.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional},
    net::TcpStream,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::Pending,
    body::Flight,
    fields::Fields,
    metrics::{Metrics, Raised},
};

/// After so long without any bytes the kernel asks whether the client still lives: an upgraded connection has no timeout of its own.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(30);

/// A client's wish for another protocol.
pub(crate) struct Upgrade {
    client: OnUpgrade,
    protocol: HeaderValue,
}

impl Upgrade {
    /// The wish of a request that has these `fields`, if it has one that can be fulfilled. An upgrade to HTTP/2 is left out: it is a hop's own
    /// matter.
    pub(crate) fn of(request: &mut Request<Incoming>, fields: Fields) -> Option<Self> {
        if !fields.have(Fields::UPGRADE)
            || request.version() != Version::HTTP_11
            || !request.body().is_end_stream()
        {
            return None;
        }
        let headers = request.headers();
        let protocol = headers.get(header::UPGRADE)?.clone();
        if !asks_for_upgrade(headers) || protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
            return None;
        }
        let client = hyper::upgrade::on(request);
        Some(Self { client, protocol })
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

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let is_upgrade = |part: &[u8]| part.trim_ascii().eq_ignore_ascii_case(b"upgrade");
    let mut values = headers.get_all(header::CONNECTION).iter();
    values.any(|value| value.as_bytes().split(|b| *b == b',').any(is_upgrade))
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

    /// Carries bytes both ways until one side ends; the pod has `begun` already. `flight` is what the request occupies: the pod counts as busy for as long. `line` is written
    /// at the end.
    pub(crate) fn open(
        &self,
        upgrade: Upgrade,
        (begun, mut pod): (Bytes, TcpStream),
        flight: Option<Flight>,
        line: Pending,
    ) {
        let (force, metrics) = (self.force.clone(), Arc::clone(&self.metrics));
        self.tasks.spawn(async move {
            let _open = Raised::new(&metrics.upgraded);
            let carried = async {
                let mut client = TokioIo::new(upgrade.client.await?);
                client.write_all(&begun).await?;
                client.flush().await?;
                let count = begun.len() as u64;
                // The buffer that it was read into.
                drop(begun);
                let (_, sent) = copy_bidirectional(&mut client, &mut pod).await?;
                Ok::<u64, Box<dyn std::error::Error + Send + Sync>>(sent + count)
            };
            let sent = match force.run_until_cancelled(carried).await {
                Some(Ok(sent)) => Some(sent),
                Some(Err(error)) => {
                    tracing::debug!(%error, "upgraded connection ended");
                    None
                }
                None => None,
            };
            if let Some(line) = line {
                line.carried(sent);
            }
            if let Some(flight) = flight {
                flight.end(false, Instant::now());
            }
        });
    }
}

/// Has the kernel notice a client that is gone without a word.
pub(crate) fn keep_alive(stream: &TcpStream) {
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&probes) {
        tracing::debug!(%error, "no keepalive for an upgraded connection");
    }
}
