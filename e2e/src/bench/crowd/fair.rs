//! A tenant that floods its Function at zero, and what another one's first requests notice of it.

use anyhow::Result;
use crds::names::FunctionKey;
use tokio::time::Instant;

use super::{Crowd, prepare, waiting::Waiting};
use crate::bench::percentile;

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
    println!(
        "first requests of one tenant, {OTHERS} at once, alone and while another has sent {flood}; {rounds} rounds in turn"
    );
    let before = crowd.ebb.proxy.memory()?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.extend(first_requests(&crowd, 0).await?);
        let mut loud = Waiting::http2(crowd.address(0), flood).await?;
        let most = (BUDGET as usize) << 20 >> 14;
        crowd.held(most.min(flood)).await?;
        let held = most.min(flood);
        beside.extend(first_requests(&crowd, held).await?);
        let memory = (crowd.ebb.proxy.memory()? - before) >> 20;
        let refused = loud.so_far()?.statuses();
        crowd.serve(0, true)?;
        let served = loud.answers().await?.statuses();
        crowd.serve(0, false)?;
        println!(
            "  the flood: {refused:?} at once, {served:?} when it got a pod; {memory} MiB of memory more than before"
        );
    }
    for (name, times) in [("alone", &mut alone), ("beside the flood", &mut beside)] {
        times.sort_by(f64::total_cmp);
        println!(
            "  {name:<18} p50 {:>6.2} ms   max {:>6.2} ms",
            percentile(times, 0.5),
            percentile(times, 1.0)
        );
    }
    println!(
        "  ratio of p50 {:.2} (bar 1.2); all of the quiet tenant's were answered 200",
        percentile(&beside, 0.5) / percentile(&alone, 0.5)
    );
    Ok(())
}

/// Milliseconds from when the pod is known to each answer, `held` others waiting.
async fn first_requests(crowd: &Crowd, held: usize) -> Result<Vec<f64>> {
    let waiting = Waiting::http1(crowd.address(1), OTHERS);
    let budget = held.max(OTHERS);
    // With a full budget they take the places of others.
    crowd.held(if held == 0 { OTHERS } else { budget }).await?;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let start = Instant::now();
    crowd.serve(1, true)?;
    let answers = waiting.answers().await?;
    anyhow::ensure!(
        answers.statuses().keys().all(|status| *status == 200),
        "the quiet tenant got {:?}",
        answers.statuses()
    );
    crowd.serve(1, false)?;
    Ok(answers.after(start))
}
