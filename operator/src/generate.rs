//! The files of the source tree that are written from the types.

use std::path::Path;

use anyhow::Context as _;

/// Writes them below `root`.
///
/// # Errors
/// If one cannot be written.
pub fn files(root: &Path) -> anyhow::Result<()> {
    let crd = crds::schema::crd_yaml()?;
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("crds/functions.yaml", &crd)?;
    write("charts/ebb/files/functions.yaml", &crd)?;
    write("docs/reference.md", &crds::reference::markdown()?)
}
