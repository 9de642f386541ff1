//! A node without a kubelet, for measurements of the control plane alone: kwok says that its pods run, whatever they are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use tokio::process::Child;

use super::{Cluster, modules::Module, progress::Progress, shell};

/// Name of the node, and value of the label that its pods select.
pub const NAME: &str = "fake";

/// Addresses of its pods, of none that the cluster gives out.
const PODS: &str = "10.99.0.0/16";

const STAGES: &str = include_str!("config/kwok.yaml");

/// The node. It goes with this, but for its object, which [`FakeNode::remove`] deletes.
#[derive(Debug)]
pub struct FakeNode {
    api: Api<Node>,
    _kwok: Child,
}

/// Builds kwok, unless the machine has it. Outside of the cluster's network namespace, since modules are fetched.
///
/// # Errors
/// If it cannot be built.
pub async fn ensure(cluster: &Cluster, progress: &Progress) -> Result<()> {
    let module = module(cluster)?;
    let says = "building kwok from Go modules; some minutes the first time";
    let build = async |into: &Path| {
        let packages = ["sigs.k8s.io/kwok/cmd/kwok"];
        module.compile(into, "-s -w", &packages).await
    };
    module.ensure(progress, says, build).await
}

fn module(cluster: &Cluster) -> Result<Module> {
    let layout = cluster.layout();
    Module::of(
        layout.context("a fake node needs this checkout's own cluster")?,
        "kwok",
    )
}

/// What a pod needs to run on the fake node and nowhere else.
pub fn pod_spec() -> serde_json::Value {
    json!({"nodeSelector": {"ebb.dev/node": NAME}, "tolerations": [{"key": "ebb.dev/node", "operator": "Exists"}]})
}

impl FakeNode {
    /// Starts it, inside the cluster's network namespace: whatever listens there on all addresses answers for its pods.
    ///
    /// # Errors
    /// If kwok was not built, or cannot be started.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let layout = cluster
            .layout()
            .context("a fake node needs this checkout's own cluster")?;
        let stages: PathBuf = layout.state().join("kwok.yaml");
        std::fs::write(&stages, STAGES)?;
        shell::run("ip", &["route", "replace", "local", PODS, "dev", "lo"]).await?;
        let api: Api<Node> = Api::all(cluster.client().await?);
        let ready = json!({"type": "Ready", "status": "True", "reason": "Fake", "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null});
        let room = json!({"cpu": "1000", "memory": "1Ti", "pods": "10000"});
        let node = serde_json::from_value(json!({
            "metadata": {"name": NAME, "labels": {"ebb.dev/node": NAME}},
            "spec": {"taints": [{"key": "ebb.dev/node", "effect": "NoSchedule"}]},
            "status": {"conditions": [ready], "capacity": room, "allocatable": room},
        }))?;
        // One that was left by a run that was killed is as good.
        if let Err(error) = api.create(&PostParams::default(), &node).await
            && !matches!(&error, kube::Error::Api(status) if status.is_already_exists())
        {
            return Err(error.into());
        }
        let kwok = shell::command(module(cluster)?.folder.join("kwok"))
            .arg(format!("--kubeconfig={}", cluster.kubeconfig().display()))
            .arg(format!("--config={}", stages.display()))
            .arg(format!("--manage-single-node={NAME}"))
            .arg("--cidr=10.99.0.1/16")
            .arg("--server-address=127.0.0.1:10247")
            .current_dir(layout.state())
            .env("HOME", layout.state())
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(layout.logs().join("kwok.log"))?)
            .spawn()
            .context("cannot start kwok")?;
        Ok(Self { api, _kwok: kwok })
    }

    /// Deletes the node and the way to its pods.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn remove(self) -> Result<()> {
        self.api.delete(NAME, &DeleteParams::default()).await?;
        shell::run("ip", &["route", "delete", "local", PODS, "dev", "lo"]).await?;
        Ok(())
    }
}
