//! What stands behind the proxies: answers `/N` with N bytes, whatever was sent; and gRPC calls with what they say.

use std::{convert::Infallible, net::SocketAddr};

use anyhow::Result;
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// Serves HTTP/1.1 until the runtime ends, on its thread: where the clients are. Two threads of one core would take turns of milliseconds, which were all
/// that the slowest requests had to tell of.
pub(in crate::bench) fn start() -> Result<SocketAddr> {
    let (listener, address) = listen()?;
    tokio::spawn(serve(listener));
    Ok(address)
}

/// Serves gRPC: answers each call with its message.
pub(in crate::bench) fn start_grpc() -> Result<SocketAddr> {
    let (listener, address) = listen()?;
    tokio::spawn(serve_grpc(listener));
    Ok(address)
}

fn listen() -> Result<(TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, address))
}

async fn serve(listener: TcpListener) -> Result<()> {
    let zeros = Bytes::from(vec![b'x'; 1 << 20]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let zeros = zeros.clone();
        let service = service_fn(move |request| answer(request, zeros.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

async fn answer(
    request: Request<Incoming>,
    zeros: Bytes,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let length = request.uri().path()[1..].parse().unwrap_or(0);
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    Ok(Response::new(Full::new(
        zeros.slice(..zeros.len().min(length)),
    )))
}

async fn serve_grpc(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service_fn(call));
        tokio::spawn(connection);
    }
}

type Reply = StreamBody<stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>>;

async fn call(request: Request<Incoming>) -> Result<Response<Reply>, hyper::Error> {
    let message = request.into_body().collect().await?.to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    Ok(response)
}
