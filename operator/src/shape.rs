//! The shape of a Function: its Deployments, Service and EndpointSlice, and its status.
//!
//! Reconciling reads as observe (the index) → validate ([`validate`]) → build ([`build`]) → apply ([`apply`]) → status ([`status`]);
//! only applying and the writing of the status do IO. How many pods run is not decided here: see [`crate::scaler`].

pub mod apply;
pub mod build;
pub mod ports;
pub mod problem;
pub mod reconcile;
pub mod revision;
pub mod rollout;
pub mod status;
pub mod validate;
pub mod way;
