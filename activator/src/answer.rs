//! Answers that the activator gives itself, each with a reason from a closed set.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::body::Reply;

/// Header of every answer that comes from the activator and not from a pod; its value is a [`Reason`].
pub(crate) const REASON_HEADER: HeaderName = HeaderName::from_static("x-ebb-reason");

/// Why the activator answered itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No Function has the request's Host.
    UnknownHost,
    /// The connection was opened with another Function's certificate than the Host's.
    Misdirected,
    /// The request cannot be forwarded.
    BadRequest,
    /// The request's head is larger than is read.
    HeadTooLarge,
    /// Too many requests wait for the Function.
    QueueFull,
    /// Too many requests wait over all Functions, and most of them in the Function's namespace.
    OverBudget,
    /// The activator's memory runs out.
    LowMemory,
    /// All pods were at the Function's `concurrencyLimit` for too long.
    AtLimit,
    /// The Function was deleted.
    Removed,
    /// No pod was ready in time.
    NoPod,
    /// Pods do not start, for a reason that waiting does not cure.
    PodProblem,
    /// The pod did not answer properly.
    PodFailed,
    /// The pod's answer took too long.
    RequestTimeout,
    /// The client took too long to send its request.
    BodyTimeout,
}

impl Reason {
    pub(crate) const ALL: [Self; 14] = [
        Self::UnknownHost,
        Self::Misdirected,
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::QueueFull,
        Self::OverBudget,
        Self::LowMemory,
        Self::AtLimit,
        Self::Removed,
        Self::NoPod,
        Self::PodProblem,
        Self::PodFailed,
        Self::RequestTimeout,
        Self::BodyTimeout,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::UnknownHost => "unknown-host",
            Self::Misdirected => "misdirected",
            Self::BadRequest => "bad-request",
            Self::HeadTooLarge => "head-too-large",
            Self::QueueFull => "queue-full",
            Self::OverBudget => "over-budget",
            Self::LowMemory => "low-memory",
            Self::AtLimit => "at-limit",
            Self::Removed => "removed",
            Self::NoPod => "no-pod",
            Self::PodProblem => "pod-problem",
            Self::PodFailed => "pod-failed",
            Self::RequestTimeout => "request-timeout",
            Self::BodyTimeout => "body-timeout",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::UnknownHost => StatusCode::NOT_FOUND,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::QueueFull
            | Self::OverBudget
            | Self::LowMemory
            | Self::AtLimit
            | Self::Removed => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoPod | Self::PodProblem | Self::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::PodFailed => StatusCode::BAD_GATEWAY,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        }
    }
}

/// An answer of the activator itself.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// One sentence for people.
    pub(crate) text: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }

    /// The answer to the request of this ID; in gRPC's words if `grpc`.
    pub(crate) fn into_response(self, id: &HeaderValue, grpc: bool) -> Response<Reply> {
        let id = String::from_utf8_lossy(id.as_bytes());
        tracing::debug!(reason = self.reason.name(), %id, text = %self.text, "request refused");
        let sentence = format!("{} (request {id})", self.text);
        let mut response = match grpc {
            true => grpc_status(self.reason, &sentence),
            false => plain(self.reason, sentence),
        };
        let headers = response.headers_mut();
        headers.insert(REASON_HEADER, HeaderValue::from_static(self.reason.name()));
        if matches!(
            self.reason,
            Reason::QueueFull | Reason::OverBudget | Reason::LowMemory | Reason::AtLimit
        ) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if matches!(
            self.reason,
            Reason::Removed
                | Reason::BadRequest
                | Reason::HeadTooLarge
                | Reason::BodyTimeout
                | Reason::LowMemory
        ) {
            // A Function of that name can come back, but not on a connection of the old one; what follows a request that was not read to its end may be part of it; and
            // without memory the client is better off with another activator.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Whether a request is one of gRPC, whose clients look for errors in other places.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    value.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn plain(reason: Reason, mut sentence: String) -> Response<Reply> {
    sentence.push('\n');
    let mut response = Response::new(Reply::text(Bytes::from(sentence)));
    *response.status_mut() = reason.status();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// An answer of headers only, as the gRPC protocol has it; the codes are those that gRPC's clients take from HTTP's
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
fn grpc_status(reason: Reason, sentence: &str) -> Response<Reply> {
    let code = match reason.status() {
        StatusCode::BAD_REQUEST => HeaderValue::from_static("13"), // INTERNAL
        StatusCode::NOT_FOUND => HeaderValue::from_static("12"),   // UNIMPLEMENTED
        _ => HeaderValue::from_static("14"),                       // UNAVAILABLE
    };
    let mut response = Response::new(Reply::none());
    let headers = response.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, grpc);
    headers.insert("grpc-status", code);
    if let Ok(message) = HeaderValue::try_from(percent_encoded(sentence)) {
        headers.insert("grpc-message", message);
    }
    response
}

/// As gRPC writes messages in headers: what is not printable ASCII, and the percent sign, as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Why a request got no answer from a pod.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is answered with this.
    Refused(Refusal),
    /// Its client has gone, so there is nobody to answer.
    Gone,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The client went away before there was an answer; its connection is closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the client went away")
    }
}

impl std::error::Error for Gone {}
