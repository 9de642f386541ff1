//! The access log: a line for each request when it ends, or for a share of them. It costs nothing when it is off.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::time::Instant;

use crate::{
    answer::Reason,
    body::{Broken, Reply},
    client::Client,
    function::Function,
    pod::Pod,
};

/// Target of the lines, for filters of what is logged.
pub(crate) const TARGET: &str = "access";

/// Which requests are logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// This share of them; `None`: the log is off.
    share: Option<f64>,
}

/// A request's line until it is written. `None` where there is none to write.
pub(crate) type Pending = Option<Box<Line>>;

/// What a request's line says.
#[derive(Debug)]
pub(crate) struct Line {
    /// Whether it is of the share that is logged. The others are written only if they end with an error of the activator's own.
    chosen: bool,
    began: Instant,
    method: Method,
    path: String,
    protocol: Version,
    client: IpAddr,
    id: HeaderValue,
    function: Option<Arc<Function>>,
    pod: Option<Arc<Pod>>,
    status: Option<StatusCode>,
    reason: Option<Reason>,
    /// `None`: nobody knows.
    bytes: Option<u64>,
    held: Duration,
    /// Since when it waits, while it does.
    waits: Option<Instant>,
    cut: Option<Cut>,
}

/// What ended a request before its answer's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Its client went away.
    Client,
    /// The pod broke off, or was silent for too long.
    Pod,
    /// It took too long.
    Timeout,
    /// The connection broke that had changed its protocol.
    Connection,
}

impl Access {
    pub(crate) fn new(share: Option<f64>) -> Self {
        Self { share }
    }

    /// Begins a request's line, and decides whether it will be written.
    pub(crate) fn begin<B>(
        self,
        client: &Client,
        request: &Request<B>,
        id: &HeaderValue,
    ) -> Pending {
        let share = self.share?;
        Some(Box::new(Line {
            chosen: fastrand::f64() < share,
            began: Instant::now(),
            method: request.method().clone(),
            // Not the target, which would keep all of the head.
            path: request.uri().path().to_owned(),
            protocol: request.version(),
            client: client.origin.client,
            id: id.clone(),
            function: None,
            pod: None,
            status: None,
            reason: None,
            bytes: Some(0),
            held: Duration::ZERO,
            waits: None,
            cut: None,
        }))
    }
}

impl Line {
    /// It is for this Function.
    pub(crate) fn is_for(&mut self, function: &Arc<Function>) {
        self.function = Some(Arc::clone(function));
    }

    /// It has to wait from now on.
    pub(crate) fn waits(&mut self) {
        self.waits = Some(Instant::now());
    }

    /// It waits no longer.
    pub(crate) fn has_waited(&mut self) {
        self.held += self.waits.take().map_or(Duration::ZERO, |at| at.elapsed());
    }

    /// This pod answers so.
    pub(crate) fn is_answered(&mut self, pod: &Arc<Pod>, status: StatusCode) {
        self.pod = Some(Arc::clone(pod));
        self.status = Some(status);
    }

    /// So many bytes more have gone to the client.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes = self.bytes.map(|sum| sum + bytes as u64);
    }

    /// It ends too early.
    pub(crate) fn is_cut(&mut self, cut: Cut) {
        self.cut = Some(cut);
    }

    /// Writes the line of a request that the activator answers itself.
    pub(crate) fn refused(mut self, reason: Reason, response: &Response<Reply>) {
        self.reason = Some(reason);
        self.status = Some(response.status());
        if self.method != Method::HEAD {
            self.bytes = response.body().size_hint().exact();
        }
        self.chosen |= reason.status().is_server_error();
        self.write();
    }

    /// Writes the line of a connection that had changed its protocol, which ended properly if it is known how much went to the client.
    pub(crate) fn carried(mut self, sent: Option<u64>) {
        self.bytes = sent;
        if sent.is_none() {
            self.cut = Some(Cut::Connection);
        }
        self.write();
    }

    /// Writes the line of a request that has ended.
    pub(crate) fn write(mut self) {
        if !self.chosen {
            return;
        }
        self.has_waited();
        let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let pod = self.pod.as_deref();
        tracing::info!(
            target: TARGET,
            function = self.function.as_ref().map(|function| tracing::field::display(&function.key)),
            revision = pod.map(|pod| &*pod.revision),
            pod = pod.map(|pod| pod.name.as_str()),
            method = self.method.as_str(),
            path = self.path,
            status = self.status.map(|status| status.as_u16()),
            bytes = self.bytes,
            duration_us = us(self.began.elapsed()),
            held_us = us(self.held),
            client = %self.client,
            request = %String::from_utf8_lossy(self.id.as_bytes()),
            protocol = ?self.protocol,
            reason = self.reason.map(Reason::name),
            cut = self.cut.map(tracing::field::display),
            "request"
        );
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Pod => "pod",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
        })
    }
}

impl From<&Broken> for Cut {
    fn from(broken: &Broken) -> Self {
        match broken {
            Broken::Pod(_) | Broken::Idle => Self::Pod,
            Broken::Timeout => Self::Timeout,
        }
    }
}
