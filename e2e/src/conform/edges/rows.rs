//! The requests, and the pods' answers.

mod bodies;
mod exchanges;
mod heads;

use crate::conform::backend::OK;

/// What is sent, what the pod says, and what must come of it.
pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) raw: Vec<u8>,
    /// The pod's answer to whatever reaches it.
    pub(super) pod: &'static str,
    /// Whether the client says that nothing more comes.
    pub(super) ends: bool,
    /// Nothing: the same as of nginx.
    pub(super) differs: Option<Differs>,
}

/// What becomes of a row behind Ebb, where nginx does otherwise.
pub(super) struct Differs {
    pub(super) ebb: &'static str,
    pub(super) why: &'static str,
}

fn row(what: &'static str, raw: impl Into<Vec<u8>>) -> Row {
    Row {
        what,
        raw: raw.into(),
        pod: OK,
        ends: false,
        differs: None,
    }
}

impl Row {
    fn pod(mut self, answer: &'static str) -> Self {
        self.pod = answer;
        self
    }

    fn ends(mut self) -> Self {
        self.ends = true;
        self
    }

    fn differs(mut self, ebb: &'static str, why: &'static str) -> Self {
        self.differs = Some(Differs { ebb, why });
        self
    }
}

const HOST: &str = "Host: hello.shop";
const CHUNKED: &str = "Transfer-Encoding: chunked";
const LENGTH: &str = "Content-Length: 4";
const CHUNKS: &str = "4\r\nbody\r\n0\r\n\r\n";

/// A request with these header lines and this body, after which the client wants the connection closed.
fn request(line: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{line}\r\n");
    for header in headers {
        text += &format!("{header}\r\n");
    }
    text + "Connection: close\r\n\r\n" + body
}

fn get(headers: &[&str]) -> String {
    request("GET /echo HTTP/1.1", headers, "")
}

/// A GET for the right Host with this target.
fn target(target: &str) -> String {
    request(&format!("GET {target} HTTP/1.1"), &[HOST], "")
}

/// A POST for the right Host with one more line.
fn post(header: &str, body: &str) -> String {
    request("POST /echo HTTP/1.1", &[HOST, header], body)
}

/// A POST whose body is in chunks, or says so.
fn chunked(body: &str) -> String {
    post(CHUNKED, body)
}

/// A request that asks for no end of the connection, and another one.
fn twice(first: &str) -> String {
    format!("{first}{}", get(&[HOST]))
}

pub(super) fn all() -> Vec<Row> {
    [heads::all(), bodies::all(), exchanges::all()]
        .into_iter()
        .flatten()
        .collect()
}
