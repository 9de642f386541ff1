//! What a warm request costs: Ebb's activator beside nginx and haproxy, each alone on one core, in front of one backend. Needs no cluster.

pub(super) mod backend;
pub(super) mod client;
mod pace;
mod servers;

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    bench::{
        calm::Calm,
        percentile,
        proxy::{
            client::{Load, Work},
            servers::Servers,
        },
    },
    servers::Proxy,
};

/// The core of the proxies; the backend and the clients are on the other one.
pub(super) const PROXY_CORE: usize = 0;
pub(super) const OTHER_CORE: usize = 1;

/// How long one measurement lasts, after as long a time as nothing is counted.
const LASTS: Duration = Duration::from_secs(2);
pub(super) const WARM_UP: Duration = Duration::from_millis(300);

/// Clients, each with one connection.
const CLIENTS: usize = 64;

/// What is sent, and the most that Ebb may cost beside nginx.
const WORKS: [(Work, f64); 9] = [
    (Work::Get { bytes: 2 }, 1.1),
    (Work::Get { bytes: 1 << 10 }, 1.2),
    (Work::Get { bytes: 64 << 10 }, 1.2),
    (Work::Get { bytes: 1 << 20 }, 1.2),
    (Work::Post { bytes: 1 << 10 }, 1.2),
    (Work::Post { bytes: 64 << 10 }, 1.2),
    (Work::Post { bytes: 1 << 20 }, 1.2),
    (Work::Connect, 1.2),
    (Work::Grpc, 1.3),
];

/// Whose rate, through nginx, is the peak: half of it is the rate at which latencies are measured.
const PEAK: Work = Work::Get { bytes: 2 };

/// Measures and prints all of it.
pub(super) async fn run(rounds: usize, only: &str, beside: Option<&Path>) -> Result<()> {
    let servers = Servers::start(PROXY_CORE, beside).await?;
    pin_to(OTHER_CORE)?;
    println!(
        "CPU of the proxy, in microseconds a request; {CLIENTS} clients, median of {rounds} rounds in turn (requests a second in brackets)"
    );
    let latency = "latency".contains(only);
    let mut peak = 0.0;
    for (work, bar) in WORKS {
        let for_peak = latency && work == PEAK;
        if !work.to_string().contains(only) && !for_peak {
            continue;
        }
        let mut costs = vec![Vec::new(); servers.proxies.len()];
        for _ in 0..rounds {
            for (index, proxy) in servers.proxies.iter().enumerate() {
                let cost = cost(proxy, work).await;
                costs[index].push(cost.with_context(|| format!("through {}", proxy.name))?);
            }
        }
        let medians: Vec<Cost> = costs.into_iter().map(median).collect();
        let nginx = medians[0];
        if work == PEAK {
            peak = nginx.rate;
        }
        let cells = servers.proxies.iter().zip(&medians);
        let cells: Vec<String> = cells
            .map(|(proxy, cost)| format!("{} {:>7.1} ({:>6.0})", proxy.name, cost.us, cost.rate))
            .collect();
        let ratio = medians[1].us / nginx.us;
        println!(
            "  {:<22} {}   Ebb/nginx {ratio:.2} (bar {bar})",
            work.to_string(),
            cells.join("   ")
        );
    }
    if latency {
        let _calm = Calm::start(&servers.proxies.iter().collect::<Vec<_>>()).await?;
        latencies(&servers, peak / 2.0, rounds).await?;
    }
    Ok(())
}

/// The backend and the clients stay off the proxies' core.
pub(super) fn pin_to(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    // The caller's thread, on which this measurement's runtime is; others have nothing to do meanwhile.
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    us: f64,
    rate: f64,
}

async fn cost(proxy: &Proxy, work: Work) -> Result<Cost> {
    let address = match work {
        Work::Grpc => proxy.grpc,
        _ => proxy.address,
    };
    let load = Load::start(address, work, CLIENTS);
    tokio::time::sleep(WARM_UP).await;
    let (cpu, count) = (proxy.cpu()?, load.count());
    let start = std::time::Instant::now();
    tokio::time::sleep(LASTS).await;
    let took = start.elapsed().as_secs_f64();
    let (cpu, count) = (proxy.cpu()? - cpu, load.count() - count);
    load.end()?;
    let count = count.max(1) as f64;
    Ok(Cost {
        us: cpu.as_secs_f64() * 1e6 / count,
        rate: count / took,
    })
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.us.total_cmp(&b.us));
    costs[costs.len() / 2]
}

/// How long requests take that come at a constant rate, whatever the answers do.
async fn latencies(servers: &Servers, rate: f64, rounds: usize) -> Result<()> {
    println!(
        "latency of {rate:.0} requests a second that come whatever the answers do, in microseconds, median of {rounds} rounds"
    );
    let mut seen = vec![[const { Vec::new() }; 3]; servers.proxies.len() + 1];
    for _ in 0..rounds {
        let proxies = servers.proxies.iter().map(|p| p.address);
        for (index, address) in proxies.chain([servers.backend]).enumerate() {
            let times = latency(address, rate).await?;
            for (kept, share) in seen[index].iter_mut().zip([0.5, 0.99, 0.999]) {
                kept.push(percentile(&times, share));
            }
        }
    }
    let names = servers.proxies.iter().map(|p| p.name);
    for (name, mut seen) in names.chain(["none"]).zip(seen) {
        let [p50, p99, p999] = seen.each_mut().map(|values| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        });
        println!("  {name:<8} p50 {p50:>7.0}   p99 {p99:>7.0}   p99.9 {p999:>7.0}");
    }
    Ok(())
}

async fn latency(address: SocketAddr, rate: f64) -> Result<Vec<f64>> {
    let mut times = client::open(address, rate, CLIENTS, LASTS * 2).await?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}
