//! Which revision a template is: the name of its Deployment.

use std::fmt::Write as _;

use crds::{control::Protocol, names::REVISION_HASH_LEN};
use serde_json::Value;

/// Name of the revision (and Deployment) of Function `name` with this template, port and protocol. The same template always gives the same name,
/// whatever the order of its fields, so applying an old template again finds its Deployment.
pub fn name(
    function: &str,
    template: &Value,
    port: Option<&Value>,
    protocol: Option<Protocol>,
) -> String {
    let mut text = String::new();
    canonical(&mut text, template);
    if let Some(port) = port {
        // The port is part of what serves: moving it must not change the pods of a revision that has traffic.
        let _ = write!(text, "|port={port}");
    }
    if let Some(protocol) = protocol {
        let _ = write!(text, "|protocol={}", protocol.name());
    }
    let hash = format!("{:016x}", fnv1a(text.as_bytes()));
    format!("{function}-{}", &hash[hash.len() - REVISION_HASH_LEN..])
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): stable over versions of Rust, which std's hasher is not. Kubernetes
/// names ReplicaSets by 32 bits of FNV in the same way.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Writes `value` with sorted keys and without nulls, which mean the same as absent fields. Empty objects stay: in `emptyDir: {}` the
/// empty object chooses the kind of volume.
fn canonical(text: &mut String, value: &Value) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
            entries.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (key, value) in entries {
                let _ = write!(text, "{key:?}:");
                canonical(text, value);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(text, item);
                text.push(',');
            }
            text.push(']');
        }
        scalar => {
            let _ = write!(text, "{scalar}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_and_nulls_do_not_matter_but_values_do() {
        let a = json!({"spec": {"containers": [{"name": "app", "image": "x:1"}], "volumes": null}});
        let b = json!({"spec": {"containers": [{"image": "x:1", "name": "app"}]}});
        let c = json!({"spec": {"containers": [{"image": "x:2", "name": "app"}]}});
        let volume =
            json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let none = json!({"spec": {"containers": [], "volumes": [{"name": "v"}]}});
        assert_eq!(name("hello", &a, None, None), name("hello", &b, None, None));
        assert_ne!(name("hello", &a, None, None), name("hello", &c, None, None));
        assert_ne!(
            name("hello", &volume, None, None),
            name("hello", &none, None, None)
        );
        assert_ne!(
            name("hello", &a, None, None),
            name("hello", &a, Some(&json!(8080)), None)
        );
        assert_ne!(
            name("hello", &a, None, None),
            name("hello", &a, None, Some(Protocol::H2c))
        );
    }

    /// A change here would restart every pod of every cluster at the next upgrade.
    #[test]
    fn names_never_change() {
        let template = json!({"spec": {"containers": [{"name": "app", "image": "x:1"}]}});
        assert_eq!(name("hello", &template, None, None), "hello-3a2246786c");
    }
}
