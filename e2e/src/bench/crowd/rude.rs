//! Clients that hold connections, that send and read slowly, or too much: what others notice; and clients that leave.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use crds::names::FunctionKey;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::{Instant, interval, interval_at, sleep},
};

use super::{
    Crowd,
    apart::Apart,
    prepare,
    waiting::{Waiting, connect},
};
use crate::{
    bench::{
        calm::Calm,
        percentile,
        proxy::{backend, client},
    },
    control::pods,
};

/// The Functions, as the activator numbers them here: one for the others, one for those who are rude, one without a pod.
const OTHERS: usize = 0;
const THEIRS: usize = 1;
const ASLEEP: usize = 2;

/// The others' load.
const RATE: f64 = 2_000.0;
const CLIENTS: usize = 32;
const LASTS: Duration = Duration::from_secs(3);

/// Heads of 60 KiB a second, over all who send them.
const HEADS: u64 = 200;

/// Until what they do at first is over: this is about what they do all the time.
const SETTLED: Duration = Duration::from_secs(2);

/// What a kind of rude client does.
#[derive(Clone, Copy)]
enum Rude {
    /// Opens so many connections, or as many as there can be, and says nothing.
    Idle(usize),
    /// Sends a header a byte a second.
    Slow(usize),
    /// Sends heads of 60 KiB again and again.
    Heads,
    /// Asks for 1 MiB and does not read it.
    Deaf(usize),
}

const KINDS: [(Rude, &str); 4] = [
    (Rude::Idle(10_000), "idle connections"),
    (Rude::Slow(1_000), "1,000 that send a byte a second"),
    (Rude::Heads, "200 heads of 60 KiB a second"),
    (Rude::Deaf(200), "200 that do not read 1 MiB"),
];

pub(in crate::bench) async fn run(rounds: usize) -> Result<()> {
    let most = prepare()?;
    let keys = ["others", "theirs", "asleep"].map(|name| FunctionKey::new("shop", name));
    let crowd = Crowd::start([127, 0, 0, 1].into(), keys.to_vec(), &[]).await?;
    crowd.serve(OTHERS, true)?;
    let apart = Apart::start("rude")?;
    let pod = apart.runtime.spawn(async { backend::start() }).await??;
    crowd
        .control
        .tell(pods(&crowd.functions[THEIRS].0, Some(pod)))?;
    // What those who are rude, and their pod, take of the clients' core is not the activator's doing: they do without.
    let _calm = Calm::start(&[&crowd.ebb.proxy]).await?;
    println!(
        "{RATE:.0} requests a second of others, in microseconds; each beside as long a time without, median of {rounds} rounds"
    );
    for (kind, name) in KINDS {
        let kind = match kind {
            Rude::Idle(count) => Rude::Idle(count.min(most)),
            kind => kind,
        };
        if let Rude::Idle(count) = kind {
            println!("  {count} connections are possible here");
        }
        let [mut quiet, mut beside, mut rates] = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            quiet.push(p99(crowd.address(OTHERS)).await?);
            let wrote = Arc::<AtomicU64>::default();
            let clients = kind.start(crowd.address(THEIRS), Arc::clone(&wrote));
            let mut clients = apart.runtime.spawn(clients).await??;
            sleep(SETTLED).await;
            let (before, since) = (wrote.load(Relaxed), Instant::now());
            beside.push(p99(crowd.address(OTHERS)).await?);
            let rate = (wrote.load(Relaxed) - before) as f64 / since.elapsed().as_secs_f64();
            if let Some(ended) = clients.try_join_next() {
                bail!("one of those who are rude has stopped: {ended:?}");
            }
            rates.push(rate);
            drop(clients);
            sleep(Duration::from_millis(500)).await;
        }
        let [quiet, beside, rate] = [quiet, beside, rates].map(|mut values| {
            values.sort_by(f64::total_cmp);
            percentile(&values, 0.5)
        });
        println!(
            "  {name:<32} p99 {beside:>6.0}, without {quiet:>6.0}: {:.2} times (bar 1.2); they wrote {rate:.0} times a second",
            beside / quiet
        );
    }
    leaving(&crowd).await
}

async fn p99(address: SocketAddr) -> Result<f64> {
    let mut times = client::open(address, RATE, CLIENTS, LASTS).await?;
    times.sort_by(f64::total_cmp);
    Ok(percentile(&times, 0.99))
}

impl Rude {
    /// Starts them, who count what they write again and again; they end when dropped.
    async fn start(
        self,
        address: SocketAddr,
        wrote: Arc<AtomicU64>,
    ) -> Result<JoinSet<Result<()>>> {
        let mut clients = JoinSet::new();
        let count = match self {
            Self::Idle(count) | Self::Slow(count) | Self::Deaf(count) => count,
            Self::Heads => 1,
        };
        for number in 0..count {
            let mut stream = connect(address, number).await?;
            let wrote = Arc::clone(&wrote);
            clients.spawn(async move {
                match self {
                    Self::Idle(_) => {}
                    Self::Slow(_) => {
                        stream
                            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                            .await?;
                        // Not all at the same moment.
                        let first = Instant::now() + Duration::from_millis(fastrand::u64(0..1_000));
                        let mut ticks = interval_at(first, Duration::from_secs(1));
                        loop {
                            ticks.tick().await;
                            out_of_step();
                            stream.write_all(b"x").await?;
                            wrote.fetch_add(1, Relaxed);
                        }
                    }
                    Self::Heads => {
                        let head = format!(
                            "GET /2 HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n",
                            "x".repeat(60 << 10)
                        );
                        let mut ticks = interval(Duration::from_micros(1_000_000 / HEADS));
                        let mut answer = [0; 4096];
                        loop {
                            ticks.tick().await;
                            out_of_step();
                            stream.write_all(head.as_bytes()).await?;
                            let read = stream.read(&mut answer).await?;
                            let answer = String::from_utf8_lossy(&answer[..read]);
                            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
                            wrote.fetch_add(1, Relaxed);
                        }
                    }
                    Self::Deaf(_) => {
                        stream
                            .write_all(b"GET /1048576 HTTP/1.1\r\nHost: x\r\n\r\n")
                            .await?;
                    }
                }
                std::future::pending().await
            });
        }
        Ok(clients)
    }
}

/// Waits for part of the time between two of the others' requests. The runtime's timers know milliseconds only: all that is written would come at one
/// and the same moment of a request of others, or at none.
fn out_of_step() {
    let between = (1e6 / RATE) as u64;
    thread::sleep(Duration::from_micros(fastrand::u64(0..between)));
}

/// How soon the place of a request that waits is free when its client leaves.
async fn leaving(crowd: &Crowd) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..100 {
        let waiting = Waiting::http1(crowd.address(ASLEEP), 1);
        crowd.held(1).await?;
        let left = Instant::now();
        drop(waiting);
        while crowd.metric("ebb_activator_requests_held").await? > 0.0 {}
        times.push(left.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "a client that leaves while its request waits: its place is free after p50 {:.1} ms, max {:.1} ms (bar 10; asking takes part of that)",
        percentile(&times, 0.5),
        percentile(&times, 1.0)
    );
    Ok(())
}
