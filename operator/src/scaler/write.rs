//! The scaler's writes: `spec.replicas` of revisions' Deployments, and nothing else.

use std::sync::Arc;

use crds::names::{FIELD_MANAGER_SCALE, FunctionKey};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use runtime::lease::Leadership;
use serde_json::json;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use crate::scaler::unit::{Write, counts::Failed};

/// Writes under way at once. The API server answers one in some 2 ms, so this is thousands a second, and when it is busy and takes 80 ms still
/// 600. Far below the 200 changes at once that an API server admits of all its clients by default.
const CONCURRENT: usize = 48;

/// Of these, raises of what runs already. The rest of the places are for starts from zero, so that they never queue behind the others.
const CONCURRENT_RAISES: usize = 8;

/// Of these, writes of lower counts, for which nobody waits. Functions that fall idle do so at the seconds at which activators report, so they come
/// many at once, and on a small API server each takes its time from a start.
const CONCURRENT_LOWERS: usize = 2;

/// Kubernetes deletes pods of a lower cost first; all others have 0.
const COST_GO_FIRST: &str = "-2147483648";

/// Writes counts.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    lead: watch::Receiver<Leadership>,
    places: Arc<Semaphore>,
    raises: Arc<Semaphore>,
    lowers: Arc<Semaphore>,
}

impl Writer {
    /// A writer over this client; `lead` says whether this replica leads.
    pub fn new(client: Client, lead: watch::Receiver<Leadership>) -> Self {
        Self {
            client,
            lead,
            places: Arc::new(Semaphore::new(CONCURRENT)),
            raises: Arc::new(Semaphore::new(CONCURRENT_RAISES)),
            lowers: Arc::new(Semaphore::new(CONCURRENT_LOWERS)),
        }
    }

    /// Writes a count; the answer is the version of the Deployment after it.
    ///
    /// # Errors
    /// Why it was not written. What a person should know of it is logged here; the caller only decides again.
    pub async fn write(&self, key: &FunctionKey, write: &Write) -> Result<String, Failed> {
        // The semaphores are never closed.
        let patient = match write.woken {
            Some(_) => None,
            None if write.to > write.from => Some(&self.raises),
            None => Some(&self.lowers),
        };
        let _patient = match patient {
            Some(places) => Some(places.acquire().await.map_err(|_| Failed::Error)?),
            None => None,
        };
        let _place = self.places.acquire().await.map_err(|_| Failed::Error)?;
        // Only now: waiting for a place may have taken longer than the lease lasts.
        if write.leader_only && self.lead.borrow().epoch(Instant::now()).is_none() {
            return Err(Failed::Deposed);
        }
        let (revision, from, to) = (&write.revision, write.from, write.to);
        match self.try_write(key, write).await {
            Ok(version) => {
                let (reason, note) = (write.reason, &write.note);
                // Only a start from zero has one.
                let after_wake_us = write.woken.map(|woken| woken.elapsed().as_micros() as u64);
                tracing::info!(function = %key, revision, from, to, reason, note, after_wake_us, "scaled");
                Ok(version)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                tracing::debug!(function = %key, revision, to, "the Deployment has changed meanwhile");
                Err(Failed::Conflict)
            }
            Err(error) => {
                tracing::warn!(function = %key, revision, to, %error, "scaling failed, will be tried again");
                Err(Failed::Error)
            }
        }
    }

    async fn try_write(&self, key: &FunctionKey, write: &Write) -> kube::Result<String> {
        self.mark_victims(key, &write.victims).await?;
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER_SCALE.into()),
            ..PatchParams::default()
        };
        // With the version that it was decided on: a count that somebody has changed meanwhile is decided anew.
        let version = write.version.as_deref();
        let patch = Patch::Merge(
            json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": write.to}}),
        );
        let name = &write.revision;
        let metadata = match write.to {
            // A `Scale` of no pods has no `replicas`, so by that way the scaler would no longer own the count and had to claim it with another write.
            0 => api.patch_metadata(name, &params, &patch).await?.metadata,
            _ => api.patch_scale(name, &params, &patch).await?.metadata,
        };
        Ok(metadata.resource_version.unwrap_or_default())
    }

    /// Makes Kubernetes choose the drained pods when it lowers the count.
    async fn mark_victims(&self, key: &FunctionKey, victims: &[String]) -> kube::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = Patch::Merge(
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": COST_GO_FIRST}}}),
        );
        for pod in victims {
            api.patch_metadata(pod, &PatchParams::default(), &patch)
                .await?;
        }
        Ok(())
    }
}
