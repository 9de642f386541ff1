//! WebSocket: a client and a server of two well-kept libraries, with the activator between them.

use std::{net::SocketAddr, process::Output};

use anyhow::{Result, anyhow, bail, ensure};
use crds::control::Protocol;
use tokio::process::Command;

use crate::conform::{
    Case,
    kit::{Kit, Server, Stage, finish, succeeded},
};

/// The client's cases that also wake a Function.
const COLD: [&str; 2] = ["text", "the server speaks first"];

const SERVER: Server = Server {
    program: "websocket",
    listen: |command: &mut Command, address: SocketAddr| {
        command.arg("serve").arg(address.to_string());
    },
    protocol: Protocol::Http1,
};

pub(super) async fn run(kit: &Kit) -> Result<Vec<Case>> {
    let stage = Stage::open(kit, "websocket", SERVER, COLD.len()).await?;
    let client = |port: u16| {
        let mut client = kit.peer("websocket");
        client.arg("call").arg(format!("ws://127.0.0.1:{port}"));
        client
    };
    let mut cases = said(&finish(client(stage.port).spawn()?).await?)?;
    for (number, case) in COLD.into_iter().enumerate() {
        let client = |port| {
            let mut client = client(port);
            client.arg(case);
            client
        };
        let output = stage.cold_start(number, client).await;
        let result = output.and_then(|output| match said(&output)?.pop() {
            Some(Case { wrong: None, .. }) => Ok(()),
            Some(Case {
                wrong: Some(why), ..
            }) => Err(anyhow!(why)),
            None => bail!("the client knows no such case"),
        });
        cases.push(Case::new(format!("{case} from zero"), result));
    }
    Ok(cases)
}

/// The client's lines, `ok NAME` or `FAILED NAME: WHY`.
fn said(output: &Output) -> Result<Vec<Case>> {
    succeeded(output)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut cases = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("ok ") {
            cases.push(Case::new(name, Ok(())));
        } else if let Some(failed) = line.strip_prefix("FAILED ") {
            let (name, why) = failed.split_once(": ").unwrap_or((failed, "nothing said"));
            cases.push(Case::new(name, Err(anyhow!(why.to_owned()))));
        } else if let Some(case) = cases.last_mut() {
            // A reason of several lines.
            case.note += line;
        }
    }
    ensure!(!cases.is_empty(), "the client said nothing");
    Ok(cases)
}
