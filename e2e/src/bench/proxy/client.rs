//! The clients: as little as can be, because they share a core with the backend.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};

use super::{WARM_UP, pace::Pace};

/// Calls of gRPC at once on a connection.
const CALLS: usize = 8;

/// What a client does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Work {
    /// An answer of so many bytes.
    Get {
        /// Of the answer's body.
        bytes: usize,
    },
    /// A request with a body of so many bytes.
    Post {
        /// Of the request's body.
        bytes: usize,
    },
    /// A small answer on a connection of its own.
    Connect,
    /// A unary call of gRPC with a message of 100 bytes each way, eight at once on a connection of HTTP/2.
    Grpc,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: &usize| match bytes {
            0..1024 => format!("{bytes} bytes"),
            1024..0x10_0000 => format!("{} KiB", bytes >> 10),
            _ => format!("{} MiB", bytes >> 20),
        };
        match self {
            Self::Get { bytes } => write!(f, "get {}", size(bytes)),
            Self::Post { bytes } => write!(f, "post {}", size(bytes)),
            Self::Connect => f.write_str("connect and get"),
            Self::Grpc => f.write_str("gRPC unary"),
        }
    }
}

impl Work {
    fn request(self) -> Vec<u8> {
        let head = "Host: bench.shop\r\nUser-Agent: bench\r\nAccept: */*\r\n";
        match self {
            Self::Get { bytes } => format!("GET /{bytes} HTTP/1.1\r\n{head}\r\n").into_bytes(),
            Self::Connect => {
                format!("GET /2 HTTP/1.1\r\n{head}Connection: close\r\n\r\n").into_bytes()
            }
            // Made anew for each call.
            Self::Grpc => Vec::new(),
            Self::Post { bytes } => {
                let mut request =
                    format!("POST /2 HTTP/1.1\r\n{head}Content-Length: {bytes}\r\n\r\n")
                        .into_bytes();
                request.resize(request.len() + bytes, b'x');
                request
            }
        }
    }
}

/// Clients at work.
pub(in crate::bench) struct Load {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<()>>,
}

impl Load {
    /// Starts so many clients. They share the caller's thread.
    pub(in crate::bench) fn start(address: SocketAddr, work: Work, clients: usize) -> Self {
        let (done, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        if work == Work::Grpc {
            return Self::grpc(address, clients, done, stop);
        }
        let request: Arc<[u8]> = work.request().into();
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (done, stop, request) = (done.clone(), stop.clone(), request.clone());
            tasks.spawn(async move {
                let mut connection = None;
                while !stop.load(Relaxed) {
                    let mut used = match connection.take() {
                        Some(connection) => connection,
                        None => Connection::open(address).await?,
                    };
                    used.exchange(&request).await?;
                    done.fetch_add(1, Relaxed);
                    if work != Work::Connect {
                        connection = Some(used);
                    }
                }
                Ok(())
            });
        }
        Self { done, stop, tasks }
    }

    fn grpc(
        address: SocketAddr,
        clients: usize,
        done: Arc<AtomicU64>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        for _ in 0..clients / CALLS {
            let (done, stop) = (done.clone(), stop.clone());
            tasks.spawn(async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                tokio::spawn(async move { drop(connection.await) });
                let callers = (0..CALLS).map(|_| call_on(&sender, address, &done, &stop));
                try_join_all(callers).await?;
                Ok(())
            });
        }
        Self { done, stop, tasks }
    }

    /// Requests answered so far.
    pub(in crate::bench) fn count(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Ends them all; an error if one of them had failed.
    pub(in crate::bench) fn end(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        while let Some(ended) = self.tasks.try_join_next() {
            ended?.context("a client failed")?;
        }
        Ok(())
    }
}

/// Calls again and again.
async fn call_on(
    sender: &http2::SendRequest<Full<Bytes>>,
    address: SocketAddr,
    done: &AtomicU64,
    stop: &AtomicBool,
) -> Result<()> {
    let mut sender = sender.clone();
    // Not compressed, 100 bytes (the length-prefixed message of gRPC over HTTP/2).
    let mut message = vec![0, 0, 0, 0, 100];
    message.resize(105, b'x');
    let message = Bytes::from(message);
    while !stop.load(Relaxed) {
        let request = Request::post(format!("http://{address}/bench.Echo/Say"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(message.clone()))?;
        let answer = sender.send_request(request).await?;
        let answer = answer.into_body().collect().await?;
        let status = answer.trailers().and_then(|t| t.get("grpc-status"));
        ensure!(
            status.is_some_and(|s| s == "0"),
            "a call ended with {status:?}"
        );
        done.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// Times in microseconds, from when each request was due, at a constant rate over so many connections, once they are warm: the first requests
/// open connections everywhere, and they alone were the slowest of a thousand.
pub(in crate::bench) async fn open(
    address: SocketAddr,
    rate: f64,
    clients: usize,
    lasts: Duration,
) -> Result<Vec<f64>> {
    let request: Arc<[u8]> = Work::Get { bytes: 2 }.request().into();
    let mut tasks = JoinSet::new();
    let mut turns = Vec::new();
    let warm = Instant::now() + WARM_UP;
    for _ in 0..clients {
        let request = request.clone();
        let mut connection = Connection::open(address).await?;
        let (turn, mut due) = mpsc::unbounded_channel::<Instant>();
        turns.push(turn);
        tasks.spawn(async move {
            let mut times = Vec::new();
            while let Some(due) = due.recv().await {
                connection.exchange(&request).await?;
                if due >= warm {
                    times.push(due.elapsed().as_secs_f64() * 1e6);
                }
            }
            anyhow::Ok(times)
        });
    }
    let mut pace = Pace::start(rate, WARM_UP + lasts)?;
    for turn in turns.iter().cycle() {
        let Some(due) = pace.next().await? else {
            break;
        };
        // Who has failed says why below.
        let _ = turn.send(due);
    }
    drop(turns);
    let mut all = Vec::new();
    while let Some(times) = tasks.join_next().await {
        all.extend(times??);
    }
    Ok(all)
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; 64 << 10],
        })
    }

    /// One request and its whole answer, which must be a 200 with a length.
    async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let head = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            ensure!(read > 0, "the connection was closed without an answer");
            filled += read;
            if let Some(end) = self.buffer[..filled]
                .windows(4)
                .position(|w| w == b"\r\n\r\n")
            {
                break end + 4;
            }
        };
        let length = length(&self.buffer[..head])?;
        let mut left = (head + length).saturating_sub(filled);
        while left > 0 {
            let read = self.stream.read(&mut self.buffer).await?;
            ensure!(
                read > 0,
                "the connection was closed in the middle of an answer"
            );
            left = left.saturating_sub(read);
        }
        Ok(())
    }
}

fn length(head: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(head)?;
    if !text.starts_with("HTTP/1.1 200") {
        bail!("the answer is {text:?}");
    }
    let value = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    };
    text.lines()
        .find_map(value)
        .context("the answer has no length")
}
