//! Finds activator pods and keeps a control stream to each.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, reflector, watcher},
};
use tokio::{sync::mpsc, task::AbortHandle};

use crate::{
    fleet::{
        Activator, Fleet, secure,
        session::{self, Target},
    },
    observe::watch::Patience,
    scaler::Message,
    shape::problem,
};

/// First and longest wait before a stream is opened again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Where activators are found and how they are spoken to.
#[derive(Clone, Debug)]
pub struct Config {
    /// Namespace of Ebb itself.
    pub namespace: String,
    /// Labels of activator pods.
    pub selector: String,
    /// Their control port.
    pub port: u16,
    /// File with the bearer token.
    pub token_file: PathBuf,
    /// File with their certificate, if they speak TLS.
    pub certificate_file: Option<PathBuf>,
}

/// Follows the activator pods for ever. `synced` is called when the first list is complete.
pub async fn run(
    client: Client,
    config: Config,
    fleet: Arc<Fleet>,
    scaler: mpsc::Sender<Message>,
    synced: impl FnOnce() + Send,
) {
    let api: Api<Pod> = Api::namespaced(client, &config.namespace);
    let (pods, writer) = reflector::store();
    let watch = watcher(api, watcher::Config::default().labels(&config.selector));
    let mut events = std::pin::pin!(watch.backoff(Patience::default()).reflect(writer));
    let mut synced = Some(synced);
    let mut streams: BTreeMap<String, AbortHandle> = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::InitDone) => {
                if let Some(synced) = synced.take() {
                    synced();
                }
            }
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "watch of activators interrupted");
                continue;
            }
        }
        let found: BTreeMap<String, Activator> =
            pods.state().iter().filter_map(|p| activator(p)).collect();
        keep_streams(&found, &mut streams, &config, &fleet, &scaler);
        fleet.set_activators(found);
        if scaler.send(Message::SessionsChanged).await.is_err() {
            return;
        }
    }
}

/// An activator pod that has an address and has not ended, with its UID. A pod that is being deleted still finishes requests, so its stream stays.
fn activator(pod: &Pod) -> Option<(String, Activator)> {
    let status = pod.status.as_ref()?;
    if !matches!(status.phase.as_deref(), Some("Running" | "Pending")) {
        return None;
    }
    let activator = Activator {
        name: pod.metadata.name.clone()?,
        address: status.pod_ip.as_deref()?.parse().ok()?,
        ready: problem::is_ready(pod) && pod.metadata.deletion_timestamp.is_none(),
    };
    Some((pod.metadata.uid.clone()?, activator))
}

fn keep_streams(
    found: &BTreeMap<String, Activator>,
    streams: &mut BTreeMap<String, AbortHandle>,
    config: &Config,
    fleet: &Arc<Fleet>,
    scaler: &mpsc::Sender<Message>,
) {
    streams.retain(|pod, stream| {
        let stays = found.contains_key(pod);
        if !stays {
            stream.abort();
        }
        stays
    });
    for (pod, activator) in found {
        streams.entry(pod.clone()).or_insert_with(|| {
            let address = SocketAddr::new(activator.address, config.port);
            let keep = keep_stream(
                pod.clone(),
                address,
                config.clone(),
                fleet.clone(),
                scaler.clone(),
            );
            tokio::spawn(keep).abort_handle()
        });
    }
}

/// Opens the stream to one activator again and again.
async fn keep_stream(
    pod: String,
    address: SocketAddr,
    config: Config,
    fleet: Arc<Fleet>,
    scaler: mpsc::Sender<Message>,
) {
    let mut wait = RETRY_FIRST;
    while !scaler.is_closed() {
        let opened = tokio::time::Instant::now();
        let ended = match target(&pod, address, &config) {
            Ok(target) => session::run(&target, &fleet, &scaler).await,
            Err(error) => Err(error),
        };
        if opened.elapsed() > RETRY_MAX {
            wait = RETRY_FIRST;
        }
        match ended {
            Ok(()) => tracing::info!(%address, "control stream ended"),
            Err(error) => {
                tracing::info!(%address, error = format!("{error:#}"), "no control stream")
            }
        }
        // Jitter, so that all operators do not come at once to an activator that restarts.
        tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// Whom to connect to, with token and certificate as the files have them now.
fn target(pod: &str, address: SocketAddr, config: &Config) -> anyhow::Result<Target> {
    let certificate = config.certificate_file.as_deref();
    Ok(Target {
        pod: pod.into(),
        address,
        token: session::read_token(&config.token_file)?,
        tls: certificate.map(secure::connector).transpose()?,
    })
}
