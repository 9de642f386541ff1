//! What answers for all pods of the fake node.

use std::convert::Infallible;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

/// The port of the Functions' pods.
pub(super) const PORT: u16 = 18_080;

/// Answers everything on [`PORT`] of all addresses until it is aborted.
pub(super) async fn serve() -> Result<JoinHandle<()>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(connection);
        }
    }))
}

async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::default()))
}
