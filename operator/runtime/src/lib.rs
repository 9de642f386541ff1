//! What both processes of Ebb need around their real work: an endpoint for probes and metrics, readiness, shutdown and telemetry.

pub mod admin;
#[cfg(feature = "lease")]
pub mod lease;
pub mod readiness;
pub mod shutdown;
pub mod telemetry;
