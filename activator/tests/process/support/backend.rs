//! Pods: HTTP servers that remember what they got.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use crds::control::Protocol;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Either, Full, channel};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// A request as a pod got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

type Reply = Response<Either<Full<Bytes>, channel::Channel<Bytes>>>;

/// A running pod. It answers
/// `/hello` with its name, `/echo` with the request's body, `/gate` with a body whose end waits for [`open`](Self::open), `/wide` the same with a head of 8 KiB,
/// `/drip` in seven pieces, a tenth of a second apart, `/late` not at all before that, `/flood` without end, `/none` with 204, `/same` with 304, `/trailers` with trailers, and
/// `/alone` after some milliseconds with its name, or with 500 if another such request was there meanwhile,
/// `/talk` with the request's body while it comes, and a trailer.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    name: &'static str,
    protocol: Protocol,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    gate: Notify,
    alone: AtomicUsize,
    /// Closes the open connections.
    hang_up: Mutex<CancellationToken>,
}

/// An address at which nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Backend {
    pub(crate) fn start(name: &'static str) -> Self {
        Self::at(name, "127.0.0.1:0".parse().unwrap())
    }

    /// One that speaks HTTP/2 and nothing else.
    pub(crate) fn h2c(name: &'static str) -> Self {
        Self::speaking(name, "127.0.0.1:0".parse().unwrap(), Protocol::H2c)
    }

    pub(crate) fn at(name: &'static str, address: SocketAddr) -> Self {
        Self::speaking(name, address, Protocol::Http1)
    }

    fn speaking(name: &'static str, address: SocketAddr, protocol: Protocol) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name,
            protocol,
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            gate: Notify::new(),
            alone: AtomicUsize::new(0),
            hang_up: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let accepting = accept(listener, Arc::clone(&shared));
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(accepting).await });
        Self {
            address,
            shared,
            stop,
        }
    }

    /// Requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Lets one request to `/gate` or `/late` go on.
    pub(crate) fn open(&self) {
        self.shared.gate.notify_one();
    }

    /// Lets all requests to `/gate` and `/late` that wait go on.
    pub(crate) fn open_all(&self) {
        self.shared.gate.notify_waiters();
    }

    /// Closes all open connections, but accepts new ones.
    pub(crate) fn hang_up(&self) {
        let next = CancellationToken::new();
        std::mem::replace(&mut *self.shared.hang_up.lock().unwrap(), next).cancel();
    }

    /// Stops listening; new connections are refused.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.hang_up();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let hang_up = shared.hang_up.lock().unwrap().clone();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&shared), request));
            let stream = TokioIo::new(stream);
            if shared.protocol == Protocol::H2c {
                let builder = http2::Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection(stream, service);
                hang_up.run_until_cancelled(connection).await
            } else {
                let connection = http1::Builder::new().serve_connection(stream, service);
                hang_up.run_until_cancelled(connection).await
            }
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/talk" {
        return Ok(talk(body));
    }
    let collected = body.collect().await;
    let (body, trailers) = match collected {
        Ok(collected) => {
            let trailers = collected.trailers().cloned();
            (collected.to_bytes(), trailers)
        }
        Err(_) => (Bytes::from_static(b"(broken off)"), None),
    };
    shared.seen.lock().unwrap().push(Seen {
        method: head.method,
        uri: head.uri.clone(),
        headers: head.headers,
        body: body.clone(),
        trailers,
    });
    Ok(match head.uri.path() {
        "/echo" => whole(200, body),
        "/none" => whole(204, Bytes::new()),
        "/same" => whole(304, Bytes::new()),
        "/late" => {
            shared.gate.notified().await;
            whole(200, Bytes::from_static(b"late"))
        }
        "/alone" => alone(&shared).await,
        "/gate" => gated(shared),
        "/wide" => {
            let mut answer = gated(shared);
            let wide = "x".repeat(8 << 10).parse().unwrap();
            answer.headers_mut().insert("x-wide", wide);
            answer
        }
        "/drip" => drip(),
        "/flood" => flood(),
        "/trailers" => trailing(),
        _ => whole(200, Bytes::from(shared.name)),
    })
}

async fn alone(shared: &Shared) -> Reply {
    let others = shared.alone.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let others = others + shared.alone.fetch_sub(1, Ordering::SeqCst) - 1;
    match others {
        0 => whole(200, Bytes::from(shared.name)),
        _ => whole(500, Bytes::from("not alone")),
    }
}

fn whole(status: u16, body: Bytes) -> Reply {
    let response = Response::builder().status(status);
    response.body(Either::Left(Full::new(body))).unwrap()
}

/// A chunked answer: `begin`, and when the gate opens, `end`.
fn gated(shared: Arc<Shared>) -> Reply {
    let (mut out, body) = channel::Channel::new(1);
    tokio::spawn(async move {
        out.send_data(Bytes::from_static(b"begin ")).await.unwrap();
        shared.gate.notified().await;
        let _ = out.send_data(Bytes::from_static(b"end")).await;
    });
    Response::new(Either::Right(body))
}

fn drip() -> Reply {
    let (mut out, body) = channel::Channel::new(1);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
        for _ in 0..7 {
            ticks.tick().await;
            out.send_data(Bytes::from_static(b"drip")).await.unwrap();
        }
    });
    Response::new(Either::Right(body))
}

fn flood() -> Reply {
    let (mut out, body) = channel::Channel::new(1);
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; 64 << 10]);
        while out.send_data(piece.clone()).await.is_ok() {}
    });
    Response::new(Either::Right(body))
}

/// Answers each piece of the request as it comes, and ends as gRPC does.
fn talk(mut heard: Incoming) -> Reply {
    let (mut out, body) = channel::Channel::new(1);
    tokio::spawn(async move {
        while let Some(Ok(frame)) = heard.frame().await {
            if let Ok(piece) = frame.into_data() {
                out.send_data(piece).await.unwrap();
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        out.send_trailers(trailers).await.unwrap();
    });
    Response::new(Either::Right(body))
}

fn trailing() -> Reply {
    let (mut out, body) = channel::Channel::new(1);
    tokio::spawn(async move {
        out.send_data(Bytes::from_static(b"data")).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "42".parse().unwrap());
        out.send_trailers(trailers).await.unwrap();
    });
    let mut response = Response::new(Either::Right(body));
    response
        .headers_mut()
        .insert("trailer", "x-sum".parse().unwrap());
    response
}
