//! Names that more than one part of Ebb relies on.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// API group of Ebb's resources, and prefix of its labels and annotations.
pub const GROUP: &str = "ebb.dev";

/// Label on every child: the name of the Function that it belongs to.
pub const LABEL_FUNCTION: &str = "ebb.dev/function";

/// Label on Deployments and pods: the name of the revision, which is also the Deployment's name.
pub const LABEL_REVISION: &str = "ebb.dev/revision";

/// Label by which Kubernetes finds the slices of a Service.
pub const LABEL_SERVICE: &str = "kubernetes.io/service-name";

/// Label that keeps Kubernetes' own controllers away from our slices.
pub const LABEL_SLICE_MANAGER: &str = "endpointslice.kubernetes.io/managed-by";

/// Value of [`LABEL_SLICE_MANAGER`], and of `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "ebb.dev";

/// Field manager of everything that shapes children; it never owns `spec.replicas`.
pub const FIELD_MANAGER_SHAPE: &str = "ebb-operator";

/// Field manager of `spec.replicas` on revisions' Deployments.
pub const FIELD_MANAGER_SCALE: &str = "ebb-scaler";

/// First of the ports that belong to single Functions on every activator.
pub const FUNCTION_PORT_FIRST: u16 = 20_000;

/// Last of the ports that belong to single Functions: just below Linux's ephemeral range (32768), so
/// that no outgoing connection of an activator can hold one of them.
pub const FUNCTION_PORT_LAST: u16 = 32_767;

/// Longest name of a Function: with `-` and [`REVISION_HASH_LEN`] it still fits a label's 63 characters.
pub const FUNCTION_NAME_MAX: usize = 52;

/// Hexadecimal digits of a revision's hash in its name.
pub const REVISION_HASH_LEN: usize = 10;

/// Names one Function of the cluster; written `namespace/name`. Copies share their text: each process has some ten of every Function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct FunctionKey {
    /// Namespace of the Function.
    pub namespace: Arc<str>,
    /// Name of the Function.
    pub name: Arc<str>,
}

impl FunctionKey {
    /// The key of Function `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Host names that reach this Function inside a cluster whose DNS domain is `cluster_domain`,
    /// shortest first. The bare name is not among them: on a port shared by all namespaces it is ambiguous.
    pub fn hosts(&self, cluster_domain: &str) -> Vec<String> {
        let Self { namespace, name } = self;
        vec![
            format!("{name}.{namespace}"),
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}.svc.{cluster_domain}"),
        ]
    }

    /// The URL of this Function's Service.
    pub fn url(&self, cluster_domain: &str) -> String {
        format!(
            "http://{}.{}.svc.{cluster_domain}",
            self.name, self.namespace
        )
    }
}

impl fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<FunctionKey> for String {
    fn from(key: FunctionKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for FunctionKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(format!("{text:?} is not of the form namespace/name")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_child_name_fits_a_label() {
        const { assert!(FUNCTION_NAME_MAX + 1 + REVISION_HASH_LEN <= 63) };
    }

    #[test]
    fn keys_are_written_and_read_as_one_string() {
        let key = FunctionKey::new("shop", "hello");
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(text, r#""shop/hello""#);
        assert_eq!(serde_json::from_str::<FunctionKey>(&text).unwrap(), key);
        for bad in [r#""hello""#, r#""/hello""#, r#""shop/""#] {
            assert!(serde_json::from_str::<FunctionKey>(bad).is_err(), "{bad}");
        }
    }
}
