//! Serving one client connection, in the protocol that its first bytes tell.

use std::{
    error::Error,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::BytesMut;
use http::Request;
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::{
    body::Upload,
    client::{Begins, Client, Deadline, Places, Stream, Wire},
    gather::Gather,
    http1::{
        self,
        client::{Ending, Share},
    },
    metrics::Raised,
    proxy::Entry,
    serve::{Accepted, Server},
    tls::{self, Outcome},
};

/// Longest wait for a request's head from the end of the answer before, and so for the next request on a kept connection: a little more than the
/// 60 s after which common load balancers close theirs, so that they are the ones who do. It bounds the rest of that answer, too,
/// which its client has still to read.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(65);

/// Requests at once on an HTTP/2 connection; a client opens another one for more. RFC 9113 section 6.5.2 recommends at least 100.
const MAX_STREAMS: u32 = 250;

/// Bytes of a request's body that a client may send before the pod takes them, by stream: what a held request keeps in memory at most.
pub(crate) const STREAM_WINDOW: u32 = 64 << 10;

/// The same over all streams of a connection. Less than all streams together, so that a connection is bounded; a pod that does
/// not read can therefore stop at most sixteen of them before it stops the others on the same connection.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Most bytes of a request's header fields, each counted with 32 bytes more, as RFC 9113 section 6.5.2 counts them.
const MAX_HEADERS: u32 = 64 << 10;

/// How often an HTTP/2 client whose requests are under way is asked whether it still lives, and how long it may take to say so.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// How long a handshake of TLS may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

type Ended = Result<(), Box<dyn Error + Send + Sync>>;

/// Serves a connection until it ends.
///
/// # Errors
/// What ended it, if it was not its client's or the server's wish.
pub(crate) async fn serve(
    server: Arc<Server>,
    accepted: Accepted,
    peer: SocketAddr,
    places: Places,
    entry: Entry,
) -> Ended {
    let _open = Raised::new(&server.metrics.connections);
    let client = Client::new(server.origin(peer.ip()));
    let mut stream = Stream::new(accepted.stream()?, places);
    let first = timeout(HEADER_TIMEOUT, stream.begins());
    let begins = match server.stop.run_until_cancelled(first).await {
        Some(Ok(told)) => told?,
        // Nothing has come, and nobody waits for an answer.
        Some(Err(_)) | None => return Ok(()),
    };
    match begins {
        // Boxed because they are large, and each connection would have room for all of them before it has sent a byte.
        Begins::Http2 => Box::pin(serve_http2(server, client, Wire::Plain(stream), entry)).await,
        Begins::Tls if matches!(entry, Entry::Gateway) => {
            Box::pin(secure(server, client, stream, entry)).await
        }
        Begins::Http1 | Begins::Tls => {
            let begun = stream.take_begun();
            Box::pin(serve_http1(
                &server,
                client,
                Wire::Plain(stream),
                begun,
                &entry,
            ))
            .await;
            Ok(())
        }
    }
}

/// Shakes hands and serves what comes then.
async fn secure(server: Arc<Server>, mut client: Client, stream: Stream, entry: Entry) -> Ended {
    let accepting = tls::accept(stream, |host| server.proxy.certified(host));
    let accepting = timeout(HANDSHAKE_TIMEOUT, accepting);
    let accepted = match server.stop.run_until_cancelled(accepting).await {
        Some(Ok(Ok(accepted))) => accepted,
        Some(Ok(Err((outcome, error)))) => {
            server.metrics.shaken(outcome);
            return Err(error.into());
        }
        Some(Err(_)) => {
            server.metrics.shaken(Outcome::Late);
            return Ok(());
        }
        // Nothing was asked yet.
        None => return Ok(()),
    };
    server.metrics.shaken(Outcome::Done);
    client.secured(accepted.certified);
    let wire = Wire::Tls(Box::new(accepted.stream));
    if accepted.http2 {
        return serve_http2(server, client, wire, entry).await;
    }
    serve_http1(&server, client, wire, BytesMut::new(), &entry).await;
    Ok(())
}

/// Serves HTTP/1.1 on a stream of which `begun` was read already.
async fn serve_http1(
    server: &Server,
    mut client: Client,
    wire: Wire,
    begun: BytesMut,
    entry: &Entry,
) {
    let shared = Share::new(wire, begun);
    let _ending = Ending(shared.clone());
    client.http1 = Some(shared.clone());
    client.deadline.set(Instant::now() + HEADER_TIMEOUT);
    let serving = pin!(http1::client::serve(server, &client, entry, &shared));
    run(serving, |_| {}, server, &client.deadline).await;
}

/// Serves HTTP/2 on a stream.
async fn serve_http2(server: Arc<Server>, client: Client, wire: Wire, entry: Entry) -> Ended {
    let deadline = client.deadline.clone();
    let shared = Arc::new((client, entry, Arc::clone(&server.proxy)));
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (client, entry, proxy) = &*shared;
            let deadline = client.deadline();
            deadline.clear();
            let answer = proxy.answer(client, entry, request.map(Upload::from)).await;
            if matches!(&answer, Ok(answer) if !answer.body().is_from_pod()) {
                deadline.set(Instant::now() + HEADER_TIMEOUT);
            }
            answer
        }
    });
    let connection = http2::Builder::new(Streams(server.connections.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .serve_connection(TokioIo::new(Gather(wire)), service);
    let served = run(
        pin!(connection),
        |c| c.graceful_shutdown(),
        &server,
        &deadline,
    )
    .await;
    served.unwrap_or(Ok(()))?;
    Ok(())
}

/// Polls a connection until it ends, which the server's stop asks it to; `None` if it is cut off, by force or because its deadline has passed.
async fn run<C: Future>(
    mut connection: Pin<&mut C>,
    shut_down: impl Fn(Pin<&mut C>),
    server: &Server,
    deadline: &Deadline,
) -> Option<C::Output> {
    let mut stopped = pin!(server.stop.cancelled());
    // The stop wakes this task once it was asked. To ask again locks the token, and this is polled with every request; whoever stops the server
    // has it leave first.
    let mut asked = false;
    let mut forced = pin!(server.force.cancelled());
    let mut stopping = false;
    let served = pin!(poll_fn(|cx| {
        let ask = !asked || server.proxy.leaves();
        asked = true;
        if ask && !stopping && stopped.as_mut().poll(cx).is_ready() {
            stopping = true;
            shut_down(connection.as_mut());
        }
        if stopping && forced.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        connection.as_mut().poll(cx).map(Some)
    }));
    deadline.over(served).await.flatten()
}

/// Runs the requests of an HTTP/2 connection, each in a task on the same core.
#[derive(Clone)]
struct Streams(TaskTracker);

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Boxed, since a future that takes another one has room for it twice: half of what a request that waits takes.
        self.0.spawn(Deadline::of_stream(Box::pin(stream)));
    }
}
