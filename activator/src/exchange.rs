//! One request's way to a pod and its answer's way back, with what may be sent again and what may not.

use std::{pin::pin, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, header, response};
use throttle::{Acquired, Slot};
use tokio::time::Instant;

use crate::{
    access::Pending,
    answer::{Failure, Reason, Refusal},
    body::{Flight, Limits, Reply, Upload},
    client::{Client, Deadline},
    connection::STREAM_WINDOW,
    function::Function,
    headers,
    http1::client::Share,
    keeper,
    metrics::{Metrics, Raised},
    pod::Pod,
    pool::Fresh,
    sender::{Answer, Failed, Sender},
    tunnel::{self, Tunnel, Upgrade},
    turn::{Turn, Whose},
};

/// How often a request is sent again after a connection broke: once after a kept one, which says nothing of the pod, and twice
/// more to pods that accept connections only to break them.
const MAX_RESENDS: u32 = 3;

/// A request until it is answered.
pub(crate) struct Exchange<'a> {
    function: &'a Function,
    metrics: &'a Arc<Metrics>,
    /// The client's connection, if it is one of HTTP/1.1.
    client: Option<&'a Share>,
    /// Of what cuts off an answer that its client does not read.
    deadline: Deadline,
    /// `None` once it was sent and cannot be sent again.
    request: Option<Request<Upload>>,
    /// Of its body, if it has one.
    turn: Option<Turn>,
    /// The client's wish for another protocol.
    upgrade: Option<Upgrade>,
    /// How many activators have sent it on; `None` if its Function has no limit, so that none does.
    hops: Option<u32>,
    resends: u32,
    /// Of the access log; it goes with the answer.
    line: &'a mut Pending,
}

impl Limits {
    fn of(function: &Function, pod: &Pod, began: Instant) -> Self {
        let settings = function.settings();
        // At another activator it may have to wait for a pod first.
        let held = match pod.is_activator {
            true => settings.cold_start,
            false => Duration::ZERO,
        };
        let (first_byte, end) = (held + settings.first_byte, began + held + settings.request);
        Self {
            first_byte,
            begins: end.min(began + first_byte),
            idle: settings.idle,
            end,
        }
    }

    /// Until when the answer must begin, by what is known now: the pod's time counts from when it has all that the client has sent.
    fn due(&self, turn: Option<&Turn>) -> Instant {
        let from = match turn.map(Turn::whose) {
            None | Some(Whose::Pod(None)) => return self.begins,
            Some(Whose::Pod(Some(since))) => since,
            // It may be the pod's at any time, of which nobody tells.
            Some(Whose::Client) => Instant::now(),
        };
        self.end.min(from + self.first_byte)
    }
}

/// What came of sending a request to a pod.
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved once, and a box would cost each request an allocation"
)]
pub(crate) enum Attempt {
    /// An answer, and the pod that gave it.
    Answered(Response<Reply>, Arc<Pod>),
    /// Nothing was sent, because the pod takes no connections. The request can go elsewhere.
    Unreachable(Slot<Arc<Pod>>),
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(
        function: &'a Function,
        metrics: &'a Arc<Metrics>,
        client: &'a Client,
        request: Request<Upload>,
        upgrade: Option<Upgrade>,
        hops: Option<u32>,
        line: &'a mut Pending,
    ) -> Self {
        Self {
            function,
            metrics,
            client: client.http1.as_ref(),
            deadline: client.deadline(),
            turn: request.body().turn().cloned(),
            request: Some(request),
            upgrade,
            hops,
            resends: 0,
            line,
        }
    }

    /// Notes in the request's line that it has to wait, if it has.
    pub(crate) fn note_wait(&mut self, acquired: &Acquired<Arc<Pod>>) {
        if let (Some(line), Acquired::Wait(_)) = (&mut *self.line, acquired) {
            line.waits();
        }
    }

    /// Notes in the request's line that it waits no longer.
    pub(crate) fn note_slot(&mut self) {
        if let Some(line) = self.line {
            line.has_waited();
        }
    }

    /// Prepares the request for waiting. Returns the bytes that it keeps in memory meanwhile: its head, and over HTTP/2 what its client may send
    /// of its body; over HTTP/1.1 the body stays in the socket, but for what came with the head, which is counted with the connection.
    pub(crate) fn rest(&mut self) -> usize {
        let Some(request) = &mut self.request else {
            return 0;
        };
        let text = match self.client {
            Some(client) => client.head(),
            None => headers::detach(request),
        };
        let head = text + headers::footprint(request.headers());
        let body = match request.body() {
            Upload::Http2(..) => STREAM_WINDOW as usize,
            _ => 0,
        };
        head + body
    }

    /// Sends the request to the slot's pod now, which is `began`: on a kept connection, and if that has broken on another one.
    ///
    /// # Errors
    /// With the answer for the client, if the pod failed or took too long.
    pub(crate) async fn attempt(
        &mut self,
        slot: Slot<Arc<Pod>>,
        began: Instant,
    ) -> Result<Attempt, Failure> {
        let in_flight = Raised::new(&self.metrics.in_flight);
        let limits = Limits::of(self.function, slot.payload(), began);
        self.note_hop(slot.payload())?;
        let (answer, connection) = loop {
            let pool = &slot.payload().pool;
            // Where one kept connection has broken others probably have, too.
            let may_be_kept = self.resends == 0;
            let opened = match may_be_kept.then(|| pool.take(began)).flatten() {
                Some(connection) => Ok((connection, None)),
                // Boxed because it is large and most requests find a connection.
                None => Box::pin(pool.open(may_be_kept)).await,
            };
            let (mut connection, fresh) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::debug!(%error, pod = slot.payload().name, "pod is unreachable");
                    return Ok(Attempt::Unreachable(slot));
                }
            };
            let kept = fresh.is_none();
            match self.send(&mut connection, fresh, &limits).await? {
                Some(answer) => break (answer, connection),
                None if kept => {}
                // A new connection broke before it took anything: no better than one that is refused.
                None => return Ok(Attempt::Unreachable(slot)),
            }
        };
        let pod = Arc::clone(slot.payload());
        let (head, body) = answer;
        if let Some(line) = self.line {
            line.is_answered(&pod, head.status);
        }
        let flight = |connection| Flight::new(slot, connection, self.metrics, began, in_flight);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let switched = self.switch(head, connection, flight(None))?;
            return Ok(Attempt::Answered(switched, pod));
        }
        let flight = flight(Some(connection));
        let (deadline, line) = (self.deadline.clone(), self.line.take());
        let reply = Reply::pod(body, flight, limits, deadline, line);
        Ok(Attempt::Answered(Response::from_parts(head, reply), pod))
    }

    /// Notes in the request of a Function with a limit whether it is sent on to another activator.
    fn note_hop(&mut self, pod: &Pod) -> Result<(), Refusal> {
        let (Some(hops), Some(request)) = (self.hops, &mut self.request) else {
            return Ok(());
        };
        if keeper::note(request.headers_mut(), pod.is_activator, hops + 1) {
            return Ok(());
        }
        let text = format!(
            "a request for {} went round between activators",
            self.function.key
        );
        Err(Refusal::new(Reason::PodFailed, text))
    }

    /// The pod changes the protocol: from now on bytes are carried as they come.
    fn switch(
        &mut self,
        head: response::Parts,
        connection: Sender,
        flight: Flight,
    ) -> Result<Response<Reply>, Failure> {
        let protocol = head.headers.get(header::UPGRADE).cloned();
        let pod = connection.into_stream();
        let (Some(_), Some(protocol), Some((begun, pod))) = (&self.upgrade, protocol, pod) else {
            let key = &self.function.key;
            let text = format!("a pod of {key} changed the protocol without being asked to");
            return Err(Refusal::new(Reason::PodFailed, text).into());
        };
        let counted = self.function.settings().count_upgrades;
        let flight = if counted {
            Some(flight)
        } else {
            flight.end(false, Instant::now());
            None
        };
        let tunnel = Tunnel {
            pod,
            begun,
            flight,
            line: self.line.take(),
        };
        let mut switched = Response::from_parts(head, Reply::Switched(Box::new(tunnel)));
        headers::strip_hop_by_hop(switched.headers_mut());
        tunnel::set(switched.headers_mut(), protocol);
        Ok(switched)
    }

    /// Sends the request on one connection. `None`: the connection broke, and the request can be sent again.
    async fn send(
        &mut self,
        connection: &mut Sender,
        fresh: Option<Fresh>,
        limits: &Limits,
    ) -> Result<Option<Answer>, Failure> {
        if self.request.is_none() {
            // Every way back to here puts it back first.
            return Err(Refusal::new(Reason::PodFailed, "the request was sent already").into());
        }
        let sent = {
            let answer = pin!(connection.send(&mut self.request, fresh.is_none(), self.client));
            let answer = pin!(Fresh::until(fresh, answer));
            let turn = self.turn.as_ref();
            self.deadline.until(|| limits.due(turn), answer).await
        };
        let failed = match sent {
            Some(Ok(answer)) => return Ok(Some(answer)),
            Some(Err(failed)) => failed,
            None => return Err(self.too_slow(limits).into()),
        };
        if matches!(failed, Failed::Body) {
            return Err(Refusal::new(Reason::BadRequest, failed.to_string()).into());
        }
        self.resends += 1;
        if self.request.is_some() && self.resends <= MAX_RESENDS {
            return Ok(None);
        }
        let key = &self.function.key;
        let text = match failed {
            Failed::Malformed(what) => format!("a pod of {key} sent what is no answer: {what}"),
            failed => format!("a pod of {key} broke the connection without an answer: {failed}"),
        };
        Err(Refusal::new(Reason::PodFailed, text).into())
    }

    fn too_slow(&self, limits: &Limits) -> Refusal {
        let (key, settings) = (&self.function.key, self.function.settings());
        if self.turn.as_ref().map(Turn::whose) == Some(Whose::Client) {
            let limit = settings.request;
            let text = format!(
                "the request's body did not come whole within {limit:?}, which is timeouts.request of {key}"
            );
            return Refusal::new(Reason::BodyTimeout, text);
        }
        let limit = match Instant::now() >= limits.end {
            true => settings.request,
            false => settings.first_byte,
        };
        let text = format!("a pod of {key} did not begin to answer within {limit:?}");
        Refusal::new(Reason::RequestTimeout, text)
    }
}
