//! A pod that trusts nobody: it writes down what comes, as it stands on the wire, and answers with given bytes.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::task::TaskTracker;

use crate::conform::kit::SOON;

/// An answer.
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The longest line, and the longest body, that are taken.
const MOST: u64 = 1 << 20;

/// Whatever came where a request had to begin.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The first line.
    pub(super) line: String,
    pub(super) host: String,
    pub(super) body: Vec<u8>,
    /// Whether its end came.
    pub(super) whole: bool,
}

/// A running one.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: JoinHandle<()>,
    connections: TaskTracker,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Backend {
    /// Starts one that gives this answer to every request. It closes the connection after an answer that says so.
    pub(super) async fn start(answer: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), TaskTracker::new());
        let (log, tracked) = (Arc::clone(&seen), connections.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let log = Arc::clone(&log);
                // That it ends early shows in what was not seen whole.
                tracked.spawn(async move { drop(serve(stream, answer, &log).await) });
            }
        });
        Ok(Self {
            address,
            seen,
            accepting,
            connections,
        })
    }

    /// All that came. Those who called must be gone.
    pub(super) async fn end(self) -> Result<Vec<Seen>> {
        self.accepting.abort();
        self.connections.close();
        let ended = timeout(SOON, self.connections.wait()).await;
        ended.context("connections to a pod are left open")?;
        Ok(std::mem::take(&mut *self.seen.lock()))
    }
}

async fn serve(stream: TcpStream, answer: &str, log: &Mutex<Vec<Seen>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let first = line(&mut stream).await?;
        let number = {
            let mut log = log.lock();
            log.push(Seen {
                line: first,
                ..Seen::default()
            });
            log.len() - 1
        };
        let head = head(&mut stream).await?;
        if let Some(wrong) = head.ambiguous() {
            let line = &mut log.lock()[number].line;
            *line = format!("{wrong} {line}");
        }
        log.lock()[number].host = head.hosts.join(", ");
        let body = body(&mut stream, &head).await?;
        {
            let seen = &mut log.lock()[number];
            (seen.body, seen.whole) = (body, true);
        }
        stream.write_all(answer.as_bytes()).await?;
        if answer.contains("Connection: close") {
            return Ok(());
        }
    }
}

/// What of a head says how long the body is, and whom it is for.
#[derive(Default)]
struct Head {
    hosts: Vec<String>,
    lengths: Vec<String>,
    codings: Vec<String>,
}

impl Head {
    /// What a proxy must never send on (RFC 9112 section 6.3).
    fn ambiguous(&self) -> Option<&'static str> {
        match (self.lengths.len(), self.codings.len(), self.hosts.len()) {
            (1.., 1.., _) => Some("LENGTH-AND-CODING"),
            (2.., ..) => Some("TWO-LENGTHS"),
            (_, 2.., _) => Some("TWO-CODINGS"),
            (.., 1) => None,
            _ => Some("NOT-ONE-HOST"),
        }
    }
}

/// A line without its end; an error at the end of all.
async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    stream.take(MOST).read_until(b'\n', &mut line).await?;
    match line.pop() {
        Some(b'\n') => Ok(line.escape_ascii().to_string().replace("\\r", "")),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn head(stream: &mut BufReader<TcpStream>) -> io::Result<Head> {
    let mut head = Head::default();
    loop {
        let line = line(stream).await?;
        if line.is_empty() {
            return Ok(head);
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        let list = match name.to_ascii_lowercase().trim() {
            "host" => &mut head.hosts,
            "content-length" => &mut head.lengths,
            "transfer-encoding" => &mut head.codings,
            _ => continue,
        };
        list.push(value.trim().to_owned());
    }
}

async fn body(stream: &mut BufReader<TcpStream>, head: &Head) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if head.codings.is_empty() {
        let length = head.lengths.first().map_or("0", String::as_str);
        read(stream, length.parse().map_err(io::Error::other)?, &mut body).await?;
        return Ok(body);
    }
    loop {
        let size = line(stream).await?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
        if size == 0 {
            while !line(stream).await?.is_empty() {}
            return Ok(body);
        }
        read(stream, size, &mut body).await?;
        line(stream).await?;
    }
}

async fn read(
    stream: &mut BufReader<TcpStream>,
    length: u64,
    into: &mut Vec<u8>,
) -> io::Result<()> {
    if length > MOST {
        return Err(io::Error::other("too long"));
    }
    let read = stream.take(length).read_to_end(into).await?;
    match read as u64 == length {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
