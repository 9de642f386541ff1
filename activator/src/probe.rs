//! Finding out that a starting pod can take requests, within milliseconds of the moment when it can.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use crds::control::Readiness;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use throttle::{Probe, Told, Urgency};
use tokio::{net::TcpStream, time::timeout};

use crate::{function::Function, pod::Pod};

/// Pause after the first failed probe of a starting pod.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// The same for a pod that is said to be serving and has just refused a connection: an immediate success would send the
/// request into the next refusal.
const FIRST_PAUSE_SERVING: Duration = Duration::from_millis(10);

/// Longest pause while requests wait: what it adds to a cold start at worst, for 40 connection attempts a second.
const MAX_PAUSE: Duration = Duration::from_millis(25);

/// Longest pause while nobody waits for this pod.
const MAX_PAUSE_SUSPECT: Duration = Duration::from_millis(250);

/// How long the first probe waits for a connection. Packets to an address that is not set up yet are lost, and the kernel would repeat
/// a lost SYN only after a second.
const FIRST_PATIENCE: Duration = Duration::from_millis(100);

/// How long a probe waits at most, for a connection and for an answer; the kubelet's own default.
const MAX_PATIENCE: Duration = Duration::from_secs(1);

/// Probes a pod until it can take requests or nobody wants to know any more.
pub(crate) async fn run(function: Arc<Function>, mut probe: Probe<Arc<Pod>>) {
    let pod = Arc::clone(probe.payload());
    let mut pause = FIRST_PAUSE;
    let mut patience = FIRST_PATIENCE;
    if pod.told == Told::Serving {
        pause = FIRST_PAUSE_SERVING;
        tokio::time::sleep(pause).await;
    }
    while let Some(urgency) = probe.wanted() {
        if passes(&pod, patience).await {
            if probe.passed() {
                function.probed(&pod);
            }
            return;
        }
        tokio::time::sleep(pause).await;
        let longest = match urgency {
            Urgency::Awaited => MAX_PAUSE,
            Urgency::Suspect => MAX_PAUSE_SUSPECT,
        };
        pause = pause.mul_f64(1.25).min(longest);
        patience = patience.mul_f64(1.25).min(MAX_PATIENCE);
    }
}

/// Whether the pod can take requests now.
async fn passes(pod: &Pod, patience: Duration) -> bool {
    let connect = TcpStream::connect(pod.pool.address());
    let Ok(Ok(stream)) = timeout(patience, connect).await else {
        return false;
    };
    match &pod.readiness {
        Readiness::Connect | Readiness::Kubelet => {
            // The first request can use it.
            pod.pool.adopt(stream).await;
            true
        }
        Readiness::Http { path, headers } => {
            let answer = get(stream, pod, path, headers);
            matches!(timeout(MAX_PATIENCE, answer).await, Ok(Some(200..=399)))
        }
    }
}

/// The status of the pod's answer to a GET on this connection.
pub(crate) async fn get(
    stream: TcpStream,
    pod: &Pod,
    path: &str,
    headers: &[(String, String)],
) -> Option<u16> {
    // The kubelet accepts a path without its slash.
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut request = Request::get(format!("{slash}{path}"))
        .header(header::USER_AGENT, "kube-probe/ebb")
        .header(header::CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let named = |(name, _): &(String, String)| name.eq_ignore_ascii_case("host");
    if !headers.iter().any(named) {
        request = request.header(header::HOST, pod.pool.address().to_string());
    }
    let request = request.body(Empty::<Bytes>::new()).ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let mut response = pin!(sender.send_request(request));
    let mut connection = pin!(connection);
    // Polled together, so that giving up on the answer closes the connection.
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // It can end in the moment in which it has delivered the answer.
        _ = &mut connection => response.await,
    };
    Some(response.ok()?.status().as_u16())
}
