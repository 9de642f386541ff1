//! Connections and pods that are busy without a request.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use crate::scene::{Scene, names};

const SOON: Duration = Duration::from_secs(30);

/// Three times the idle time of these Functions.
const LONG: Duration = Duration::from_secs(6);

/// A connection to the Function that has changed its protocol to one that echoes.
async fn open(scene: &Scene) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(scene.address("hello").await?).await?;
    let request =
        "GET /socket HTTP/1.1\r\nhost: hello\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("the head ended early")?);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    Ok(stream)
}

async fn echoes(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"ping").await?;
    let mut back = [0; 4];
    stream.read_exact(&mut back).await?;
    ensure!(&back == b"ping", "{back:?} came back");
    Ok(())
}

pub(super) async fn an_upgraded_connection_keeps_its_pod(scene: Scene) -> Result<()> {
    scene
        .function("hello", json!({"scale": {"idleAfter": "2s"}}))
        .await?;
    let mut stream = open(&scene).await?;
    let before = names(&scene.pods("hello").await?);
    sleep(LONG).await;
    echoes(&mut stream).await?;
    ensure!(
        names(&scene.pods("hello").await?) == before,
        "the pods are not those of before"
    );
    drop(stream);
    scene.wait_zero("hello", SOON).await
}

pub(super) async fn one_that_is_not_counted_does_not(scene: Scene) -> Result<()> {
    scene
        .function(
            "hello",
            json!({"scale": {"idleAfter": "2s", "countUpgrades": false}}),
        )
        .await?;
    let mut stream = open(&scene).await?;
    echoes(&mut stream).await?;
    scene.wait_zero("hello", SOON).await?;
    let end = tokio::time::timeout(SOON, stream.read_u8()).await;
    ensure!(matches!(end, Ok(Err(_))), "the connection outlived its pod");
    Ok(())
}

pub(super) async fn a_pod_that_says_that_it_is_busy_stays(scene: Scene) -> Result<()> {
    let mut spec = scene.with_env(&[("BUSY_MS", "12000")]);
    spec["scale"] = json!({"idleAfter": "2s", "keepAliveProbe": "/busy"});
    scene.function("hello", spec).await?;
    scene.get("hello", "/").await?.expect(200)?;
    let before = names(&scene.pods("hello").await?);
    sleep(LONG).await;
    ensure!(
        names(&scene.pods("hello").await?) == before,
        "a busy pod was removed"
    );
    scene.wait_zero("hello", SOON * 2).await
}

/// Requests of HTTP/2 at once on one connection, with bodies and trailers that must come back, to a Function at zero.
async fn converse(scene: &Scene, function: &str) -> Result<()> {
    let address = scene.address(function).await?;
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let requests = (0..20).map(|number| {
        let (mut sender, function) = (sender.clone(), function.to_owned());
        async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-number", HeaderValue::from(number));
            let body = Full::new(Bytes::from(format!("request {number}")));
            let body = body.with_trailers(async move { Some(Ok(trailers)) });
            let request = Request::post(format!("http://{function}/echo"))
                .header("te", "trailers")
                .header("trailer", "x-number")
                .body(body.boxed())?;
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let answer = answer.into_body().collect().await?;
            let trailers = answer.trailers().cloned().unwrap_or_default();
            let body = answer.to_bytes();
            ensure!(status == 200, "{status}: {body:?}");
            ensure!(body == format!("request {number}"), "{body:?} came back");
            Ok(trailers.get("x-number") == Some(&HeaderValue::from(number)))
        }
    });
    let with_trailers = futures::future::try_join_all(requests).await?;
    drop(connection);
    ensure!(
        with_trailers.iter().all(|with| *with),
        "trailers are missing: {with_trailers:?}"
    );
    Ok(())
}

pub(super) async fn http2_reaches_functions_at_zero(scene: Scene) -> Result<()> {
    let mut spec = scene.with_env(&[("H2C", "1")]);
    spec["protocol"] = json!("h2c");
    spec["scale"] = json!({"idleAfter": "1s"});
    scene.function("grpc", spec).await?;
    scene.wait_zero("grpc", SOON).await?;
    converse(&scene, "grpc").await?;
    let answer = scene.get("grpc", "/").await?;
    answer.expect(200)?;
    let service = scene.api::<Service>().get("grpc").await?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let protocol = ports.first().and_then(|port| port.app_protocol.as_deref());
    ensure!(
        protocol == Some("kubernetes.io/h2c"),
        "appProtocol is {protocol:?}"
    );
    scene.wait_zero("grpc", SOON).await
}
