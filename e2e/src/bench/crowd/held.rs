//! Many requests that wait for one Function at zero: what each takes in memory, what they cost while they wait, and how soon all are answered.

use std::time::Duration;

use anyhow::{Result, ensure};
use crds::names::FunctionKey;
use tokio::time::{Instant, sleep};

use super::{
    Crowd, prepare,
    waiting::{Waiting, connect},
};

/// How long they are watched while they wait: as long as some wakes.
const WATCHED: Duration = Duration::from_secs(4);

pub(in crate::bench) async fn run(requests: usize) -> Result<()> {
    let connections = prepare()?;
    println!(
        "requests that wait for one Function at zero; {connections} connections are possible here"
    );
    idle(connections).await?;
    for http2 in [false, true] {
        let requests = if http2 {
            requests
        } else {
            requests.min(connections)
        };
        let key = FunctionKey::new("shop", "bench");
        let flags = [
            &format!("--max-held-per-function={requests}"),
            "--held-memory-mib=4096",
        ];
        let crowd =
            Crowd::start([127, 0, 0, 1].into(), vec![key], &flags.map(AsRef::as_ref)).await?;
        let address = crowd.address(0);
        let before = crowd.ebb.proxy.memory()?;
        let waiting = match http2 {
            true => Waiting::http2(address, requests).await?,
            false => Waiting::http1(address, requests),
        };
        crowd.held(requests).await?;
        let each = (crowd.ebb.proxy.memory()? - before) as f64 / requests as f64;
        let spent = crowd.ebb.proxy.cpu()?;
        sleep(WATCHED).await;
        let spent = crowd.ebb.proxy.cpu()? - spent;
        let start = Instant::now();
        crowd.serve(0, true)?;
        let answers = waiting.answers().await?;
        let after = answers.after(start);
        println!(
            "  {requests:>6}, {}  {:>5.1} KiB of memory each (bar 16, goal 8), {:.1} ms of CPU a second in all   answered {:?}, the first {:.1} ms after the pod was known, the last {:.1} ms",
            if http2 {
                "HTTP/2, 100 a connection"
            } else {
                "HTTP/1.1                "
            },
            each / 1024.0,
            spent.as_secs_f64() * 1e3 / WATCHED.as_secs_f64(),
            answers.statuses(),
            after[0],
            after[after.len() - 1],
        );
        ensure!(
            answers.statuses().get(&200) == Some(&requests),
            "not all were answered 200"
        );
    }
    Ok(())
}

/// What a connection takes before its first request.
async fn idle(connections: usize) -> Result<()> {
    let key = FunctionKey::new("shop", "bench");
    let crowd = Crowd::start([127, 0, 0, 1].into(), vec![key], &[]).await?;
    let before = crowd.ebb.proxy.memory()?;
    let mut open = Vec::new();
    for number in 0..connections {
        open.push(connect(crowd.address(0), number).await?);
    }
    crowd
        .reaches("ebb_activator_client_connections", connections)
        .await?;
    let each = (crowd.ebb.proxy.memory()? - before) as f64 / connections as f64;
    println!(
        "  {connections:>6} connections without a request  {:>5.1} KiB of memory each",
        each / 1024.0
    );
    Ok(())
}
