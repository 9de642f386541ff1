//! The generated files are what the types say.
#![cfg(feature = "api")]

use std::path::Path;

use crds::{
    function::{Function, FunctionStatus},
    reference, schema,
};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn generated_files_are_fresh() {
    let crd = schema::crd_yaml().unwrap();
    let hint = "is stale: run `cargo run -p operator -- generate`";
    assert!(
        file("crds/functions.yaml") == crd,
        "crds/functions.yaml {hint}"
    );
    assert!(
        file("charts/ebb/files/functions.yaml") == crd,
        "the chart's copy of the CRD {hint}"
    );
    assert!(
        file("docs/reference.md") == reference::markdown().unwrap(),
        "docs/reference.md {hint}"
    );
}

/// Client-side `kubectl apply` stores the object in an annotation of at most 262144 bytes; a tenth of a megabyte also keeps
/// every watch of CRDs and every `helm` release small.
#[test]
fn the_crd_is_small() {
    let size = schema::crd_yaml().unwrap().len();
    assert!(size < 100_000, "{size} bytes");
}

#[test]
fn a_template_keeps_fields_that_we_do_not_know() {
    let text = r#"{"apiVersion":"ebb.dev/v1alpha1","kind":"Function","metadata":{"name":"hello"},
        "spec":{"template":{"spec":{"containers":[{"name":"app","image":"x","resources":{"limits":{"cpu":1}}}],"brandNew":true}}}}"#;
    let function: Function = serde_json::from_str(text).unwrap();
    let spec = &function.spec.template.spec;
    assert_eq!(spec["brandNew"], true);
    assert_eq!(spec["containers"][0]["resources"]["limits"]["cpu"], 1);
}

#[test]
fn a_status_without_hosts_takes_former_ones_away() {
    let status = serde_json::to_value(FunctionStatus::default()).unwrap();
    assert_eq!(status["hosts"], serde_json::json!([]));
}

#[test]
fn defaults_are_the_documented_ones() {
    let text = r#"{"apiVersion":"ebb.dev/v1alpha1","kind":"Function","metadata":{"name":"hello"},
        "spec":{"template":{"spec":{}},"scale":{"min":1}}}"#;
    let spec = serde_json::from_str::<Function>(text).unwrap().spec;
    assert_eq!(spec.scale.min, Some(1));
    assert_eq!(spec.scale.max, None, "the cluster's default may be another");
    assert_eq!(
        std::time::Duration::from(spec.timeouts.cold_start).as_secs(),
        60
    );
    assert_eq!(
        std::time::Duration::from(spec.timeouts.request).as_secs(),
        300
    );
}
