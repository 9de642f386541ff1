//! The door for fuzz targets. It is there only in builds with `--cfg fuzzing`, as `cargo e2e fuzz` makes them.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
};

use crds::{
    control::{Backends, Route},
    names::FunctionKey,
};
use http::{HeaderMap, Request, Response, request};
use prometheus::Registry;
use throttle::{Budget, Most};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    access::Access,
    args::Args,
    connection,
    cores::{Cores, Place},
    fields::Fields,
    function::Function,
    functions::Functions,
    headers,
    http1::{
        message::{Message, Piece},
        pod,
    },
    metrics::Metrics,
    origin::Origin,
    proxy::{Entry, Proxy},
    sender::Failed,
    serve::{Accepted, Server},
};

/// An activator that serves connections on its caller's thread. Nothing listens, nobody steers it, and no thread does anything beside.
pub struct Door {
    server: Arc<Server>,
    function: Arc<Function>,
    /// A server has cores; this one's have nothing to do.
    _cores: DropGuard,
}

impl Door {
    /// One that knows this Function. To be called inside a runtime.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn open(args: &Args, route: &Route, backends: &Backends) -> anyhow::Result<Self> {
        let (functions, metrics) = functions()?;
        let (function, _) = functions.apply(&Arc::new(route.clone()), Some(backends), None);
        functions.publish();
        let budget = Budget::new(Most {
            count: 1000,
            bytes: 64 << 20,
        });
        // All requests have a line, which nobody reads.
        let access = Access::new(Some(1.0));
        let proxy = Proxy::new(functions, Arc::clone(&metrics), budget, access);
        let stop = CancellationToken::new();
        let cores = Cores::start(1, &stop)?;
        Ok(Self {
            server: Arc::new(Server::new(Arc::new(proxy), metrics, cores, args)),
            function,
            _cores: stop.drop_guard(),
        })
    }

    /// Serves a connection until it ends: one on the shared port, or on the Function's own.
    pub async fn serve(&self, stream: TcpStream, peer: SocketAddr, shared: bool) {
        let entry = match shared {
            true => Entry::Gateway,
            false => Entry::Function(Arc::clone(&self.function)),
        };
        let Ok(place) = Arc::new(Semaphore::new(1)).try_acquire_owned() else {
            return;
        };
        let (server, places) = (Arc::clone(&self.server), (place, Place::default()));
        // What ends a connection is its client's matter.
        let _ = connection::serve(server, Accepted::Elsewhere(stream), peer, places, entry).await;
    }
}

/// Functions without pods, to choose among.
pub struct Hosts(Arc<Functions>);

impl Hosts {
    /// Those of these routes.
    ///
    /// # Errors
    /// If a metric has no valid name.
    pub fn new(routes: &[Route]) -> anyhow::Result<Self> {
        let (functions, _) = functions()?;
        for route in routes {
            functions.apply(&Arc::new(route.clone()), None, None);
        }
        functions.publish();
        Ok(Self(functions))
    }

    /// The one that a request on the shared port is for.
    pub fn chosen(&self, request: &Request<()>) -> Option<FunctionKey> {
        let host = headers::host(request).unwrap_or_default();
        self.0.by_host(host).map(|function| function.key.clone())
    }
}

fn functions() -> anyhow::Result<(Arc<Functions>, Arc<Metrics>)> {
    let metrics = Arc::new(Metrics::new(&Registry::new())?);
    let (operators, surges) = (Arc::default(), Arc::default());
    let functions = Functions::new("fuzz", 1000, operators, Arc::clone(&metrics), surges);
    Ok((Arc::new(functions), metrics))
}

/// What a client gets of a pod's answer.
#[derive(Debug, Default)]
pub struct Told {
    /// The head, if there is one.
    pub head: Option<Response<()>>,
    /// What comes of the body.
    pub body: Vec<u8>,
    /// The fields after it.
    pub trailers: HeaderMap,
    /// Whether all of that is as it should be.
    pub whole: bool,
}

/// Reads an answer that comes in pieces of such a size, after which the pod closes the connection. `to_head`: the request was a HEAD.
pub fn answer(stream: &[u8], piece: usize, to_head: bool) -> Told {
    let (mut answer, mut told) = (Message::default(), Told::default());
    for bytes in stream.chunks(piece) {
        answer.input.extend_from_slice(bytes);
        match read(&mut answer, &mut told, to_head) {
            Ok(false) => {}
            Ok(true) => {
                told.whole = true;
                return told;
            }
            Err(_) => return told,
        }
    }
    told.whole = told.head.is_some() && answer.end().is_ok();
    told
}

/// Takes what has come; returns whether it is all.
fn read(answer: &mut Message, told: &mut Told, to_head: bool) -> Result<bool, Failed> {
    if told.head.is_none() {
        told.head = pod::head_of(answer, to_head)?.map(|(head, _)| head);
    }
    while told.head.is_some() {
        match answer.piece()? {
            Piece::Data(data) => told.body.extend_from_slice(&data),
            Piece::Trailers(fields) => told.trailers = fields,
            Piece::End => return Ok(true),
            Piece::More => break,
        }
    }
    Ok(false)
}

/// Turns a client's head into the one that a pod gets.
///
/// # Errors
/// With the sentence that the client is answered.
pub fn to_pod(head: &mut request::Parts, client: IpAddr, trusted: bool) -> Result<(), String> {
    let origin = Origin::new(client, trusted);
    let default_host = || "hello.shop".to_owned();
    let fields = Fields::of(&head.headers);
    let done = headers::to_pod(head, fields, Some(&origin), default_host);
    done.map_err(|refusal| refusal.text.into_owned())
}

/// Writes a pod's request as HTTP/1.1 wants it.
pub fn to_http1(request: &mut Request<()>) {
    headers::to_http1(request);
}

/// Writes a pod's request as HTTP/2 wants it.
pub fn to_http2(request: &mut Request<()>) {
    headers::to_http2(request);
}
