//! The scaler's writes: `spec.replicas` of revisions' Deployments, and nothing else.

use std::sync::Arc;

use crds::names::{FIELD_MANAGER_SCALE, FunctionKey};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::scaler::unit::Write;

/// Writes under way at once. The API server answers one in some 2 ms, so this is thousands a second; more would only open more connections.
const CONCURRENT: usize = 16;

/// Kubernetes deletes pods of a lower cost first; all others have 0.
const COST_GO_FIRST: &str = "-2147483648";

/// Writes counts.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    places: Arc<Semaphore>,
}

impl Writer {
    /// A writer over this client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            places: Arc::new(Semaphore::new(CONCURRENT)),
        }
    }

    /// Writes a count; the answer is the version of the Deployment after it. An error is logged here, the caller only retries.
    pub async fn write(&self, key: &FunctionKey, write: &Write) -> Result<String, ()> {
        // The semaphore is never closed.
        let _place = self.places.acquire().await.map_err(drop)?;
        let result = self.try_write(key, write).await;
        match &result {
            Ok(_) => {
                tracing::info!(function = %key, revision = write.revision, from = write.from, to = write.to, reason = write.reason, "scaled")
            }
            Err(error) => {
                tracing::warn!(function = %key, revision = write.revision, to = write.to, %error, "scaling failed, will be tried again")
            }
        }
        result.map_err(drop)
    }

    async fn try_write(&self, key: &FunctionKey, write: &Write) -> kube::Result<String> {
        self.mark_victims(key, &write.victims).await?;
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER_SCALE.into()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({"spec": {"replicas": write.to}}));
        let scale = api.patch_scale(&write.revision, &params, &patch).await?;
        Ok(scale.metadata.resource_version.unwrap_or_default())
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
