//! The questions whose answers say that a cluster is up.

use anyhow::Result;
use http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, ListParams};

/// Whether the API server says that it is ready.
pub(crate) async fn api_ready(client: &Client) -> Result<bool> {
    let request = Request::get("/readyz").body(Vec::new())?;
    Ok(client.request_text(request).await?.trim() == "ok")
}

/// Whether there are nodes and all are ready.
pub(crate) async fn node_ready(client: &Client) -> Result<bool> {
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await?
        .items;
    let ready = |node: &Node| {
        let conditions = node
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    Ok(!nodes.is_empty() && nodes.iter().all(ready))
}

/// Whether CoreDNS answers.
pub(crate) async fn dns_ready(client: &Client) -> Result<bool> {
    let deployment = Api::<Deployment>::namespaced(client.clone(), "kube-system")
        .get_opt("coredns")
        .await?;
    let available = deployment.and_then(|deployment| deployment.status?.available_replicas);
    Ok(available.unwrap_or(0) > 0)
}
