//! The activator as a process sees it: real sockets, real backends, and a control client in place of the operator. No cluster.
#![allow(clippy::unwrap_used)] // a failed step is a failed test

mod access;
mod answers;
mod clients;
mod control;
mod drain;
mod edges;
mod forward;
mod headers;
mod hold;
mod http2;
mod limit;
mod memory;
mod shutdown;
mod support;
mod timeouts;
mod tls;
mod upgrade;
