//! A tenant that floods its Function at zero, and what another one's first requests notice of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use crds::names::FunctionKey;
use tokio::time::{Instant, sleep};

use super::{
    Crowd, SOON, prepare,
    waiting::{Flood, Waiting},
};
use crate::{
    bench::{calm::Calm, percentile},
    scene::eventually,
};

/// Until the activator has read what has just been sent.
const SETTLED: Duration = Duration::from_millis(300);

/// First requests of the tenant that does not flood, at once.
const OTHERS: usize = 20;

/// What waits may take, in MiB: less than the flood would.
const BUDGET: u64 = 128;

pub(in crate::bench) async fn run(flood: usize, rounds: usize) -> Result<()> {
    prepare()?;
    let keys = vec![
        FunctionKey::new("loud", "flood"),
        FunctionKey::new("quiet", "shop"),
    ];
    let flags = [
        &format!("--max-held-per-function={flood}"),
        &format!("--held-memory-mib={BUDGET}"),
    ];
    let crowd = Crowd::start([127, 0, 0, 1].into(), keys, &flags.map(String::as_str)).await?;
    let _calm = Calm::start(&[&crowd.ebb.proxy]).await?;
    println!(
        "first requests of one tenant, {OTHERS} at once, alone and while another has sent {flood}; {rounds} rounds in turn"
    );
    let before = crowd.ebb.proxy.memory()?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.extend(first_requests(&crowd, 0).await?);
        let loud = Flood::start(crowd.address(0), flood)?;
        // All have come: each is refused or waits.
        let held = eventually(SOON, "the flood has come", async || {
            let held = crowd.metric("ebb_activator_requests_held").await? as usize;
            Ok((loud.answered() + held == flood).then_some(held))
        })
        .await?;
        let refused = loud.since().statuses();
        beside.extend(first_requests(&crowd, held).await?);
        let memory = (crowd.ebb.proxy.memory()? - before) >> 20;
        let shed = loud.since().statuses();
        crowd.serve(0, true)?;
        let served = loud.rest().await?.statuses();
        crowd.serve(0, false)?;
        println!(
            "  the flood: {refused:?} at once, {shed:?} to make room, {served:?} when it got a pod; {memory} MiB of memory more than before"
        );
    }
    for (name, times) in [("alone", &mut alone), ("beside the flood", &mut beside)] {
        times.sort_by(f64::total_cmp);
        println!(
            "  {name:<18} p50 {:>6.2} ms   p95 {:>6.2} ms   max {:>6.2} ms",
            percentile(times, 0.5),
            percentile(times, 0.95),
            percentile(times, 1.0)
        );
    }
    println!(
        "  ratio of p50 {:.2} (bar 1.2); all of the quiet tenant's were answered 200",
        percentile(&beside, 0.5) / percentile(&alone, 0.5)
    );
    Ok(())
}

/// Milliseconds from when the pod is known to each answer, while `held` others wait.
async fn first_requests(crowd: &Crowd, held: usize) -> Result<Vec<f64>> {
    let waiting = Waiting::http1(crowd.address(1), OTHERS);
    // With a full budget they take the places of others, so what waits goes to and fro for a moment.
    eventually(SOON, "all of them wait", async || {
        let arrived = crowd.metric("ebb_activator_client_connections").await?;
        let now = crowd.metric("ebb_activator_requests_held").await? as usize;
        let room = if held == 0 {
            now == OTHERS
        } else {
            now <= held + OTHERS
        };
        Ok((arrived >= OTHERS as f64 && room).then_some(()))
    })
    .await?;
    sleep(SETTLED).await;
    let start = Instant::now();
    crowd.serve(1, true)?;
    let answers = waiting.answers().await?;
    let statuses = answers.statuses();
    ensure!(
        statuses.keys().all(|status| *status == 200),
        "the quiet tenant got {statuses:?}"
    );
    crowd.serve(1, false)?;
    Ok(answers.after(start))
}
