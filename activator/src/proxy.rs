//! A request's way through the activator: route, acquire a slot, exchange with the pod.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::{HeaderName, HeaderValue, Request, Response, Version, header};
use throttle::Budget;
use tokio::time::Instant;

use crate::{
    access::{Access, Cut, Pending},
    answer::{self, Failure, Gone, Reason, Refusal},
    body::{Reply, Upload},
    client::Client,
    exchange::{Attempt, Exchange},
    fields::Fields,
    function::Function,
    functions::Functions,
    headers,
    hold::Hold,
    identity::{self, REQUEST_ID},
    memory::Pressure,
    metrics::Metrics,
    pod::Pod,
    timing,
    tls::Certified,
    tunnel::{self, Tunnels, Upgrade},
};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Where a request came in.
#[derive(Clone)]
pub(crate) enum Entry {
    /// The port of this Function, whatever the Host.
    Function(Arc<Function>),
    /// The port of all Functions; the Host chooses.
    Gateway,
}

/// What all requests share.
pub(crate) struct Proxy {
    functions: Arc<Functions>,
    metrics: Arc<Metrics>,
    /// For requests that wait.
    budget: Arc<Budget>,
    access: Access,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) tunnels: Tunnels,
    /// Whether answers ask clients to close their connections, because this process is about to end.
    leaving: AtomicBool,
}

impl Proxy {
    pub(crate) fn new(
        functions: Arc<Functions>,
        metrics: Arc<Metrics>,
        budget: Arc<Budget>,
        access: Access,
    ) -> Self {
        Self {
            functions,
            budget,
            access,
            pressure: Arc::default(),
            tunnels: Tunnels::new(Arc::clone(&metrics)),
            metrics,
            leaving: AtomicBool::new(false),
        }
    }

    /// From now on each answer closes its connection, so that the client's next one goes to another activator.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether [`leave`](Self::leave) was called.
    pub(crate) fn leaves(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// The certificate for a host that a client names.
    pub(crate) fn certified(&self, host: &str) -> Option<Arc<Certified>> {
        self.functions.certified(host)
    }

    /// Answers a request. Not an `async fn`, because that has room for each argument twice.
    ///
    /// # Errors
    /// If the client went away, so that there is nobody to answer.
    pub(crate) fn answer<'a>(
        &'a self,
        client: &'a Client,
        entry: &'a Entry,
        mut request: Request<Upload>,
    ) -> impl Future<Output = Result<Response<Reply>, Gone>> + Send + 'a {
        let fields = Fields::of(request.headers());
        let id = identity::request_id(request.headers_mut(), fields);
        let http2 = request.version() == Version::HTTP_2;
        let grpc = fields.have(Fields::CONTENT_TYPE) && answer::is_grpc(request.headers());
        let mut unanswered = Unanswered {
            metrics: &self.metrics,
            line: self.access.begin(client, &request, &id),
        };
        let admitted = self
            .admit()
            .and_then(|()| self.route(client, entry, &request));
        async move {
            let answered = 'answered: {
                let function = match admitted {
                    Ok(function) => function,
                    Err(refusal) => break 'answered Err(refusal.into()),
                };
                let line = &mut unanswered.line;
                // Not matched around the await: what is matched on would be kept beside what is taken out of it.
                let (mut hold, mut exchange) =
                    match self.prepare(client, &function, request, fields, line) {
                        Ok(prepared) => prepared,
                        Err(refusal) => break 'answered Err(refusal.into()),
                    };
                self.carry(&function, &mut hold, &mut exchange).await
            };
            let mut response = match answered {
                Ok(response) => {
                    self.metrics.answered(response.status());
                    response
                }
                Err(Failure::Refused(refusal)) => {
                    let reason = refusal.reason;
                    self.metrics.refused(reason);
                    let response = refusal.into_response(&id, grpc);
                    if let Some(line) = unanswered.line.take() {
                        line.refused(reason, &response);
                    }
                    response
                }
                Err(Failure::Gone) => return Err(Gone),
            };
            // It has an answer, so dropping this is not to count it as gone.
            std::mem::forget(unanswered);
            response.headers_mut().entry(REQUEST_ID).or_insert(id);
            // HTTP/2 connections are told to go when this process stops; it has no such header.
            if !http2 && self.leaves() && !tunnel::is_switch(&response) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok(response)
        }
    }

    /// The answer to what is no request.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Response<Reply> {
        self.metrics.refused(refusal.reason);
        let id = identity::new();
        let mut response = refusal.into_response(&id, false);
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }

    /// Whether there is memory for a request.
    fn admit(&self) -> Result<(), Refusal> {
        if !self.pressure.is_high() {
            return Ok(());
        }
        let text = "the activator has nearly no memory left: try again, or raise activator.resources.limits.memory";
        Err(Refusal::new(Reason::LowMemory, text))
    }

    fn route(
        &self,
        client: &Client,
        entry: &Entry,
        request: &Request<Upload>,
    ) -> Result<Arc<Function>, Refusal> {
        if let Entry::Function(function) = entry {
            return Ok(Arc::clone(function));
        }
        let host = headers::host(request).unwrap_or_default();
        let function = self.functions.by_host(host).ok_or_else(|| {
            let text = format!(
                "no Function has the host {host:?}: send a Host such as NAME.NAMESPACE, or add it to a Function's hosts"
            );
            Refusal::new(Reason::UnknownHost, text)
        })?;
        if let Some(shown) = &client.certified {
            let own = self.functions.certified(host);
            if !own.is_some_and(|own| shown.serves(&own)) {
                let text = format!(
                    "the certificate of this connection is not one for {host:?}: open another connection for it"
                );
                return Err(Refusal::new(Reason::Misdirected, text));
            }
        }
        Ok(function)
    }

    /// Makes the request one for a pod. No future, since that would have room for all that goes through it.
    fn prepare<'a>(
        &'a self,
        client: &'a Client,
        function: &'a Arc<Function>,
        request: Request<Upload>,
        fields: Fields,
        line: &'a mut Pending,
    ) -> Result<(Hold<'a>, Exchange<'a>), Refusal> {
        if let Some(line) = line {
            line.is_for(function);
        }
        let upgrade = Upgrade::of(&request, fields);
        // An HTTP/2 connection is read whatever becomes of the bodies, so it tells by itself when a client leaves.
        let body_unread = matches!(request.body(), Upload::Http1(..));
        let (mut head, body) = request.into_parts();
        let default_host = || format!("{}.{}", function.key.name, function.key.namespace);
        let hops = function.hops(client.origin.client, &head.headers);
        let origin = Some(&client.origin).filter(|_| hops.unwrap_or(0) == 0);
        headers::to_pod(&mut head, fields, origin, default_host)?;
        if let Some(upgrade) = &upgrade {
            upgrade.ask(&mut head.headers);
        }
        let request = Request::from_parts(head, body);
        let hold = Hold::new(function, &self.metrics, &self.budget, client, body_unread);
        let exchange = Exchange::new(
            function,
            &self.metrics,
            client,
            request,
            upgrade,
            hops,
            line,
        );
        Ok((hold, exchange))
    }

    /// Brings the request to a pod and the answer back.
    async fn carry(
        &self,
        function: &Arc<Function>,
        hold: &mut Hold<'_>,
        exchange: &mut Exchange<'_>,
    ) -> Result<Response<Reply>, Failure> {
        let mut acquired = function.gate.acquire();
        let mut again = false;
        loop {
            exchange.note_wait(&acquired);
            let slot = hold.slot(acquired, || exchange.rest()).await;
            exchange.note_slot();
            // Most requests are sent as soon as they come, and a clock costs them some.
            let now = if again { Instant::now() } else { hold.granted };
            // Boxed because it is half of all that a request has, and one that waits does not need it yet.
            match Box::pin(exchange.attempt(slot?, now)).await? {
                Attempt::Answered(mut response, pod) => {
                    if !pod.is_activator {
                        tell_timing(&mut response, function, hold, &pod);
                    }
                    return Ok(response);
                }
                Attempt::Unreachable(slot) => {
                    slot.distrust();
                    acquired = slot.again();
                    again = true;
                    function.rouse();
                }
            }
        }
    }
}

/// Tells client and operators where the time of a held request went.
fn tell_timing(response: &mut Response<Reply>, function: &Function, hold: &Hold<'_>, pod: &Pod) {
    let Some((cold_start, held)) = hold.timing() else {
        return;
    };
    let phases = timing::phases(held, pod.startup);
    if let Some(header) = timing::header(&phases) {
        response.headers_mut().append(SERVER_TIMING, header);
    }
    function.report(cold_start, pod, response.status().as_u16(), phases);
}

/// Counts a request as gone when dropped: its connection drops the future of a request whose client it sees leaving.
struct Unanswered<'a> {
    metrics: &'a Metrics,
    line: Pending,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.metrics.gone.inc();
        if let Some(mut line) = self.line.take() {
            line.is_cut(Cut::Client);
            line.write();
        }
    }
}
