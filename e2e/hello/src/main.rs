//! A small HTTP server: the sample app of the demo, and what the tests and benchmarks run behind Ebb.
//!
//! `/` greets · `/echo` returns the body · `/hash` answers its length and FNV-1a-64 · `/sleep?ms=N` ·
//! `/alone?ms=N` the same, and 500 if another such request was there meanwhile ·
//! `/drip?bytes=N&ms=M` · `/headers` · `/status?code=N` · `/requests` counts · `/ready` for a probe ·
//! `/busy` says for a while that it works (200), then that it does not (204) · an `Upgrade` to any protocol is accepted and echoed.
//!
//! Environment: `PORT` (8080), `START_DELAY_MS` before it listens, `READY_DELAY_MS` before `/ready` says yes, `BUSY_MS` for `/busy`,
//! `CRASH=1` to fail at the start, `H2C=1` to speak HTTP/2 only. On SIGTERM it says on stdout how many requests are in flight, finishes them and leaves.

use std::convert::Infallible;
use std::env;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use hello::fnv::Fnv;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

type Body = BoxBody<Bytes, hyper::Error>;

/// Requests answered so far, without those to `/ready` and `/requests` themselves.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Requests to `/alone` now.
static ALONE: AtomicU64 = AtomicU64::new(0);

/// Requests whose answer has not begun.
static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if env::var("CRASH").is_ok_and(|value| value == "1") {
        eprintln!("CRASH=1: failing as I was told to");
        return ExitCode::from(3);
    }
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebb-hello: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let clock = Clock {
        ready_at: Instant::now() + millis("READY_DELAY_MS"),
        idle_at: Instant::now() + millis("BUSY_MS"),
    };
    tokio::select! {
        () = sleep(millis("START_DELAY_MS")) => {}
        _ = terminate.recv() => return Ok(()),
    }
    let port = env::var("PORT")
        .ok()
        .and_then(|port| port.parse().ok())
        .unwrap_or(8080);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    let h2c = env::var("H2C").is_ok_and(|value| value == "1");
    let (connections, stop) = (TaskTracker::new(), CancellationToken::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = terminate.recv() => break,
        };
        let Ok((socket, _)) = accepted else {
            sleep(Duration::from_millis(10)).await; // out of file descriptors: some will be free again
            continue;
        };
        let _ = socket.set_nodelay(true);
        let service = service_fn(move |request| async move {
            IN_FLIGHT.fetch_add(1, Relaxed);
            let answer = answer(request, clock).await;
            IN_FLIGHT.fetch_sub(1, Relaxed);
            Ok::<_, Infallible>(answer)
        });
        let stopped = stop.clone();
        let socket = TokioIo::new(socket);
        if h2c {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(socket, service);
            connections.spawn(run(connection, stopped, |c| c.graceful_shutdown()));
        } else {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(socket, service)
                .with_upgrades();
            connections.spawn(run(connection, stopped, |c| c.graceful_shutdown()));
        }
    }
    println!(
        "SIGTERM with {} requests in flight",
        IN_FLIGHT.load(Relaxed)
    );
    drop(listener);
    stop.cancel();
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Serves a connection until it ends, or after `stopped` until its requests have ended.
async fn run<C: Future>(connection: C, stopped: CancellationToken, shut_down: fn(Pin<&mut C>)) {
    let mut connection = pin!(connection);
    // An error here is the client's hanging up, which is no concern of this server.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopped.cancelled() => {
            shut_down(connection.as_mut());
            let _ = connection.await;
        }
    }
}

fn millis(variable: &str) -> Duration {
    Duration::from_millis(
        env::var(variable)
            .ok()
            .and_then(|value| value.parse().ok())
            .unwrap_or(0),
    )
}

/// When things change that tests wait for.
#[derive(Clone, Copy)]
struct Clock {
    ready_at: Instant,
    idle_at: Instant,
}

async fn answer(request: Request<Incoming>, clock: Clock) -> Response<Body> {
    if request.headers().contains_key(http::header::UPGRADE) {
        return upgrade(request);
    }
    let uri = request.uri().clone();
    if !matches!(uri.path(), "/ready" | "/requests" | "/busy") {
        REQUESTS.fetch_add(1, Relaxed);
    }
    match uri.path() {
        "/" => text(StatusCode::OK, format!("Hello from {}\n", hostname())),
        "/echo" => echo(request),
        "/hash" => digest(request.into_body()).await,
        "/sleep" => {
            sleep(Duration::from_millis(query(&uri, "ms"))).await;
            text(StatusCode::OK, "slept\n".to_owned())
        }
        "/alone" => alone(query(&uri, "ms")).await,
        "/drip" => Response::new(drip(query(&uri, "bytes"), query(&uri, "ms"))),
        "/headers" => text(StatusCode::OK, lines(request.headers())),
        "/status" => status(query(&uri, "code")),
        "/requests" => text(StatusCode::OK, format!("{}\n", REQUESTS.load(Relaxed))),
        "/busy" if Instant::now() < clock.idle_at => text(StatusCode::OK, "busy\n".to_owned()),
        "/busy" => text(StatusCode::NO_CONTENT, String::new()),
        "/ready" if Instant::now() < clock.ready_at => {
            text(StatusCode::SERVICE_UNAVAILABLE, "not yet\n".to_owned())
        }
        "/ready" => text(StatusCode::OK, "ready\n".to_owned()),
        path => text(StatusCode::NOT_FOUND, format!("nothing at {path}\n")),
    }
}

/// Changes to whatever protocol the client wants, and sends back what comes.
fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(stream) = upgraded.await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
            // It ends with the client.
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONNECTION,
        http::HeaderValue::from_static("upgrade"),
    );
    if let Some(protocol) = request.headers().get(http::header::UPGRADE) {
        headers.insert(http::header::UPGRADE, protocol.clone());
    }
    response
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}

/// The name of the pod.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

fn query(uri: &Uri, key: &str) -> u64 {
    let pairs = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(name, _)| *name == key)
        .find_map(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(body.boxed());
    if let Some(kind) = parts.headers.get(http::header::CONTENT_TYPE) {
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, kind.clone());
    }
    response
}

async fn digest(mut body: Incoming) -> Response<Body> {
    let (mut length, mut hash) = (0_u64, Fnv::default());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                length += data.len() as u64;
                hash.write(&data);
            }
            Ok(Err(_trailers)) => {}
            Err(error) => {
                return text(
                    StatusCode::BAD_REQUEST,
                    format!("the body broke off: {error}\n"),
                );
            }
        }
    }
    text(StatusCode::OK, format!("{length} {:016x}\n", hash.finish()))
}

/// A body of `total` bytes, spread evenly over `ms` milliseconds.
fn drip(total: u64, ms: u64) -> Body {
    const LARGEST: u64 = 64 * 1024;
    let pieces = (ms / 10)
        .max(total.div_ceil(LARGEST))
        .clamp(1, total.max(1));
    let start = Instant::now();
    let body = stream::unfold(0, move |piece| async move {
        if piece == pieces {
            return None;
        }
        sleep_until(start + Duration::from_millis(ms) * (piece as u32 + 1) / pieces as u32).await;
        let share = |n: u64| (u128::from(total) * u128::from(n) / u128::from(pieces)) as usize;
        let data = Bytes::from(vec![b'.'; share(piece + 1) - share(piece)]);
        Some((Ok(Frame::data(data)), piece + 1))
    });
    StreamBody::new(body).boxed()
}

fn lines(headers: &HeaderMap) -> String {
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))
    };
    headers.iter().map(line).collect()
}

async fn alone(ms: u64) -> Response<Body> {
    /// Counts a request for as long as it is there, also when its client leaves.
    struct Here;
    impl Drop for Here {
        fn drop(&mut self) {
            ALONE.fetch_sub(1, Relaxed);
        }
    }
    let others = ALONE.fetch_add(1, Relaxed);
    let _here = Here;
    sleep(Duration::from_millis(ms)).await;
    match others {
        0 => text(StatusCode::OK, "alone\n".to_owned()),
        _ => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("met {others} others\n"),
        ),
    }
}

fn status(code: u64) -> Response<Body> {
    let known = u16::try_from(code)
        .ok()
        .filter(|code| (200..600).contains(code));
    match known.and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) => text(status, format!("{status}\n")),
        None => text(
            StatusCode::BAD_REQUEST,
            "code must be between 200 and 599\n".to_owned(),
        ),
    }
}
