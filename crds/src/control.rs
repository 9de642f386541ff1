//! The control stream: what the operator and the activators tell each other.
//!
//! Every operator replica opens one HTTP/2 request to each activator ([`PATH`], with a bearer token, over TLS by [`SERVER_NAME`]) and keeps it open. Its request
//! body carries [`ToActivator`] frames, its response body [`ToOperator`] frames, each a line of JSON. A new stream starts with
//! the full state (`Route`, `Backends` and, if it has one, `Certificate` of each Function), then [`ToActivator::Synced`], then changes. A receiver that does
//! not know a frame's type skips it, so that a rolling upgrade can add frames.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::names::FunctionKey;

/// Path of the control stream on the activator's control port.
pub const PATH: &str = "/control/v1";

/// The name in the certificate of every activator's control port: operators know activators by address, and the certificate by this.
pub const SERVER_NAME: &str = "activator.ebb.internal";

/// Longest certificate chain and private key together, in bytes of PEM. However JSON escapes them, a frame has room.
pub const MAX_CERTIFICATE: usize = 64 << 10;

/// Longest frame in bytes, newline included. The largest real one is `Backends` of a Function with a thousand pods, about 200 kB.
pub const MAX_FRAME: usize = 1 << 20;

/// What the operator tells an activator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ToActivator {
    /// A Function exists or has changed.
    Route(Route),
    /// The whole set of a Function's pods, as it is now.
    Backends(Backends),
    /// A Function's hosts have TLS, with this certificate from now on.
    Certificate(Certificate),
    /// A Function's hosts have TLS no longer.
    NoCertificate {
        /// Which Function.
        function: FunctionKey,
    },
    /// The Function is gone: what waits for it is answered 503, what is in flight may finish.
    Remove {
        /// Which Function.
        function: FunctionKey,
    },
    /// All that exists has been sent; a Function not named before this frame does not exist.
    Synced,
    /// Whether the operator at the other end holds the lease. Activators follow the leader with the highest epoch, and
    /// when no leader is connected, any operator that has synced.
    Lead {
        /// The lease's count of transitions, growing with every change of leader; `None`: it does not hold the lease.
        epoch: Option<u64>,
    },
    /// A frame of a newer version.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// How requests reach a Function and what bounds them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Which Function.
    pub function: FunctionKey,
    /// Port that belongs to this Function alone on every activator.
    pub port: u16,
    /// `Host` values (lower case, without port) that choose this Function on the shared port.
    pub hosts: Vec<String>,
    /// Revisions that take new requests, with their weights; the sum is not zero.
    pub weights: Vec<Weight>,
    /// How long a request may wait for a pod, in milliseconds.
    pub cold_start_ms: u64,
    /// How long a request may take from its arrival at a pod to its last byte, in milliseconds.
    pub request_ms: u64,
    /// How long a pod may take to begin its answer, in milliseconds; `None`: as long as the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u64>,
    /// How long a pod may send nothing of an answer that it has begun, in milliseconds; `None`: as long as the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
    /// Whether an upgraded connection, such as a WebSocket, counts as a request in its pod until it ends.
    #[serde(default = "yes")]
    pub count_upgrades: bool,
    /// Path that draining pods are asked before they count as drained: 200 means that the pod is busy on its own account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive_probe: Option<String>,
}

fn yes() -> bool {
    true
}

/// The certificate for hosts of a Function on the shared port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Which Function.
    pub function: FunctionKey,
    /// Hosts that it is served for; of them only those count that the Function's [`Route`] has, too.
    pub hosts: Vec<String>,
    /// The certificate and those that it was issued by, in PEM.
    pub chain_pem: String,
    /// Its private key in PEM.
    pub key_pem: PrivateKey,
}

/// A private key, which shows nothing of itself when it is printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKey(pub String);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

/// A revision's share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Weight {
    /// Name of the revision.
    pub revision: String,
    /// Share relative to the sum of all weights.
    pub weight: u32,
}

/// The pods of a Function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backends {
    /// Which Function.
    pub function: FunctionKey,
    /// Names the present set of draining pods; changes with the set, and is repeated in [`ToOperator::Drained`] so that an
    /// answer to an earlier, cancelled drain is not taken for this one.
    pub drain: u64,
    /// Each revision that has a Deployment.
    pub revisions: Vec<RevisionBackends>,
    /// What keeps the Function from having any, so that requests wait for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Set if the Function has a limit of requests at once, which holds because one activator alone sends to its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

/// A limit of requests at once, and who keeps it.
///
/// The keeper changes in two steps, so that there is never more than one: a new `term` without a keeper is told, which each activator
/// answers with [`ToOperator::Released`]; when all have, the keeper is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Requests that a pod may have at once.
    pub per_pod: u32,
    /// Names a change of the keeper. An activator that has answered one does not believe in the keeper of a lower one.
    pub term: u64,
    /// The activator that alone sends to pods; the others send to it. `None` while that is being settled: requests wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<Keeper>,
    /// UIDs of pods in which requests of other activators still are. The keeper sends nothing to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub busy: Vec<String>,
    /// Addresses of the activators, which send each other requests.
    pub activators: Vec<std::net::IpAddr>,
}

/// An activator that others send requests to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keeper {
    /// Name of its pod, as in [`ToOperator::Hello`].
    pub activator: String,
    /// Its address. It listens on [`Route::port`].
    pub address: std::net::IpAddr,
}

/// The pods of one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionBackends {
    /// Name of the revision.
    pub revision: String,
    /// Port that its pods serve on.
    pub port: u16,
    /// What the port speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// How to find out that a starting pod can take requests.
    pub readiness: Readiness,
    /// What keeps its pods from starting, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Its pods that have an address.
    pub pods: Vec<Pod>,
}

/// What pods speak on the port that takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "api", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge (RFC 9113 section 3.3).
    H2c,
}

impl Protocol {
    /// As it is written in a Function. The names of revisions are made of it, so it never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::H2c => "h2c",
        }
    }
}

/// How an activator finds out that a starting pod can take requests, before the kubelet (whose probes have a grain of a second) says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "probe")]
pub enum Readiness {
    /// The pod declares no readiness probe: it is ready when its port accepts a connection.
    Connect,
    /// The pod declares an HTTP readiness probe on its serving port: a GET of this path must answer 200 to 399.
    Http {
        /// Path and query of the probe.
        path: String,
        /// Extra headers of the probe.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// The pod declares a probe that an activator cannot run (exec, gRPC, another port): only the kubelet knows.
    Kubelet,
}

/// A pod that may take requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// UID of the pod; an address can be given to another pod later, a UID cannot.
    pub uid: String,
    /// Name of the pod, for people.
    pub name: String,
    /// IP address, v4 or v6.
    pub address: std::net::IpAddr,
    /// What may be sent to it.
    pub state: PodState,
    /// When its start reached which point, if this operator saw the wake that led to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Startup>,
}

/// What may be sent to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodState {
    /// Not known to be ready: nothing is sent until a probe of the activator's own passes.
    Starting,
    /// Ready by the kubelet's word.
    Serving,
    /// No new request; what is in flight finishes.
    Draining,
}

/// Microseconds from the operator's receipt of the wake to each step of a pod's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Startup {
    /// The API server has answered the write that raised the count.
    pub scaled_us: u64,
    /// The pod was seen bound to a node.
    pub scheduled_us: u64,
    /// The pod was seen with an address.
    pub started_us: u64,
}

/// Why a revision's pods do not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Kubernetes' reason, such as `ImagePullBackOff`.
    pub reason: String,
    /// What happened, in Kubernetes' words, shortened.
    pub message: String,
    /// Whether it is of a kind that does not pass by waiting (a wrong image, a crashing container), as against a full node or quota.
    pub fatal: bool,
}

/// What an activator tells an operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ToOperator {
    /// First frame of a stream.
    Hello {
        /// Name of the activator's pod.
        activator: String,
    },
    /// The activator listens on a Function's port: its address may be given to clients.
    Bound {
        /// Which Function.
        function: FunctionKey,
        /// The port.
        port: u16,
    },
    /// The activator cannot listen on a Function's port.
    BindFailed {
        /// Which Function.
        function: FunctionKey,
        /// The port.
        port: u16,
        /// The system's error.
        error: String,
    },
    /// Requests wait and no pod can take them. Sent at once, and again every [`WAKE_REPEAT_MS`] while that is so.
    Wake {
        /// Which Function.
        function: FunctionKey,
        /// Requests that wait.
        waiting: u32,
    },
    /// What Functions did since the last report: every [`STATS_PERIOD_MS`], only those that were active, and once more when they no longer
    /// are. One whose load has risen suddenly is reported out of turn, [`SURGE_MS`] after the rise and of that time alone.
    Stats {
        /// One entry a Function.
        functions: Vec<FunctionStats>,
    },
    /// A starting pod passed the activator's own probe.
    Probed {
        /// Which Function.
        function: FunctionKey,
        /// UID of the pod.
        pod: String,
    },
    /// Nothing is in flight to any draining pod of the Function, and nothing new will be sent.
    Drained {
        /// Which Function.
        function: FunctionKey,
        /// [`Backends::drain`] that this answers.
        drain: u64,
    },
    /// A draining pod of the Function has answered [`Route::keep_alive_probe`] that it is busy.
    Busy {
        /// Which Function.
        function: FunctionKey,
        /// [`Backends::drain`] that this answers.
        drain: u64,
    },
    /// The activator sends nothing to the pods of this Function, because it is not the keeper of its limit. Sent for each [`Limit::term`],
    /// and again when one of `busy` has nothing in flight any more.
    Released {
        /// Which Function.
        function: FunctionKey,
        /// [`Limit::term`] that this answers.
        term: u64,
        /// The highest that it has answered, whoever told it; a keeper is believed in only with a higher one.
        newest: u64,
        /// UIDs of pods in which its requests still are.
        busy: Vec<String>,
    },
    /// A Function's first request from zero was answered.
    ColdStart(ColdStart),
    /// A frame of a newer version.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// Milliseconds after which a [`ToOperator::Wake`] that led to nothing is sent again.
pub const WAKE_REPEAT_MS: u64 = 1_000;

/// Milliseconds between two [`ToOperator::Stats`], which are sent when the wall clock's time is a multiple of it.
pub const STATS_PERIOD_MS: u64 = 1_000;

/// Milliseconds that a sudden rise of a Function's load must last before it is reported out of turn: a burst that is answered sooner needs
/// no pod more.
pub const SURGE_MS: u64 = 500;

/// One Function's activity in one activator since the last report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStats {
    /// Which Function.
    pub function: FunctionKey,
    /// Requests in a pod now.
    pub in_flight: u32,
    /// Requests that wait now.
    pub queued: u32,
    /// Requests that arrived in a second, since the last regular report.
    pub rps: f64,
    /// Time-weighted average of in-flight and waiting requests since the last report.
    pub concurrency: f64,
    /// Milliseconds since the last request ended; 0 while one is in flight or waits.
    pub idle_ms: u64,
    /// Requests in each pod now, by UID. Pods without any are left out, and so are all while there is only one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pods: BTreeMap<String, u32>,
}

/// Where the time of a Function's first request from zero went. The phases are in order, do not overlap and add up to the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColdStart {
    /// Which Function.
    pub function: FunctionKey,
    /// Which revision answered.
    pub revision: String,
    /// Name of the pod that answered.
    pub pod: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// The phases.
    pub phases: Phases,
}

/// Microseconds of each phase of a held request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Phases {
    /// From the request's arrival until the operator had the wake.
    pub queued_us: u64,
    /// Until the API server had taken the new count.
    pub scaled_us: u64,
    /// Until the pod was bound to a node.
    pub scheduled_us: u64,
    /// Until the pod had an address.
    pub started_us: u64,
    /// Until the head of the pod's answer.
    pub answered_us: u64,
}

impl Phases {
    /// Each phase with its name, in order.
    pub fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("queued", self.queued_us),
            ("scaled", self.scaled_us),
            ("scheduled", self.scheduled_us),
            ("started", self.started_us),
            ("answered", self.answered_us),
        ]
    }

    /// The whole time in microseconds.
    pub fn total_us(&self) -> u64 {
        self.named().iter().map(|(_, us)| us).sum()
    }
}

/// Writes `frame` as one line of JSON, newline included.
///
/// # Panics
/// Never: all frames have string keys and no failing serializer.
pub fn encode<T: Serialize>(frame: &T) -> Vec<u8> {
    // Serialization of these types cannot fail: no maps with other keys than strings, no IO.
    let mut line = serde_json::to_vec(frame).expect("frames serialize");
    line.push(b'\n');
    line
}

/// Why a stream of frames cannot be read on.
#[derive(Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A line is longer than [`MAX_FRAME`].
    TooLong,
    /// A line is not a frame; the text says where.
    Malformed(String),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "a control frame is longer than {MAX_FRAME} bytes"),
            Self::Malformed(why) => write!(f, "a control frame cannot be read: {why}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Start of the bytes not yet handed out.
    start: usize,
    /// Up to here no newline was found, so that a long frame in many pieces is searched once.
    searched: usize,
}

impl Decoder {
    /// Adds bytes as they came from the wire.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`] if the bytes are no frame; the stream cannot be read on then.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(length) = self.buffer[self.searched..]
            .iter()
            .position(|b| *b == b'\n')
        else {
            self.searched = self.buffer.len();
            if self.buffer.len() - self.start > MAX_FRAME {
                return Err(FrameError::TooLong);
            }
            return Ok(None);
        };
        let end = self.searched + length;
        let line = &self.buffer[self.start..end];
        if line.len() >= MAX_FRAME {
            return Err(FrameError::TooLong);
        }
        let frame =
            serde_json::from_slice(line).map_err(|e| FrameError::Malformed(e.to_string()))?;
        self.start = end + 1;
        self.searched = self.start;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wake(name: &str, waiting: u32) -> ToOperator {
        ToOperator::Wake {
            function: FunctionKey::new("shop", name),
            waiting,
        }
    }

    #[test]
    fn frames_are_lines_of_json() {
        let line = encode(&wake("hello", 3));
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"type\":\"wake\",\"function\":\"shop/hello\",\"waiting\":3}\n"
        );
    }

    #[test]
    fn a_frame_of_a_newer_version_is_skipped_not_fatal() {
        let mut decoder = Decoder::default();
        decoder.push(b"{\"type\":\"somethingNew\",\"x\":1}\n");
        decoder.push(&encode(&wake("hello", 1)));
        assert_eq!(decoder.next_frame(), Ok(Some(ToOperator::Unknown)));
        assert_eq!(decoder.next_frame(), Ok(Some(wake("hello", 1))));
        assert_eq!(decoder.next_frame::<ToOperator>(), Ok(None));
    }

    #[test]
    fn a_certificate_fits_a_frame_and_does_not_show_its_key() {
        let certificate = Certificate {
            function: FunctionKey::new("shop", "hello"),
            hosts: vec!["a".repeat(253); 16],
            chain_pem: "\n".repeat(MAX_CERTIFICATE),
            key_pem: PrivateKey("secret".into()),
        };
        let frame = ToActivator::Certificate(certificate);
        assert!(!format!("{frame:?}").contains("secret"));
        let mut decoder = Decoder::default();
        decoder.push(&encode(&frame));
        assert_eq!(decoder.next_frame(), Ok(Some(frame)));
    }

    #[test]
    fn garbage_and_endless_lines_are_errors() {
        let mut decoder = Decoder::default();
        decoder.push(b"not json\n");
        assert!(matches!(
            decoder.next_frame::<ToOperator>(),
            Err(FrameError::Malformed(_))
        ));
        let mut decoder = Decoder::default();
        decoder.push(&vec![b' '; MAX_FRAME + 1]);
        assert_eq!(decoder.next_frame::<ToOperator>(), Err(FrameError::TooLong));
    }

    proptest! {
        #[test]
        fn any_cutting_of_the_bytes_gives_the_same_frames(
            counts in prop::collection::vec(0u32..1000, 1..20),
            cut in 1usize..50,
        ) {
            let frames: Vec<_> = counts.iter().map(|n| wake("hello", *n)).collect();
            let bytes: Vec<u8> = frames.iter().flat_map(encode).collect();
            let mut decoder = Decoder::default();
            let mut seen: Vec<ToOperator> = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in 1usize..64) {
            let mut decoder = Decoder::default();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Ok(Some(_)) = decoder.next_frame::<ToActivator>() {}
            }
        }
    }
}
