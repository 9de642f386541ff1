//! gRPC's own interoperability tests: its client against its server, with the activator between them.

use std::net::SocketAddr;

use anyhow::Result;
use crds::control::Protocol;
use tokio::process::Command;

use crate::conform::{
    Case,
    kit::{Kit, Server, Stage, finish, succeeded},
};

/// All of the client's tests that need no TLS, no credentials and no several servers.
const CASES: [&str; 18] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "orca_per_rpc",
    "orca_oob",
    "rpc_soak",
    "channel_soak",
];

/// Those that also wake a Function: a call that ends, and one whose two sides talk.
const COLD: [&str; 2] = ["large_unary", "ping_pong"];

/// What the client must be told to see the servers' reports of their load, which is what the cases of this name look at.
const ORCA: &str =
    r#"-service_config_json={"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}"#;

const SERVER: Server = Server {
    program: "server",
    listen: |command: &mut Command, address: SocketAddr| {
        command.arg(format!("-port={}", address.port()));
    },
    protocol: Protocol::H2c,
};

pub(super) async fn run(kit: &Kit) -> Result<Vec<Case>> {
    let stage = Stage::open(kit, "grpc", SERVER, COLD.len()).await?;
    let client = |case: &str, port: u16| {
        let mut client = kit.peer("client");
        client.arg("-server_host=127.0.0.1");
        client.arg(format!("-server_port={port}"));
        client.arg(format!("-test_case={case}"));
        if case.starts_with("orca") {
            client.arg(ORCA);
        }
        client
    };
    let mut cases = Vec::new();
    for case in CASES {
        let output = finish(client(case, stage.port).spawn()?).await;
        cases.push(Case::new(
            case,
            output.and_then(|output| succeeded(&output)),
        ));
    }
    for (number, case) in COLD.into_iter().enumerate() {
        let output = stage.cold_start(number, |port| client(case, port)).await;
        let result = output.and_then(|output| succeeded(&output));
        cases.push(Case::new(format!("{case} from zero"), result));
    }
    Ok(cases)
}
