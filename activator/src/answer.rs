//! Answers that the activator gives itself, each with a reason from a closed set.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::body::Reply;

/// Header of every answer that comes from the activator and not from a pod; its value is a [`Reason`].
pub(crate) const REASON_HEADER: HeaderName = HeaderName::from_static("x-ebb-reason");

/// Why the activator answered itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No Function has the request's Host.
    UnknownHost,
    /// The request cannot be forwarded.
    BadRequest,
    /// Too many requests wait for the Function.
    QueueFull,
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
}

impl Reason {
    pub(crate) const ALL: [Self; 8] = [
        Self::UnknownHost,
        Self::BadRequest,
        Self::QueueFull,
        Self::Removed,
        Self::NoPod,
        Self::PodProblem,
        Self::PodFailed,
        Self::RequestTimeout,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::UnknownHost => "unknown-host",
            Self::BadRequest => "bad-request",
            Self::QueueFull => "queue-full",
            Self::Removed => "removed",
            Self::NoPod => "no-pod",
            Self::PodProblem => "pod-problem",
            Self::PodFailed => "pod-failed",
            Self::RequestTimeout => "request-timeout",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::UnknownHost => StatusCode::NOT_FOUND,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::QueueFull | Self::Removed => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoPod | Self::PodProblem | Self::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::PodFailed => StatusCode::BAD_GATEWAY,
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

    /// The answer to the request of this ID.
    pub(crate) fn into_response(self, id: &HeaderValue) -> Response<Reply> {
        let id = String::from_utf8_lossy(id.as_bytes());
        tracing::debug!(reason = self.reason.name(), %id, text = %self.text, "request refused");
        let body = format!("{} (request {id})\n", self.text);
        let mut response = Response::new(Reply::text(Bytes::from(body)));
        *response.status_mut() = self.reason.status();
        let headers = response.headers_mut();
        headers.insert(REASON_HEADER, HeaderValue::from_static(self.reason.name()));
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        if self.reason == Reason::QueueFull {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.reason == Reason::Removed {
            // A Function of that name can come back, but not on a connection of the old one.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
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
