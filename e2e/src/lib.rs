//! What `cargo e2e` works with: the embedded one-node Kubernetes, images and Ebb's installation in it, the demo, the cluster tests, the conformance tests, the fuzz targets and the measurements.

pub mod bench;
pub mod chaos;
pub mod client;
pub mod cluster;
pub mod conform;
mod control;
pub mod demo;
pub mod fuzz;
pub mod install;
pub mod load;
pub mod process;
pub mod scene;
mod servers;
pub mod suite;
pub mod tests;

pub use cluster::{Cluster, Progress};
