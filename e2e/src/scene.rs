//! The stage of a cluster test: a namespace of its own, Functions in it, and what a person would look at when something fails.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use crds::function::Function;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod, Service},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    client::{self, Answer, Connection},
    cluster::Cluster,
    install::NAMESPACE,
};

/// Label of all namespaces that tests make, so that one command can remove what a killed run left.
pub const LABEL: &str = "ebb.dev/e2e";

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A namespace and the means to act in it.
#[derive(Clone)]
pub struct Scene {
    /// The cluster.
    pub cluster: Cluster,
    /// A client with the admin's rights.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
    /// Reference of the sample app's image.
    pub image: String,
}

impl Scene {
    /// Makes a namespace whose name begins with `name`.
    pub async fn open(cluster: &Cluster, image: &str, name: &str) -> Result<Self> {
        let client = cluster.client().await?;
        let namespace = format!("{name}-{:06x}", fastrand::u32(0..0x0100_0000));
        let object = serde_json::from_value(
            json!({"metadata": {"name": namespace, "labels": {LABEL: "true"}}}),
        )?;
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        Ok(Self {
            cluster: cluster.clone(),
            client,
            namespace,
            image: image.into(),
        })
    }

    /// Deletes the namespace; Kubernetes finishes that in the background.
    pub async fn close(&self) -> Result<()> {
        Api::<Namespace>::all(self.client.clone())
            .delete(&self.namespace, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// The API for a kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A Function that runs the sample app; `spec` is merged over it (RFC 7396).
    pub fn manifest(&self, name: &str, spec: Value) -> Value {
        let mut manifest = json!({
            "apiVersion": "ebb.dev/v1alpha1", "kind": "Function", "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"template": {"spec": {"containers": [{"name": "app", "image": self.image, "imagePullPolicy": "IfNotPresent"}]}}},
        });
        merge(&mut manifest["spec"], spec);
        manifest
    }

    /// Applies a Function of the sample app and waits until clients reach it. A connection alone does not wake it.
    pub async fn function(&self, name: &str, spec: Value) -> Result<()> {
        self.apply(name, spec).await?;
        let within = Duration::from_secs(20);
        self.wait_condition(name, "Routed", "True", within).await?;
        // kube-proxy needs up to a second to make a new Service known to the node.
        let reachable = async || {
            let address = self.address(name).await?;
            Ok(TcpStream::connect(address).await.ok().map(drop))
        };
        eventually(within, &format!("{name} is reachable"), reachable).await
    }

    /// Applies a Function of the sample app.
    pub async fn apply(&self, name: &str, spec: Value) -> Result<()> {
        let params = PatchParams::apply("e2e").force();
        self.api::<Function>()
            .patch(name, &params, &Patch::Apply(self.manifest(name, spec)))
            .await?;
        Ok(())
    }

    /// Environment of the sample app's container, as a spec to merge.
    pub fn with_env(&self, env: &[(&str, &str)]) -> Value {
        let env: Vec<Value> = env
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        json!({"template": {"spec": {"containers": [
            {"name": "app", "image": self.image, "imagePullPolicy": "IfNotPresent", "env": env}
        ]}}})
    }

    /// Address of a Function's Service.
    pub async fn address(&self, name: &str) -> Result<SocketAddr> {
        service_address(&self.client, &self.namespace, name).await
    }

    /// A GET to a Function through its Service, on a new connection.
    pub async fn get(&self, name: &str, path: &str) -> Result<Answer> {
        client::get(self.address(name).await?, name, path).await
    }

    /// A kept connection to a Function's Service.
    pub async fn connect(&self, name: &str) -> Result<Connection> {
        Connection::open(self.address(name).await?, name).await
    }

    /// The Function's pods, including those on their way out.
    pub async fn pods(&self, name: &str) -> Result<Vec<Pod>> {
        let of = ListParams::default().labels(&format!("ebb.dev/function={name}"));
        Ok(self.api::<Pod>().list(&of).await?.items)
    }

    /// The Function's Deployments.
    pub async fn deployments(&self, name: &str) -> Result<Vec<Deployment>> {
        let of = ListParams::default().labels(&format!("ebb.dev/function={name}"));
        Ok(self.api::<Deployment>().list(&of).await?.items)
    }

    /// Waits until the Function has no pods at all.
    pub async fn wait_zero(&self, name: &str, within: Duration) -> Result<()> {
        eventually(within, &format!("{name} has no pods"), async || {
            Ok(self.pods(name).await?.is_empty().then_some(()))
        })
        .await
    }

    /// Waits until a condition of the Function has this status; returns its reason and message.
    pub async fn wait_condition(
        &self,
        name: &str,
        kind: &str,
        status: &str,
        within: Duration,
    ) -> Result<(String, String)> {
        eventually(
            within,
            &format!("{kind}={status} of Function {name}"),
            async || {
                let function = self.api::<Function>().get(name).await?;
                let conditions = function.status.unwrap_or_default().conditions;
                let found = conditions
                    .into_iter()
                    .find(|c| c.type_ == kind && c.status == status);
                Ok(found.map(|c| (c.reason, c.message)))
            },
        )
        .await
    }

    /// kubectl in this namespace.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(args);
        self.cluster.kubectl(&all).await
    }

    /// What a person would look at: objects, events and logs of this namespace, and the last lines of Ebb's own logs.
    pub async fn report(&self) -> String {
        let mut report = String::new();
        let own: [&[&str]; 4] = [
            &[
                "get",
                "functions,deployments,pods,services,endpointslices",
                "-o",
                "wide",
            ],
            &[
                "get",
                "functions",
                "-o",
                "jsonpath={range .items[*]}{.metadata.name}: {.status}{\"\\n\"}{end}",
            ],
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
            &[
                "logs",
                "--selector=ebb.dev/function",
                "--tail=20",
                "--prefix",
            ],
        ];
        for args in own {
            let shown = self
                .kubectl(args)
                .await
                .unwrap_or_else(|error| format!("{error:#}"));
            report.push_str(&format!("--- kubectl {}\n{shown}\n", args.join(" ")));
        }
        for part in ["operator", "activator"] {
            let selector = format!("--selector=app.kubernetes.io/component={part}");
            let args = [
                "--namespace",
                NAMESPACE,
                "logs",
                &selector,
                "--tail=40",
                "--prefix",
            ];
            let shown = self
                .cluster
                .kubectl(&args)
                .await
                .unwrap_or_else(|error| format!("{error:#}"));
            report.push_str(&format!("--- logs of the {part}s\n{shown}\n"));
        }
        report
    }
}

/// Address of a Service's first port.
pub async fn service_address(client: &Client, namespace: &str, name: &str) -> Result<SocketAddr> {
    let service = Api::<Service>::namespaced(client.clone(), namespace)
        .get(name)
        .await?;
    let spec = service.spec.context("the Service has no spec")?;
    let port = spec
        .ports
        .iter()
        .flatten()
        .next()
        .context("the Service has no port")?
        .port;
    let ip = spec.cluster_ip.context("the Service has no address")?;
    Ok(SocketAddr::new(ip.parse()?, u16::try_from(port)?))
}

/// Looks again and again until `look` finds something.
pub async fn eventually<T>(
    within: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut last = None;
    while Instant::now() < deadline {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => last = None,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(POLL).await;
    }
    match last {
        Some(error) => Err(error.context(format!("not within {within:?}: {what}"))),
        None => bail!("not within {within:?}: {what}"),
    }
}

/// Name of the object that owns it, for messages.
pub fn names<K: kube::Resource>(objects: &[K]) -> Vec<String> {
    objects.iter().map(ResourceExt::name_any).collect()
}

/// JSON merge patch (RFC 7396).
fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}
