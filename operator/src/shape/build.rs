//! From a [`Plan`] to the objects that are applied. Pure.

use std::net::IpAddr;

use crds::control::Protocol;
use crds::names::{
    FunctionKey, GROUP, LABEL_FUNCTION, LABEL_REVISION, LABEL_SERVICE, LABEL_SLICE_MANAGER, MANAGER,
};
use serde_json::{Value, json};

use crate::shape::validate::Plan;

/// Annotation of a Deployment: its [`Serving`](crate::shape::validate::Serving) as JSON.
pub const ANNOTATION_SERVING: &str = "ebb.dev/serving";

/// What a Service's port speaks, as Kubernetes names it (KEP 3726): ingresses and Gateways choose their protocol by it. An activator
/// understands HTTP/1.1 on it in any case.
fn app_protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http",
        Protocol::H2c => "kubernetes.io/h2c",
    }
}

/// Name of the port in Services and slices. Meshes and Gateways read the protocol from it.
const PORT_NAME: &str = "http";

/// The Deployment of the plan's revision, without `spec.replicas`: the scaler owns that.
pub fn deployment(plan: &Plan) -> Value {
    let Plan {
        key,
        uid,
        revision,
        template,
        serving,
    } = plan;
    let mut metadata = metadata(key, uid, revision);
    metadata["labels"][LABEL_REVISION] = json!(revision);
    // Serialization of a number and an enum cannot fail; an empty string would be seen as a broken annotation and put back.
    metadata["annotations"] =
        json!({ANNOTATION_SERVING: serde_json::to_string(serving).unwrap_or_default()});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            // One ReplicaSet is all that a revision needs: its template never changes.
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": {LABEL_FUNCTION: &*key.name, LABEL_REVISION: revision}},
            "template": template,
        },
    })
}

/// The Function's Service. It has no selector: its slice is ours. `port` is the Function's own port on the activators; it is kept
/// here, where every operator replica reads it.
pub fn service(key: &FunctionKey, uid: &str, port: u16, protocol: Protocol) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(key, uid, &key.name),
        "spec": {"ports": [{"name": PORT_NAME, "port": 80, "protocol": "TCP", "targetPort": port, "appProtocol": app_protocol(protocol)}]},
    })
}

/// The Function's EndpointSlice: those that clients are sent to, and their port.
pub fn slice(
    key: &FunctionKey,
    uid: &str,
    port: u16,
    protocol: Protocol,
    addresses: &[IpAddr],
) -> Value {
    let mut metadata = metadata(key, uid, &key.name);
    metadata["labels"][LABEL_SERVICE] = json!(&*key.name);
    metadata["labels"][LABEL_SLICE_MANAGER] = json!(MANAGER);
    let v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let endpoints: Vec<Value> = addresses
        .iter()
        .filter(|ip| ip.is_ipv6() == v6)
        .map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true, "serving": true, "terminating": false}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP", "appProtocol": app_protocol(protocol)}],
    })
}

fn metadata(key: &FunctionKey, uid: &str, name: &str) -> Value {
    json!({
        "name": name,
        "namespace": &*key.namespace,
        "labels": {LABEL_FUNCTION: &*key.name, "app.kubernetes.io/managed-by": MANAGER},
        "ownerReferences": [{
            "apiVersion": format!("{GROUP}/v1alpha1"),
            "kind": "Function",
            "name": &*key.name,
            "uid": uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    })
}
