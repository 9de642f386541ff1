//! A control client: what an operator replica is to the activator.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use crds::control::{Decoder, PATH, ToActivator, ToOperator, encode};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, channel::Channel};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};

use super::eventually;

/// The token that worlds accept.
pub(crate) const TOKEN: &str = "open sesame";

/// An operator with an open control stream. Dropping it closes the stream.
pub(crate) struct Operator {
    out: http_body_util::channel::Sender<Bytes>,
    seen: Arc<Mutex<Vec<(Instant, ToOperator)>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Operator {
    /// Opens a stream with the right token.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address, TOKEN).await.unwrap()
    }

    /// Opens a stream; the error is the status that refuses it.
    pub(crate) async fn try_connect(address: SocketAddr, token: &str) -> Result<Self, StatusCode> {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::try_over(stream, address, token).await.unwrap()
    }

    /// Opens a stream over this connection.
    pub(crate) async fn over<S>(stream: S, address: SocketAddr) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let opened = Self::try_over(stream, address, TOKEN).await;
        opened.unwrap().unwrap()
    }

    /// The same; `None` if the other side speaks something else.
    pub(crate) async fn try_over<S>(
        stream: S,
        address: SocketAddr,
        token: &str,
    ) -> Option<Result<Self, StatusCode>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .ok()?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let (out, body) = Channel::<Bytes>::new(16);
        let request = Request::post(format!("http://{address}{PATH}"))
            .header("authorization", format!("Bearer {token}"))
            .body(body)
            .unwrap();
        let response = sender.send_request(request).await.ok()?;
        if response.status() != StatusCode::OK {
            return Some(Err(response.status()));
        }
        let seen = Arc::default();
        let reading = tokio::spawn(read(response.into_body(), Arc::clone(&seen)));
        Some(Ok(Self {
            out,
            seen,
            tasks: vec![connection, reading],
        }))
    }

    pub(crate) async fn tell(&mut self, frame: ToActivator) {
        self.out.send_data(encode(&frame).into()).await.unwrap();
    }

    /// Tells that it has told everything, and whether it leads.
    pub(crate) async fn sync(&mut self, epoch: Option<u64>) {
        self.tell(ToActivator::Lead { epoch }).await;
        self.tell(ToActivator::Synced).await;
    }

    /// What it heard so far and `pick` picks.
    pub(crate) fn heard<T>(&self, pick: impl Fn(&ToOperator) -> Option<T>) -> Vec<T> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter_map(|(_, frame)| pick(frame)).collect()
    }

    /// When it heard the frames that `pick` picks.
    pub(crate) fn heard_at(&self, pick: impl Fn(&ToOperator) -> bool) -> Vec<Instant> {
        let seen = self.seen.lock().unwrap();
        let picked = seen.iter().filter(|(_, frame)| pick(frame));
        picked.map(|(at, _)| *at).collect()
    }

    /// Waits for a frame that `pick` picks, from the beginning of the stream on.
    pub(crate) async fn hears<T>(&self, what: &str, pick: impl Fn(&ToOperator) -> Option<T>) -> T {
        eventually(what, async || self.heard(&pick).into_iter().next()).await
    }

    /// Forgets what it has heard.
    pub(crate) fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }
}

async fn read(mut body: Incoming, seen: Arc<Mutex<Vec<(Instant, ToOperator)>>>) {
    let mut decoder = Decoder::default();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(bytes) = frame.data_ref() {
            decoder.push(bytes);
        }
        while let Some(frame) = decoder.next_frame().unwrap() {
            seen.lock().unwrap().push((Instant::now(), frame));
        }
    }
}

/// Picks the drains that are over.
pub(crate) fn drained(frame: &ToOperator) -> Option<u64> {
    match frame {
        ToOperator::Drained { drain, .. } => Some(*drain),
        _ => None,
    }
}

/// Picks wakes, with the number of those who wait.
pub(crate) fn wake(frame: &ToOperator) -> Option<u32> {
    match frame {
        ToOperator::Wake { waiting, .. } => Some(*waiting),
        _ => None,
    }
}

/// Picks the ports that are listened on.
pub(crate) fn bound(frame: &ToOperator) -> Option<u16> {
    match frame {
        ToOperator::Bound { port, .. } => Some(*port),
        _ => None,
    }
}
