//! What an operator is to the activator: the one Function of this measurement, told over a control stream.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use crds::{
    control::{
        Backends, Decoder, PATH, Pod, PodState, Protocol, Readiness, RevisionBackends, Route,
        ToActivator, ToOperator, Weight, encode,
    },
    names::FunctionKey,
};
use futures::stream::{self, StreamExt as _};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinHandle};

/// An open control stream; the activator goes on with what it was told when this is dropped.
pub(super) struct Control {
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Control {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Control {
    /// Tells the activator at `control` of `routes`, each to the one pod at `backend`, and waits until it listens for all.
    pub(super) async fn open(
        control: SocketAddr,
        token: &str,
        routes: Vec<Route>,
        backend: SocketAddr,
    ) -> Result<Self> {
        let stream = TcpStream::connect(control).await?;
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        let count = routes.len();
        let frames: Vec<_> = routes
            .into_iter()
            .flat_map(|route| {
                let pods = pods(&route.function, backend);
                [ToActivator::Route(route), pods]
            })
            .chain([ToActivator::Lead { epoch: Some(1) }, ToActivator::Synced])
            .map(|frame| Ok::<_, std::convert::Infallible>(Frame::data(encode(&frame).into())))
            .collect();
        let body = StreamBody::new(
            stream::iter(frames).chain(stream::pending::<Result<Frame<bytes::Bytes>, _>>()),
        );
        let request = Request::post(format!("http://{control}{PATH}"))
            .header("authorization", format!("Bearer {token}"))
            .body(body)?;
        let response = sender.send_request(request).await?;
        ensure!(
            response.status() == StatusCode::OK,
            "the activator refuses the stream: {}",
            response.status()
        );
        let mut body = response.into_body();
        bound(&mut body, count).await?;
        let reading = tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
        Ok(Self {
            tasks: [connection, reading],
        })
    }
}

/// A Function on this port.
pub(super) fn route(name: &str, port: u16) -> Route {
    let function = FunctionKey::new("shop", name);
    Route {
        hosts: vec![format!("{name}.shop")],
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

fn pods(function: &FunctionKey, backend: SocketAddr) -> ToActivator {
    let pod = Pod {
        uid: format!("{function}-1"),
        name: "bench-1".into(),
        address: backend.ip(),
        state: PodState::Serving,
        startup: None,
    };
    ToActivator::Backends(Backends {
        function: function.clone(),
        drain: 0,
        limit: None,
        revisions: vec![RevisionBackends {
            revision: "1".into(),
            port: backend.port(),
            protocol: Protocol::Http1,
            readiness: Readiness::Connect,
            problem: None,
            pods: vec![pod],
        }],
    })
}

/// Waits until so many ports are listened on.
async fn bound(body: &mut Incoming, count: usize) -> Result<()> {
    let (mut decoder, mut bound) = (Decoder::default(), 0);
    while bound < count {
        let frame = body
            .frame()
            .await
            .context("the control stream has ended")??;
        decoder.push(frame.data_ref().map_or(&[], |data| data.as_ref()));
        while let Some(frame) = decoder.next_frame()? {
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
