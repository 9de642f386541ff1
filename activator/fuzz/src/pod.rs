//! A pod that reads strictly: what it cannot read, or what a pod must never see, ends the process.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    host,
    strict::{self, Request},
};

/// Header of each answer: how many requests the pod had read before.
pub(crate) const NUMBER: &str = "x-number";

/// A request as the pod got it, and what came on its connection when the protocol was changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) request: Request,
    pub(crate) switched: Option<Vec<u8>>,
}

/// What the pod has seen.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) seen: Vec<Seen>,
    /// Connections that have begun something and not ended it.
    pub(crate) unfinished: usize,
    /// Grows with everything that happens.
    pub(crate) events: u64,
}

/// A running pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Log>>,
}

impl Pod {
    /// Starts one on the present runtime.
    pub(crate) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let pod = Self {
            address: listener.local_addr()?,
            log: Arc::default(),
        };
        let accepting = pod.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.log().events += 1;
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        Ok(pod)
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self, mut stream: TcpStream) {
        // A connection that ends is the activator's matter; what it sees on it is not.
        let _ = self.requests(&mut stream).await;
    }

    async fn requests(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            let read = match strict::request(&bytes) {
                Ok(read) => read,
                Err(why) => panic!("the pod got {why}: {}", bytes.escape_ascii()),
            };
            let Some((request, length)) = read else {
                if !self.more(stream, &mut bytes).await? {
                    return Ok(());
                }
                continue;
            };
            bytes.drain(..length);
            check(&request);
            let switches = request.target == "/switch" && request.all("upgrade").next().is_some();
            let number = self.note(&request, switches);
            if switches {
                let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x";
                let head = format!("{head}\r\n{NUMBER}: {number}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                return self.opaque(stream, bytes, number).await;
            }
            // An answer to HEAD that says a length has no body.
            let body = if request.method == "HEAD" { "" } else { "ok" };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\n{NUMBER}: {number}\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await?;
        }
    }

    /// Reads more of what has begun, and counts it as unfinished meanwhile. False: there is no more.
    async fn more(&self, stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<bool> {
        let begun = usize::from(!bytes.is_empty());
        self.log().unfinished += begun;
        let read = stream.read_buf(bytes).await;
        let mut log = self.log();
        log.unfinished -= begun;
        log.events += 1;
        Ok(read? > 0)
    }

    fn note(&self, request: &Request, switches: bool) -> usize {
        let mut log = self.log();
        log.events += 1;
        log.seen.push(Seen {
            request: request.clone(),
            switched: switches.then(Vec::new),
        });
        log.seen.len() - 1
    }

    async fn opaque(
        &self,
        stream: &mut TcpStream,
        first: Vec<u8>,
        number: usize,
    ) -> std::io::Result<()> {
        let mut bytes = first;
        loop {
            if let Some(seen) = self.log().seen.get_mut(number) {
                seen.switched = Some(bytes.clone());
            }
            let more = stream.read_buf(&mut bytes).await? > 0;
            self.log().events += 1;
            if !more {
                return Ok(());
            }
        }
    }
}

/// What holds for every request that a pod gets, whatever its client has sent.
fn check(request: &Request) {
    let hosts: Vec<_> = request.all("host").collect();
    assert_eq!(hosts.len(), 1, "Hosts of {request:?}");
    let host = std::str::from_utf8(hosts[0]).unwrap_or("\0");
    assert!(host::is_host(host), "the Host of {request:?}");
    let target = &request.target;
    let asterisk = target == "*" && request.method == "OPTIONS";
    assert!(
        target.starts_with('/') || asterisk,
        "the target of {request:?}"
    );
    let upgrade = request.all("upgrade").next().is_some();
    for (name, value) in &request.fields {
        let allowed = match name.as_str() {
            "connection" => upgrade && value == b"upgrade",
            "te" => value == b"trailers",
            "keep-alive" | "proxy-connection" | "expect" => false,
            _ => true,
        };
        assert!(allowed, "{name} of {request:?}");
    }
    for name in [
        "upgrade",
        "forwarded",
        "x-forwarded-for",
        "x-request-id",
        "traceparent",
    ] {
        let count = request.all(name).count();
        assert!(
            count == 1 || (name == "upgrade" && count == 0),
            "{name} of {request:?}"
        );
    }
    let from = request.all("x-forwarded-for").next().unwrap_or_default();
    assert!(from.ends_with(b".0.9"), "the address of {request:?}");
}
