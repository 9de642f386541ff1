//! What an operator is to the activator: a stream over which it is told of Functions and their pods, without any Kubernetes.

use std::{collections::HashSet, convert::Infallible, net::SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use crds::{
    control::{
        Backends, Decoder, PATH, Pod, PodState, Protocol, Readiness, RevisionBackends, Route,
        ToActivator, ToOperator, Weight, encode,
    },
    names::FunctionKey,
};
use futures::stream;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// An open control stream; the activator goes on with what it was told when this is dropped.
pub(crate) struct Control {
    frames: mpsc::UnboundedSender<ToActivator>,
    woken: watch::Receiver<HashSet<FunctionKey>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Control {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Control {
    /// Tells the activator at `control` of `routes` and what `pods` says, as the leader of this epoch or as another replica, and waits until it
    /// listens for all.
    pub(crate) async fn open(
        control: SocketAddr,
        token: &str,
        epoch: Option<u64>,
        routes: Vec<Route>,
        pods: impl Fn(&Route) -> ToActivator,
    ) -> Result<Self> {
        let stream = TcpStream::connect(control).await?;
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        let count = routes.len();
        let (frames, told) = mpsc::unbounded_channel();
        for route in routes {
            let pods = pods(&route);
            frames.send(ToActivator::Route(route))?;
            frames.send(pods)?;
        }
        frames.send(ToActivator::Lead { epoch })?;
        frames.send(ToActivator::Synced)?;
        let told = stream::unfold(told, async |mut told| {
            let frame: bytes::Bytes = encode(&told.recv().await?).into();
            Some((Ok::<_, Infallible>(Frame::data(frame)), told))
        });
        let body = StreamBody::new(Box::pin(told));
        let request = Request::post(format!("http://{control}{PATH}"))
            .header("authorization", format!("Bearer {token}"))
            .body(body)?;
        let response = sender.send_request(request).await?;
        ensure!(
            response.status() == StatusCode::OK,
            "the activator refuses the stream: {}",
            response.status()
        );
        let (wakes, woken) = watch::channel(HashSet::new());
        let mut heard = Heard {
            body: response.into_body(),
            decoder: Decoder::default(),
            wakes,
        };
        heard.bound(count).await?;
        let reading = tokio::spawn(async move { while heard.frames().await.is_ok() {} });
        Ok(Self {
            frames,
            woken,
            tasks: [connection, reading],
        })
    }

    /// Waits until the activator has asked for a pod of this Function.
    pub(crate) async fn woken(&self, function: &FunctionKey) -> Result<()> {
        let mut woken = self.woken.clone();
        let asked = woken.wait_for(|woken| woken.contains(function)).await;
        asked.context("the control stream has ended")?;
        Ok(())
    }

    /// Tells it something more.
    pub(crate) fn tell(&self, frame: ToActivator) -> Result<()> {
        Ok(self.frames.send(frame)?)
    }
}

/// A Function on this port.
pub(crate) fn route(function: FunctionKey, port: u16) -> Route {
    Route {
        hosts: vec![format!("{}.{}", function.name, function.namespace)],
        function,
        port,
        weights: vec![Weight {
            revision: "1".into(),
            weight: 100,
        }],
        cold_start_ms: 60_000,
        request_ms: 300_000,
        first_byte_ms: None,
        idle_ms: None,
        count_upgrades: true,
        keep_alive_probe: None,
    }
}

/// The pods of a Function: one at `backend`, or none.
pub(crate) fn pods(function: &FunctionKey, backend: Option<SocketAddr>) -> ToActivator {
    speaking(function, backend, Protocol::Http1)
}

/// The same with pods that speak `protocol`.
pub(crate) fn speaking(
    function: &FunctionKey,
    backend: Option<SocketAddr>,
    protocol: Protocol,
) -> ToActivator {
    let pod = backend.map(|backend| Pod {
        uid: format!("{function}-1"),
        name: "bench-1".into(),
        address: backend.ip(),
        state: PodState::Serving,
        startup: None,
    });
    ToActivator::Backends(Backends {
        function: function.clone(),
        drain: 0,
        limit: None,
        problem: None,
        revisions: vec![RevisionBackends {
            revision: "1".into(),
            port: backend.map_or(1, |backend| backend.port()),
            protocol,
            readiness: Readiness::Connect,
            problem: None,
            pods: pod.into_iter().collect(),
        }],
    })
}

/// What the activator says.
struct Heard {
    body: Incoming,
    decoder: Decoder,
    wakes: watch::Sender<HashSet<FunctionKey>>,
}

impl Heard {
    /// The next frames; remembers who was woken.
    async fn frames(&mut self) -> Result<Vec<ToOperator>> {
        let data = self.body.frame().await;
        let data = data.context("the control stream has ended")??;
        self.decoder
            .push(data.data_ref().map_or(&[], |data| data.as_ref()));
        let mut frames = Vec::new();
        while let Some(frame) = self.decoder.next_frame()? {
            if let ToOperator::Wake { function, .. } = &frame {
                self.wakes
                    .send_if_modified(|woken| woken.insert(function.clone()));
            }
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Waits until so many ports are listened on.
    async fn bound(&mut self, count: usize) -> Result<()> {
        let mut bound = 0;
        while bound < count {
            for frame in self.frames().await? {
                match frame {
                    ToOperator::Bound { .. } => bound += 1,
                    ToOperator::BindFailed { port, error, .. } => {
                        bail!("the activator cannot listen on {port}: {error}")
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
