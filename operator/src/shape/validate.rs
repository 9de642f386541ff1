//! From a Function to a [`Plan`]: everything that the builders need, checked once.

use crds::{
    control::{Protocol, Readiness},
    function::{DEFAULT_PORT, Function},
    names::FunctionKey,
};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, PodSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::shape::revision;

/// A Function that can be built. The only input of the builders.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Which Function.
    pub key: FunctionKey,
    /// UID of the Function, for owner references.
    pub uid: String,
    /// Name of the template's revision.
    pub revision: String,
    /// The shaped pod template, with Ebb's labels.
    pub template: Value,
    /// How requests reach its pods.
    pub serving: Serving,
}

/// How requests reach the pods of a revision; kept in an annotation of its Deployment, so that a revision whose template is no
/// longer in the Function can still be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Serving {
    /// Port of the pods.
    pub port: u16,
    /// What the port speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// How an activator finds out that a pod is ready.
    pub readiness: Readiness,
}

/// Why a Function cannot be built although the API server took it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Invalid {
    /// The pod spec is not one.
    #[error("spec.template.spec cannot be read: {0}")]
    Template(String),
    /// `spec.port` names no port.
    #[error("spec.port is {0:?}, but no container has a port of that name")]
    NoSuchPort(String),
    /// Nothing says which port serves.
    #[error(
        "the template has several ports: name exactly one of them 'http' (or 'h2c'), or set spec.port"
    )]
    AmbiguousPort,
    /// `PORT` is not a number.
    #[error("the variable PORT of container {container:?} is {value:?}: it must be a port number")]
    BadPortVariable {
        /// Name of the container.
        container: String,
        /// Its value.
        value: String,
    },
}

/// Checks what CEL cannot, finds the serving port and shapes the pod template.
///
/// # Errors
/// [`Invalid`], in words for the Function's owner.
pub fn plan(function: &Function) -> Result<Plan, Invalid> {
    let spec = &function.spec;
    let pod: PodSpec = serde_json::from_value(spec.template.spec.clone())
        .map_err(|e| Invalid::Template(e.to_string()))?;
    let found = serving_port(spec.port.as_ref(), &pod)?;
    let template =
        serde_json::to_value(&spec.template).map_err(|e| Invalid::Template(e.to_string()))?;
    let port_value = spec.port.as_ref().map(|p| match p {
        IntOrString::Int(n) => json!(n),
        IntOrString::String(s) => json!(s),
    });
    let key = function.key();
    let revision = revision::name(&key.name, &template, port_value.as_ref(), spec.protocol);
    let serving = Serving {
        port: found.port,
        protocol: spec.protocol.unwrap_or(found.protocol),
        readiness: readiness(found.container, found.port),
    };
    let template = shape(template, &pod, &key, &revision, &found);
    Ok(Plan {
        uid: function.uid().unwrap_or_default(),
        key,
        revision,
        template,
        serving,
    })
}

struct Found<'a> {
    port: u16,
    container: Option<&'a Container>,
    /// What its name says that it speaks.
    protocol: Protocol,
    /// The container must be told: nothing in the template says where to listen.
    inject: bool,
}

fn serving_port<'a>(wanted: Option<&IntOrString>, pod: &'a PodSpec) -> Result<Found<'a>, Invalid> {
    let ports: Vec<(&Container, &str, i32)> = pod
        .containers
        .iter()
        .flat_map(|c| {
            let ports = c.ports.iter().flatten();
            ports.map(move |p| (c, p.name.as_deref().unwrap_or_default(), p.container_port))
        })
        .collect();
    let found = |(container, name, port): &(&'a Container, &str, i32)| Found {
        port: u16::try_from(*port).unwrap_or(DEFAULT_PORT),
        container: Some(container),
        protocol: protocol_of(name),
        inject: false,
    };
    match wanted {
        Some(IntOrString::Int(number)) => {
            let declared = ports.iter().find(|(_, _, port)| port == number);
            let port =
                u16::try_from(*number).map_err(|_| Invalid::NoSuchPort(number.to_string()))?;
            Ok(Found {
                port,
                container: declared.map(|(c, _, _)| *c).or(pod.containers.first()),
                protocol: declared.map_or(Protocol::Http1, |(_, name, _)| protocol_of(name)),
                inject: false,
            })
        }
        Some(IntOrString::String(name)) => ports
            .iter()
            .find(|(_, n, _)| n == name)
            .map(found)
            .ok_or_else(|| Invalid::NoSuchPort(name.clone())),
        None => {
            let http: Vec<_> = ports
                .iter()
                .filter(|(_, n, _)| matches!(*n, "http" | "h2c"))
                .collect();
            match (http.as_slice(), ports.as_slice()) {
                ([one], _) => Ok(found(one)),
                ([], [one]) => Ok(found(one)),
                ([], []) => undeclared_port(pod),
                _ => Err(Invalid::AmbiguousPort),
            }
        }
    }
}

fn protocol_of(port_name: &str) -> Protocol {
    match port_name {
        "h2c" => Protocol::H2c,
        _ => Protocol::Http1,
    }
}

/// No port is declared: the container's `PORT` variable says which, or is set to the default.
fn undeclared_port(pod: &PodSpec) -> Result<Found<'_>, Invalid> {
    let container = pod.containers.first();
    let variable = container
        .and_then(|c| c.env.iter().flatten().find(|e| e.name == "PORT"))
        .and_then(|e| e.value.as_ref());
    let Some(value) = variable else {
        return Ok(Found {
            port: DEFAULT_PORT,
            container,
            protocol: Protocol::Http1,
            inject: true,
        });
    };
    let port = value.parse().map_err(|_| Invalid::BadPortVariable {
        container: container.map(|c| c.name.clone()).unwrap_or_default(),
        value: value.clone(),
    })?;
    Ok(Found {
        port,
        container,
        protocol: Protocol::Http1,
        inject: false,
    })
}

/// What an activator may probe in the kubelet's place: only a probe that it can run exactly as declared.
fn readiness(container: Option<&Container>, serving: u16) -> Readiness {
    let Some(probe) = container.and_then(|c| c.readiness_probe.as_ref().map(|p| (c, p))) else {
        return Readiness::Connect;
    };
    let (container, probe) = probe;
    let same_port = |port: &IntOrString| match port {
        IntOrString::Int(n) => i32::from(serving) == *n,
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .any(|p| p.name.as_ref() == Some(name) && p.container_port == i32::from(serving)),
    };
    let plain = |http: &HTTPGetAction| {
        http.scheme
            .as_deref()
            .is_none_or(|s| s.eq_ignore_ascii_case("http"))
            && http.host.is_none()
    };
    if let Some(http) = &probe.http_get
        && same_port(&http.port)
        && plain(http)
    {
        let headers = http
            .http_headers
            .iter()
            .flatten()
            .map(|h| (h.name.clone(), h.value.clone()));
        return Readiness::Http {
            path: http.path.clone().unwrap_or_else(|| "/".into()),
            headers: headers.collect(),
        };
    }
    match &probe.tcp_socket {
        Some(tcp) if tcp.host.is_none() && same_port(&tcp.port) => Readiness::Connect,
        _ => Readiness::Kubelet,
    }
}

/// Shapes the template so that Kubernetes starts its pods fast, and labels it.
fn shape(
    mut template: Value,
    pod: &PodSpec,
    key: &FunctionKey,
    revision: &str,
    found: &Found<'_>,
) -> Value {
    let labels = &mut template["metadata"]["labels"];
    labels[crds::names::LABEL_FUNCTION] = json!(&*key.name);
    labels[crds::names::LABEL_REVISION] = json!(revision);
    let spec = &mut template["spec"];
    // A token is a volume, and any volume delays a start by some 300 ms; whoever names an account wants its token.
    let names_account = pod
        .service_account_name
        .as_deref()
        .is_some_and(|a| a != "default");
    if pod.automount_service_account_token.is_none() && !names_account {
        spec["automountServiceAccountToken"] = json!(false);
    }
    // Otherwise each Service of the namespace becomes seven variables in each container.
    if pod.enable_service_links.is_none() {
        spec["enableServiceLinks"] = json!(false);
    }
    if found.inject
        && let Some(container) = spec["containers"].get_mut(0)
    {
        let port = json!({"name": "PORT", "value": found.port.to_string()});
        match container.get_mut("env").and_then(Value::as_array_mut) {
            Some(env) => env.push(port),
            None => container["env"] = json!([port]),
        }
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(spec: Value) -> Function {
        serde_json::from_value(json!({
            "apiVersion": "ebb.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "hello", "namespace": "shop", "uid": "u"}, "spec": spec,
        }))
        .unwrap()
    }

    fn planned(spec: Value) -> Result<Plan, Invalid> {
        plan(&function(spec))
    }

    fn one(container: Value) -> Value {
        json!({"template": {"spec": {"containers": [container]}}})
    }

    #[test]
    fn the_protocol_is_what_the_spec_or_the_ports_name_says() {
        let protocol = |spec| planned(spec).unwrap().serving.protocol;
        let ports = json!([{"containerPort": 9000, "name": "h2c"}]);
        let h2c = one(json!({"name": "app", "ports": ports}));
        let with = |key: &str, value: Value| {
            let mut spec = h2c.clone();
            spec[key] = value;
            spec
        };
        assert_eq!(protocol(one(json!({"name": "app"}))), Protocol::Http1);
        assert_eq!(protocol(h2c.clone()), Protocol::H2c);
        assert_eq!(protocol(with("port", json!(9000))), Protocol::H2c);
        assert_eq!(protocol(with("port", json!("h2c"))), Protocol::H2c);
        assert_eq!(protocol(with("port", json!(9001))), Protocol::Http1);
        assert_eq!(protocol(with("protocol", json!("http1"))), Protocol::Http1);
        // A Deployment of an earlier Ebb does not say.
        let before = json!({"port": 8080, "readiness": {"probe": "connect"}});
        let serving: Serving = serde_json::from_value(before).unwrap();
        assert_eq!(serving.protocol, Protocol::Http1);
    }

    #[test]
    fn finds_the_serving_port() {
        let two = json!([{"containerPort": 9090, "name": "metrics"}, {"containerPort": 8000, "name": "http"}]);
        let unnamed = json!([{"containerPort": 1}, {"containerPort": 2}]);
        let mut named = one(json!({"name": "app", "ports": two}));
        named["port"] = json!("metrics");
        let mut number = one(json!({"name": "app", "ports": unnamed}));
        number["port"] = json!(7777);
        let rows = [
            (one(json!({"name": "app"})), Ok(8080)),
            (
                one(json!({"name": "app", "env": [{"name": "PORT", "value": "3000"}]})),
                Ok(3000),
            ),
            (
                one(json!({"name": "app", "ports": [{"containerPort": 5000}]})),
                Ok(5000),
            ),
            (one(json!({"name": "app", "ports": two})), Ok(8000)),
            (named, Ok(9090)),
            (number, Ok(7777)),
            (
                one(json!({"name": "app", "ports": unnamed})),
                Err(Invalid::AmbiguousPort),
            ),
            (
                one(json!({"name": "app", "env": [{"name": "PORT", "value": "web"}]})),
                Err(Invalid::BadPortVariable {
                    container: "app".into(),
                    value: "web".into(),
                }),
            ),
        ];
        for (i, (spec, want)) in rows.into_iter().enumerate() {
            assert_eq!(planned(spec).map(|p| p.serving.port), want, "row {i}");
        }
    }

    #[test]
    fn injects_port_only_where_nothing_says_it() {
        let env =
            |spec: Value| planned(spec).unwrap().template["spec"]["containers"][0]["env"].clone();
        assert_eq!(
            env(one(json!({"name": "app"}))),
            json!([{"name": "PORT", "value": "8080"}])
        );
        assert_eq!(
            env(one(
                json!({"name": "app", "ports": [{"containerPort": 5000}]})
            )),
            Value::Null
        );
        assert_eq!(
            env(one(
                json!({"name": "app", "env": [{"name": "A", "value": "b"}]})
            )),
            json!([{"name": "A", "value": "b"}, {"name": "PORT", "value": "8080"}])
        );
    }

    #[test]
    fn pods_start_fast_unless_the_template_says_otherwise() {
        let spec = |extra: Value| {
            let mut spec = json!({"containers": [{"name": "app"}]});
            for (key, value) in extra.as_object().unwrap() {
                spec[key] = value.clone();
            }
            planned(json!({"template": {"spec": spec}}))
                .unwrap()
                .template["spec"]
                .clone()
        };
        assert_eq!(spec(json!({}))["automountServiceAccountToken"], false);
        assert_eq!(spec(json!({}))["enableServiceLinks"], false);
        assert_eq!(
            spec(json!({"automountServiceAccountToken": true}))["automountServiceAccountToken"],
            true
        );
        assert_eq!(
            spec(json!({"serviceAccountName": "robot"}))["automountServiceAccountToken"],
            Value::Null
        );
        assert_eq!(
            spec(json!({"serviceAccountName": "default"}))["automountServiceAccountToken"],
            false
        );
        assert_eq!(
            spec(json!({"enableServiceLinks": true}))["enableServiceLinks"],
            true
        );
    }

    #[test]
    fn probes_only_what_it_can_probe_as_declared() {
        let with = |probe: Value| {
            let ports = json!([{"containerPort": 8000, "name": "http"}]);
            planned(one(
                json!({"name": "app", "ports": ports, "readinessProbe": probe}),
            ))
            .unwrap()
            .serving
            .readiness
        };
        let http = |path: &str| Readiness::Http {
            path: path.into(),
            headers: vec![],
        };
        assert_eq!(
            planned(one(json!({"name": "app"})))
                .unwrap()
                .serving
                .readiness,
            Readiness::Connect
        );
        assert_eq!(
            with(json!({"httpGet": {"port": 8000, "path": "/ready"}})),
            http("/ready")
        );
        assert_eq!(with(json!({"httpGet": {"port": "http"}})), http("/"));
        assert_eq!(
            with(json!({"httpGet": {"port": 9000, "path": "/ready"}})),
            Readiness::Kubelet
        );
        assert_eq!(
            with(json!({"httpGet": {"port": 8000, "scheme": "HTTPS"}})),
            Readiness::Kubelet
        );
        assert_eq!(
            with(json!({"tcpSocket": {"port": "http"}})),
            Readiness::Connect
        );
        assert_eq!(
            with(json!({"exec": {"command": ["true"]}})),
            Readiness::Kubelet
        );
        assert_eq!(with(json!({"grpc": {"port": 8000}})), Readiness::Kubelet);
    }
}
