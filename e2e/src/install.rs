//! Ebb's installation in a cluster: its images built and loaded, its chart installed.

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams};

use crate::cluster::{Cluster, Progress, images};

/// The namespace that Ebb is installed in.
pub const NAMESPACE: &str = "ebb-system";

/// What the installation has put into the cluster.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The reference of the sample app's image.
    pub hello_image: String,
}

/// Builds and loads the images, installs or upgrades the chart and waits until all of it runs.
pub async fn install(cluster: &Cluster, progress: &Progress) -> Result<Installed> {
    let (operator, activator, hello) = images_of(cluster, progress).await?;
    let chart = crate::cluster::Layout::of_checkout()?
        .checkout()
        .join("charts/ebb");
    let chart = chart
        .to_str()
        .context("the checkout's path is not UTF-8, which helm needs")?;
    let (operator, activator) = (
        format!("operator.image={operator}"),
        format!("activator.image={activator}"),
    );
    let arguments = [
        "upgrade",
        "--install",
        "ebb",
        chart,
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--wait",
        "--timeout",
        "2m",
        "--set",
        "gateway.tls.enabled=true",
        "--set",
        &operator,
        "--set",
        &activator,
    ];
    let installed = progress.step("helm", cluster.helm(&arguments)).await;
    if installed.is_err() {
        // helm only says that it waited in vain; the pods know why.
        let pods = cluster
            .kubectl(&["--namespace", NAMESPACE, "get", "pods,events"])
            .await;
        progress.say(&pods.unwrap_or_default());
    }
    installed?;
    progress.step("rollouts", rollouts(cluster)).await?;
    Ok(Installed { hello_image: hello })
}

/// Builds the binaries and loads the images of the operator, the activator and the sample app, in this order.
async fn images_of(cluster: &Cluster, progress: &Progress) -> Result<(String, String, String)> {
    if cluster.layout().is_none() {
        let unused = std::path::Path::new("");
        let load = async |name| images::load(cluster, name, unused).await;
        return Ok((
            load("ebb-operator").await?,
            load("ebb-activator").await?,
            load("ebb-hello").await?,
        ));
    }
    let binaries = progress
        .step("release binaries", images::build_binaries())
        .await?;
    let load = async |name: &str, binary| {
        progress
            .step(
                &format!("image {name}"),
                images::load(cluster, name, binary),
            )
            .await
    };
    let operator = load("ebb-operator", &binaries.operator).await?;
    let activator = load("ebb-activator", &binaries.activator).await?;
    let hello = load("ebb-hello", &binaries.hello).await?;
    Ok((operator, activator, hello))
}

/// Waits for each of Ebb's Deployments; helm does not look at an upgrade that changes nothing.
async fn rollouts(cluster: &Cluster) -> Result<()> {
    let deployments = Api::<Deployment>::namespaced(cluster.client().await?, NAMESPACE);
    for deployment in deployments.list(&ListParams::default()).await? {
        let name = format!(
            "deployment/{}",
            deployment.metadata.name.unwrap_or_default()
        );
        cluster
            .kubectl(&[
                "--namespace",
                NAMESPACE,
                "rollout",
                "status",
                &name,
                "--timeout=2m",
            ])
            .await?;
    }
    Ok(())
}
