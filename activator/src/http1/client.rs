//! A client's connection of HTTP/1.1: one request after another, each answered before the next one is read.

mod date;
mod head;
mod share;

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use http::Response;
use tokio::time::Instant;

use crate::{
    body::Reply, client::Client, connection::HEADER_TIMEOUT, proxy::Entry, serve::Server,
    tunnel::Tunnel,
};

pub(crate) use self::share::{Ending, Share, Uploading};
use self::{head::Asked, share::Writer};

use super::{HEAD, head::announced, sending::Sending};

/// How long a client that has sent more than was read may take to close the connection after its answer. What it sends meanwhile is dropped.
const LINGER: Duration = Duration::from_secs(2);

/// Serves a connection until it ends. To be polled within the connection's deadline, and again when the server stops.
pub(crate) async fn serve(server: &Server, client: &Client, entry: &Entry, shared: &Share) {
    while let Some(head) = poll_fn(|cx| shared.lock().poll_head(cx, || server.stops())).await {
        client.deadline.clear();
        let (answer, asked) = match head {
            Ok(head) => {
                let (request, asked) = shared.request(head);
                let mut answering = pin!(server.proxy.answer(client, entry, request));
                let answered = poll_fn(|cx| match answering.as_mut().poll(cx) {
                    Poll::Ready(answer) => Poll::Ready(answer.ok()),
                    Poll::Pending => {
                        let mut connection = shared.lock();
                        // Whoever cannot be written to is noticed by reading, or by the answer.
                        let _ = connection.poll_ahead(cx);
                        connection.poll_left(cx).map(|()| None)
                    }
                });
                match answered.await {
                    Some(answer) => (answer, asked),
                    None => return,
                }
            }
            Err(bad) => (server.proxy.refuse(bad.into()), Asked::NOTHING),
        };
        if !answer.body().is_from_pod() {
            client.deadline.set(Instant::now() + HEADER_TIMEOUT);
        }
        match send(shared, answer, asked).await {
            Some(Sent::Whole { kept }) => {
                let mut waited = false;
                let read_whole = poll_fn(|cx| {
                    let ends = || !kept || server.stops();
                    let read_whole = shared.lock().poll_read_whole(cx, ends);
                    waited |= read_whole.is_pending();
                    read_whole
                });
                if !(read_whole.await && kept) {
                    return close(client, shared).await;
                }
                if waited {
                    // Some pods answer first and read then. The time until the next request is counted from there.
                    client.deadline.set(Instant::now() + HEADER_TIMEOUT);
                }
            }
            Some(Sent::Switched(tunnel)) => {
                if let Some(client) = shared.lock().switch() {
                    server.proxy.tunnels.open(client, tunnel);
                }
                return;
            }
            None => return,
        }
    }
    if server.stops() {
        close(client, shared).await;
    }
}

/// Ends the connection, and gives the client [`LINGER`] to do so, too.
async fn close(client: &Client, shared: &Share) {
    client.deadline.set(Instant::now() + LINGER);
    // Whether the client closes properly is its own matter.
    let _ = poll_fn(|cx| shared.lock().poll_close(cx)).await;
}

/// How an answer was sent.
enum Sent {
    /// Whole. `kept`: another request may follow.
    Whole { kept: bool },
    /// Another protocol follows.
    Switched(Box<Tunnel>),
}

/// Sends an answer; `None` if that could not be done to its end, so that all that is left to do is to close the connection.
async fn send(shared: &Share, answer: Response<Reply>, mut asked: Asked) -> Option<Sent> {
    let from_pod = answer.body().is_from_pod();
    let began = poll_fn(|cx| Poll::Ready(shared.lock().answers(cx, from_pod)));
    let (ahead, may_be_kept) = began.await;
    asked.kept &= may_be_kept;
    let mut out = Vec::with_capacity(HEAD);
    out.extend_from_slice(&ahead);
    let (framing, kept) = head::write(&answer, asked, date::now, &mut out);
    let trailers = match asked.trailers {
        true => announced(answer.headers(), framing),
        false => Vec::new(),
    };
    let mut sending = Sending::new(out, framing, trailers);
    let mut reply = answer.into_body();
    let sent = poll_fn(
        |cx| match sending.poll(&mut Writer(shared), &mut reply, cx) {
            Poll::Ready(sent) => Poll::Ready(sent.ok()),
            Poll::Pending => shared.lock().poll_left(cx).map(|()| None),
        },
    );
    sent.await?;
    match reply {
        Reply::Switched(tunnel) => Some(Sent::Switched(tunnel)),
        _ => Some(Sent::Whole { kept }),
    }
}
