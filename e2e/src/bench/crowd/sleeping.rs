//! Functions that sleep: what each takes in an activator, and what requests to one of them notice of the others.

use std::time::Duration;

use anyhow::Result;
use crds::names::FunctionKey;

use super::{Crowd, prepare};
use crate::bench::{
    calm::Calm,
    percentile,
    proxy::{WARM_UP, client},
};

/// Requests a second to the one Function that is awake, over so many connections, and for how long.
const RATE: f64 = 4_000.0;
const CLIENTS: usize = 32;
const LASTS: Duration = Duration::from_secs(3);

pub(in crate::bench) async fn run(functions: usize, rounds: usize) -> Result<()> {
    prepare()?;
    let few = crowd(1, 10).await?;
    let memory = few.ebb.proxy.memory()?;
    let many = crowd(2, functions).await?;
    let each = (many.ebb.proxy.memory()?.saturating_sub(memory)) as f64 / (functions - 10) as f64;
    println!(
        "{functions} Functions that sleep: {:.2} KiB of memory each (bar 4)",
        each / 1024.0
    );
    println!(
        "{RATE:.0} requests a second to one of them, in microseconds; median of {rounds} rounds in turn"
    );
    let mut seen = [const { [const { Vec::new() }; 3] }; 2];
    for crowd in [&few, &many] {
        crowd.serve(0, true)?;
    }
    let _calm = Calm::start(&[&few.ebb.proxy, &many.ebb.proxy]).await?;
    for _ in 0..rounds {
        for (kept, crowd) in seen.iter_mut().zip([&few, &many]) {
            let cpu = crowd.ebb.proxy.cpu()?;
            let mut times = client::open(crowd.address(0), RATE, CLIENTS, LASTS).await?;
            let requests = RATE * (WARM_UP + LASTS).as_secs_f64();
            let cpu = (crowd.ebb.proxy.cpu()? - cpu).as_secs_f64() * 1e6 / requests;
            times.sort_by(f64::total_cmp);
            let row = [percentile(&times, 0.5), percentile(&times, 0.99), cpu];
            kept.iter_mut()
                .zip(row)
                .for_each(|(kept, value)| kept.push(value));
        }
    }
    let mut rows = Vec::new();
    for (name, values) in [10, functions].iter().zip(&mut seen) {
        let [p50, p99, cpu] = values.each_mut().map(|values| {
            values.sort_by(f64::total_cmp);
            percentile(values, 0.5)
        });
        println!(
            "  {name:>6} Functions   p50 {p50:>6.0}   p99 {p99:>6.0}   CPU {cpu:>5.1} a request"
        );
        rows.push((p50, cpu));
    }
    println!(
        "  p50 {:.2} times that of few (bar 1.05), CPU {:.2} times",
        rows[1].0 / rows[0].0,
        rows[1].1 / rows[0].1
    );
    Ok(())
}

async fn crowd(last: u8, functions: usize) -> Result<Crowd> {
    let key = |number| FunctionKey::new("shop", format!("f{number}"));
    Crowd::start(
        [127, 0, 0, last].into(),
        (0..functions).map(key).collect(),
        &[],
    )
    .await
}
