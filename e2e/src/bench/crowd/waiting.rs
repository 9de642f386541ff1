//! Clients that send a request and wait for its answer.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::apart::Apart;

/// Connections from one address, which has some 28,000 ports.
const FROM_ONE_ADDRESS: usize = 5_000;

/// Requests on a connection of HTTP/2: fewer than the activator allows.
const STREAMS: usize = 100;

/// When requests were answered, and with which status.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) at: Vec<(Instant, u16)>,
}

/// Requests that have no answer yet.
pub(super) struct Waiting(JoinSet<Result<(Instant, u16)>>);

/// A connection from one of many local addresses.
pub(super) async fn connect(address: SocketAddr, number: usize) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let last = 10 + (number / FROM_ONE_ADDRESS) as u8;
    socket.bind((IpAddr::from([127, 0, 0, last]), 0).into())?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Waiting {
    /// Sends so many requests, each on a connection of its own.
    pub(super) fn http1(address: SocketAddr, count: usize) -> Self {
        let mut all = JoinSet::new();
        for number in 0..count {
            all.spawn(async move {
                let mut stream = connect(address, number).await?;
                stream.write_all(b"GET /2 HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n").await?;
                let mut head = [0; 12];
                stream.read_exact(&mut head).await?;
                let at = Instant::now();
                let status = std::str::from_utf8(&head[9..])?.parse()?;
                Ok((at, status))
            });
        }
        Self(all)
    }

    /// Sends so many requests, a hundred on each connection of HTTP/2.
    pub(super) async fn http2(address: SocketAddr, count: usize) -> Result<Self> {
        let mut all = JoinSet::new();
        for number in 0..count.div_ceil(STREAMS) {
            let stream = connect(address, number).await?;
            let io = TokioIo::new(stream);
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(async move { drop(connection.await) });
            for _ in 0..STREAMS.min(count - number * STREAMS) {
                let mut sender = sender.clone();
                let uri = format!("http://{address}/2");
                all.spawn(async move {
                    let request = Request::get(uri).body(Empty::<Bytes>::new())?;
                    let answer = sender.send_request(request).await?;
                    let at = Instant::now();
                    let status = answer.status().as_u16();
                    answer.into_body().collect().await?;
                    Ok((at, status))
                });
            }
        }
        Ok(Self(all))
    }

    /// Waits for all answers.
    pub(super) async fn answers(mut self) -> Result<Answers> {
        let mut answers = Answers::default();
        while let Some(answer) = self.0.join_next().await {
            answers.at.push(answer?.context("a client failed")?);
        }
        answers.at.sort();
        Ok(answers)
    }
}

/// Requests over HTTP/2 that wait, on a thread of their own: what they have freed keeps the allocator busy for milliseconds, which others would be
/// measured to wait.
pub(super) struct Flood {
    answers: Arc<Mutex<Answers>>,
    ended: JoinHandle<Result<()>>,
    _thread: Apart,
}

impl Flood {
    /// Sends so many requests.
    pub(super) fn start(address: SocketAddr, count: usize) -> Result<Self> {
        let thread = Apart::start("flood")?;
        let answers = Arc::<Mutex<Answers>>::default();
        let into = Arc::clone(&answers);
        let ended = thread.runtime.spawn(async move {
            let mut waiting = Waiting::http2(address, count).await?;
            while let Some(answer) = waiting.0.join_next().await {
                into.lock().at.push(answer?.context("a client failed")?);
            }
            Ok(())
        });
        Ok(Self {
            answers,
            ended,
            _thread: thread,
        })
    }

    /// How many are answered.
    pub(super) fn answered(&self) -> usize {
        self.answers.lock().at.len()
    }

    /// Those that were answered since it was called last.
    pub(super) fn since(&self) -> Answers {
        std::mem::take(&mut *self.answers.lock())
    }

    /// Waits for all other answers.
    pub(super) async fn rest(self) -> Result<Answers> {
        self.ended.await.context("the flood has ended")??;
        Ok(std::mem::take(&mut *self.answers.lock()))
    }
}

impl Answers {
    /// How many had which status.
    pub(super) fn statuses(&self) -> BTreeMap<u16, usize> {
        self.at
            .iter()
            .fold(BTreeMap::new(), |mut sum, (_, status)| {
                *sum.entry(*status).or_default() += 1;
                sum
            })
    }

    /// Milliseconds from `start` to each, in order.
    pub(super) fn after(&self, start: Instant) -> Vec<f64> {
        let after = |(at, _): &(Instant, u16)| at.duration_since(start).as_secs_f64() * 1e3;
        self.at.iter().map(after).collect()
    }
}
