//! Request bodies reach a Function at zero whole.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use hello::fnv;
use http::Method;
use serde_json::json;

use crate::{
    client::{self, Body},
    scene::Scene,
};

fn payload(length: usize) -> Bytes {
    (0..length)
        .map(|_| fastrand::u8(..))
        .collect::<Vec<u8>>()
        .into()
}

/// `bytes` in pieces of `piece`, one every `every`.
fn dripped(bytes: Bytes, piece: usize, every: Duration) -> Body {
    let pieces: Vec<Bytes> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
    client::chunked(stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(every).await;
        piece
    }))
}

async fn post(scene: &Scene, name: &str, bytes: Bytes, body: Body) -> Result<()> {
    scene.function(name, json!({})).await?;
    let address = scene.address(name).await?;
    let answer = client::send(address, name, Method::POST, "/hash", body).await?;
    let wanted = format!("{} {:016x}", bytes.len(), fnv::hash(&bytes));
    ensure!(
        answer.expect(200)?.text().trim() == wanted,
        "sent {wanted}, the pod got {}",
        answer.text()
    );
    ensure!(answer.headers.contains_key("server-timing"), "it was held");
    Ok(())
}

pub(super) async fn arrive_intact_at_a_function_at_zero(scene: Scene) -> Result<()> {
    let mib = payload(1 << 20);
    let small = payload(64 << 10);
    let at_once = client::chunked(stream::iter(
        mib.chunks(10_000)
            .map(Bytes::copy_from_slice)
            .collect::<Vec<_>>(),
    ));
    // 1000 bytes every 100 ms: 10 kB/s.
    let slowly = dripped(small.clone(), 1000, Duration::from_millis(100));
    tokio::try_join!(
        post(
            &scene,
            "with-length",
            mib.clone(),
            client::whole(mib.clone())
        ),
        post(&scene, "chunked", mib.clone(), at_once),
        post(&scene, "dripped", small.clone(), slowly),
    )?;
    Ok(())
}
