//! The `Function` resource, `ebb.dev/v1alpha1`.
//!
//! Doc comments here are what `kubectl explain` prints, so they are written for its readers; rules are CEL and are checked
//! by the API server, so that a mistake is refused by `kubectl apply` with the message beside the rule.

// KubeSchema derives its rules on hidden copies of these types.
#![allow(unreachable_pub)]

use k8s_openapi::apimachinery::pkg::{apis::meta::v1::Condition, util::intstr::IntOrString};
use kube::{CustomResource, KubeSchema, core::Duration};
use serde::{Deserialize, Serialize};

use crate::{control::Protocol, names::FunctionKey, scale::Scale, schema};

/// The port that a Function without any declared port serves on; its pods get it as `PORT`.
pub const DEFAULT_PORT: u16 = 8080;

/// An HTTP container that runs only while somebody calls it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "ebb.dev",
    version = "v1alpha1",
    kind = "Function",
    namespaced,
    status = "FunctionStatus",
    derive = "PartialEq",
    shortname = "fn",
    scale(spec_replicas_path = ".spec.scale.min", status_replicas_path = ".status.readyReplicas", label_selector_path = ".status.selector"),
    category = "functions",
    doc = "An HTTP container that runs only while somebody calls it: Ebb keeps it at zero pods, holds the first requests while a pod starts, and takes it back to zero when nobody calls.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.readyReplicas", description = "Pods that are ready"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredReplicas", description = "Pods that there should be"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.servingRevision", description = "Revision that takes the requests", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", description = "What is wrong, if anything", priority = 1),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("the name of a Function becomes the name of a Service: use lower-case letters, digits and '-', starting with a letter and ending with a letter or digit"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("the name of a Function is at most 52 characters, so that the names of its revisions fit Kubernetes' limit of 63")
)]
#[x_kube(
    validation = Rule::new("has(self.port) || self.template.spec.containers.map(c, has(c.ports) ? c.ports.size() : 0).sum() <= 1 || self.template.spec.containers.map(c, has(c.ports) ? c.ports.filter(p, has(p.name) && p.name in ['http', 'h2c']).size() : 0).sum() == 1").message("the template has several ports: name exactly one of them 'http' (or 'h2c'), or set spec.port to the one that serves"),
    validation = Rule::new("!has(self.port) || type(self.port) == int || self.template.spec.containers.exists_one(c, has(c.ports) && c.ports.exists_one(p, has(p.name) && p.name == self.port))").message("spec.port names a port that exactly one container must declare under ports[].name"),
    validation = Rule::new("!has(self.tls) || (has(self.hosts) && self.hosts.size() > 0)").message("spec.tls needs spec.hosts: the certificate is served to clients that ask for one of them")
)]
#[serde(rename_all = "camelCase")]
pub struct FunctionSpec {
    /// The pods of this Function: a pod template, as in a Deployment, with any field that Kubernetes accepts. Each distinct
    /// template is a revision with a Deployment of its own. To start fast, pods get no service account token unless
    /// the template sets automountServiceAccountToken: true or names a serviceAccountName other than default (any volume,
    /// and the token is one, delays a start by about 300 ms), and no service links unless it sets enableServiceLinks: true.
    pub template: PodTemplate,

    /// The port that serves HTTP: a number, or the name of a container port. Default: the container port named http or h2c;
    /// else the only one; else the number that the first container's PORT variable has; else 8080, given to the container as PORT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("type(self) == string || (self >= 1 && self <= 65535)").message("a port number is between 1 and 65535"),
        validation = Rule::new("type(self) == int || self.size() <= 15").message("the name of a port is at most 15 characters")
    )]
    #[schemars(schema_with = "schema::int_or_string")]
    pub port: Option<IntOrString>,

    /// What the port speaks: http1 (HTTP/1.1) or h2c (HTTP/2 without TLS, as gRPC servers do). Clients may speak either in both cases.
    /// Default: h2c if the port is a container port that is named h2c, else http1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,

    /// How many requests a pod gets at once, never more; the others wait in line. 1 suits programs that do one thing at a time. The requests then
    /// pass through a single activator, which is what makes the limit exact. Default: no limit. Between 1 and 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 1000").message("concurrencyLimit is between 1 and 1000"))]
    pub concurrency_limit: Option<i32>,

    /// Further host names that lead to this Function on the port that all Functions share (Service ebb-gateway): lower case DNS names such as
    /// shop.example.com, at most 16, without port; wildcards are not supported. A name that another Function has already stays with that one; if
    /// both are new, the older Function gets it. The condition HostsClaimed says which names this one did not get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(
        validation = Rule::new("self.all(h, !h.contains('*'))").message("wildcards are not supported in spec.hosts: list each name"),
        validation = Rule::new("self.all(h, h.contains('*') || h.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)+$'))").message("spec.hosts has DNS names in lower case with at least one dot, such as shop.example.com, without scheme, port and path"),
        validation = Rule::new("self.all(h, !h.matches('[.][0-9]+$'))").message("spec.hosts has names, not IP addresses")
    )]
    #[schemars(schema_with = "schema::hosts")]
    pub hosts: Vec<String>,

    /// TLS for spec.hosts on the shared port. Needs gateway.tls.enabled in Ebb's chart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// How many pods run.
    #[serde(default)]
    pub scale: Scale,

    /// How long things may take.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// TLS for the hosts of a Function.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Name of a Secret of type kubernetes.io/tls in the Function's namespace: the certificate, with its chain, in tls.crt and the key in tls.key. When it
    /// changes, new connections get the new certificate. The condition CertificateReady says what is wrong with it, if anything.
    #[x_kube(validation = Rule::new("self.size() <= 253 && self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("spec.tls.secretName is the name of a Secret"))]
    #[schemars(length(max = 253))]
    pub secret_name: String,
}

/// A pod template.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,

    /// The pod's spec, as in a Deployment.
    // Kept as it came: a field newer than our Kubernetes types must reach the API server unharmed.
    #[schemars(schema_with = "schema::pod_spec")]
    pub spec: serde_json::Value,
}

/// Labels and annotations of a Function's pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateMetadata {
    /// Labels of the pods. Those under ebb.dev/ are Ebb's own.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('ebb.dev/'))").message("labels under ebb.dev/ are Ebb's own: use another prefix"))]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: std::collections::BTreeMap<String, String>,

    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// How long things may take.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// How long a request waits for a pod before it is answered 504. Default 60s. Between 1s and 15m.
    #[serde(default = "default_cold_start")]
    #[schemars(schema_with = "schema::duration")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('15m')").message("timeouts.coldStart is between 1s and 15m"))]
    pub cold_start: Duration,

    /// How long a request may take once a pod has it, to the last byte of the answer: before the first byte it is answered 504,
    /// or 408 if the rest of its own body is what is missing; after it the answer is cut off. Default 5m. Between 1s and 24h.
    #[serde(default = "default_request")]
    #[schemars(schema_with = "schema::duration")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("timeouts.request is between 1s and 24h"))]
    pub request: Duration,

    /// How long the pod may take until its answer begins, from when it has the request, or what the client has sent of it so far: the time that a slow
    /// upload takes is not the pod's. After that the request is answered 504. Default: as long as the request. At least 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("timeouts.firstByte is between 1s and 24h"))]
    pub first_byte: Option<Duration>,

    /// How long the pod may send nothing once its answer has begun; after that the answer is cut off. Server-sent events and other
    /// long streams need a heartbeat within this time. Default: as long as the request. At least 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("timeouts.idle is between 1s and 24h"))]
    pub idle: Option<Duration>,
}

/// What became of a Function.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: requests are answered (True/ScaledToZero is healthy: a pod starts with the next request). RevisionReady: the
    /// latest template starts. Routed: the Function's Service leads to Ebb's activators. Active: pods run.
    /// ScalingActive: the count follows the load (False while somebody else changes it). Only with spec.hosts, HostsClaimed: all of them lead here.
    /// Only with spec.tls, CertificateReady: its certificate is served and good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Where the Function is reached inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,

    /// Names of spec.hosts that lead here. They stay with this Function for as long as it lists them.
    // Written even if there are none: a merge patch leaves what it does not have, and a name that was given up must not count as held.
    #[serde(default)]
    pub hosts: Vec<String>,

    /// Pods that there should be, over all revisions.
    #[serde(default)]
    pub desired_replicas: i32,

    /// Pods that are ready, over all revisions.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Label selector of the pods, for kubectl scale and autoscalers that read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Revision (and Deployment) that takes the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_revision: Option<String>,

    /// Revision of the template as it is now; it serves as soon as one of its pods is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_revision: Option<String>,
}

impl Function {
    /// Name of the Secret with its certificate.
    pub fn secret_name(&self) -> Option<&str> {
        Some(&self.spec.tls.as_ref()?.secret_name)
    }

    /// Which Function this is.
    pub fn key(&self) -> FunctionKey {
        FunctionKey::new(
            self.metadata.namespace.clone().unwrap_or_default(),
            self.metadata.name.clone().unwrap_or_default(),
        )
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            cold_start: default_cold_start(),
            request: default_request(),
            first_byte: None,
            idle: None,
        }
    }
}

fn default_cold_start() -> Duration {
    std::time::Duration::from_secs(60).into()
}

/// Knative's `revision-timeout-seconds`.
fn default_request() -> Duration {
    std::time::Duration::from_secs(300).into()
}
