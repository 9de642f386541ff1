//! The control port: operators open their streams here.

use std::{
    hint::black_box,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crds::control::{Decoder, PATH, ToOperator, encode};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Empty};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use crate::{
    follow::Follower,
    metrics::{Metrics, Raised},
    operators::{Operators, Outbox, OutboxBody},
    tls::{self, ControlFiles},
};

/// Connections served at once. An installation has a handful of operator replicas; while one is replaced it may have two.
const MAX_CONNECTIONS: usize = 64;

/// Within this time a connection must have opened a stream with the right token, lest strangers occupy the places.
const AUTHORIZE_WITHIN: Duration = Duration::from_secs(10);

/// A ping goes to each operator at this interval, and with no answer within [`PING_TIMEOUT`] it is gone: a dead node
/// is noticed within 3 s, so that a wake is not sent into the void for longer.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// See [`PING_INTERVAL`].
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after a failed accept, which mostly means that there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all control streams share.
pub(crate) struct Control {
    pub(crate) follower: Follower,
    pub(crate) operators: Arc<Operators>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) token_file: PathBuf,
    /// If the port has TLS.
    pub(crate) tls: Option<ControlFiles>,
    /// Name of this activator's pod.
    pub(crate) name: String,
    /// Ends all streams.
    pub(crate) stop: CancellationToken,
}

type Answer = Response<Either<OutboxBody, Empty<Bytes>>>;

/// Serves the control port until [`Control::stop`] is cancelled.
pub(crate) async fn serve(listener: TcpListener, control: Arc<Control>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "control port cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let control = Arc::clone(&control);
            tokio::spawn(async move {
                let serving = connection(stream, Arc::clone(&control));
                control.stop.run_until_cancelled(serving).await;
                drop(place);
            });
        }
    };
    control.stop.run_until_cancelled(accepting).await;
}

async fn connection(stream: TcpStream, control: Arc<Control>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Some(files) = &control.tls else {
        return streams(stream, control).await;
    };
    let acceptor = match tls::acceptor(files) {
        Ok(acceptor) => acceptor,
        Err(error) => return tracing::error!(error, "the control port's certificate is no good"),
    };
    match tokio::time::timeout(AUTHORIZE_WITHIN, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => streams(stream, control).await,
        Ok(Err(error)) => tracing::info!(%error, "an operator was not shaken hands with"),
        Err(_) => tracing::debug!("a handshake on the control port took too long"),
    }
}

/// Serves the control streams of a connection.
async fn streams<S>(stream: S, control: Arc<Control>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let authorized = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&authorized);
    let service = service_fn(move |request| {
        let answer = answer(&control, request);
        if answer.status() == StatusCode::OK {
            seen.store(true, Ordering::Relaxed);
        }
        async move { Ok::<_, std::convert::Infallible>(answer) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = tokio::time::sleep(AUTHORIZE_WITHIN) => {
            if !authorized.load(Ordering::Relaxed) {
                return;
            }
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "control connection ended");
    }
}

/// Opens a stream, if the request asks for one and has the token.
fn answer(control: &Arc<Control>, request: Request<Incoming>) -> Answer {
    if request.uri().path() != PATH {
        return refused(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::POST {
        return refused(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !control.authorizes(&request) {
        tracing::warn!("a control stream was refused: wrong token");
        return refused(StatusCode::UNAUTHORIZED);
    }
    let outbox = Arc::new(Outbox::default());
    outbox.push(&encode(&ToOperator::Hello {
        activator: control.name.clone(),
    }));
    let body = request.into_body();
    tokio::spawn(session(Arc::clone(control), Arc::clone(&outbox), body));
    Response::new(Either::Left(OutboxBody(outbox)))
}

fn refused(status: StatusCode) -> Answer {
    let mut response = Response::new(Either::Right(Empty::new()));
    *response.status_mut() = status;
    response
}

impl Control {
    fn authorizes(&self, request: &Request<Incoming>) -> bool {
        // Read in place: it is a few bytes of a Secret volume, which is in memory, once a stream.
        let token = match std::fs::read_to_string(&self.token_file) {
            Ok(token) => token,
            Err(error) => {
                tracing::error!(%error, file = %self.token_file.display(), "cannot read the control token");
                return false;
            }
        };
        let given = request.headers().get(header::AUTHORIZATION);
        let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let token = token.trim().as_bytes();
        !token.is_empty() && given.is_some_and(|given| same(given, token))
    }
}

/// Whether both are equal, in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    let difference = |(a, b): (&u8, &u8)| a ^ b;
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .map(difference)
            .fold(0, |all, one| black_box(all | one))
            == 0
}

/// Receives an operator's frames until its stream ends, from either side.
async fn session(control: Arc<Control>, outbox: Arc<Outbox>, body: Incoming) {
    let _open = Raised::new(&control.metrics.sessions);
    // It hears what happens from here on; what has happened before, `open` tells.
    control.operators.join(Arc::clone(&outbox));
    let id = control.follower.open(&outbox);
    tracing::info!(session = ?id, "an operator has connected");
    let receiving = receive(&control.follower, id, body);
    let stopped = async {
        tokio::select! {
            () = outbox.closed.cancelled() => {}
            () = control.stop.cancelled() => {}
        }
    };
    tokio::select! {
        reason = receiving => tracing::info!(session = ?id, reason, "an operator has left"),
        () = stopped => tracing::info!(session = ?id, "a control stream was closed"),
    }
    control.operators.leave(&outbox);
    control.follower.close(id);
    outbox.close();
}

/// Receives frames; returns why there are no more.
async fn receive(follower: &Follower, id: crate::follow::SessionId, mut body: Incoming) -> String {
    let mut decoder = Decoder::default();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    decoder.push(bytes);
                }
            }
            Some(Err(error)) => return error.to_string(),
            None => return "it ended the stream".to_owned(),
        }
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => follower.receive(id, frame),
                Ok(None) => break,
                Err(error) => return error.to_string(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same(b"secret", b"secret"));
        for other in [&b"secreT"[..], b"secre", b"secret1", b""] {
            assert!(!same(other, b"secret"));
        }
    }
}
