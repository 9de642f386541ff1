//! Hosts of Functions on the shared port, and TLS for them.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use crds::function::Function;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    client::{self, Connection},
    install::NAMESPACE,
    scene::{Scene, eventually, service_address},
};

const SOON: Duration = Duration::from_secs(20);

/// The port of Service ebb-gateway for TLS.
const HTTPS: u16 = 443;

/// A certificate that is its own authority.
struct Issued {
    certificate: rcgen::Certificate,
    key: String,
}

fn issue(host: &str) -> Result<Issued> {
    let issued = rcgen::generate_simple_self_signed(vec![host.to_owned()])?;
    Ok(Issued {
        key: issued.signing_key.serialize_pem(),
        certificate: issued.cert,
    })
}

/// Writes the Secret `cert`.
async fn write(scene: &Scene, issued: &Issued, key: &str) -> Result<()> {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cert"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": bytes(&issued.certificate.pem()), "tls.key": bytes(key)},
    });
    let params = PatchParams::apply("e2e").force();
    let secrets = scene.api::<Secret>();
    secrets
        .patch("cert", &params, &Patch::Apply(secret))
        .await?;
    Ok(())
}

/// The shared port, plain and for TLS.
async fn gateway(scene: &Scene) -> Result<(SocketAddr, SocketAddr)> {
    let plain = service_address(&scene.client, NAMESPACE, "ebb-gateway").await?;
    Ok((plain, SocketAddr::new(plain.ip(), HTTPS)))
}

/// A host that no other run has.
fn host(scene: &Scene, name: &str) -> String {
    format!("{name}.{}.example.com", scene.namespace)
}

/// A connection to a host that has this certificate, as soon as it is so.
async fn connects(address: SocketAddr, host: &str, issued: &Issued) -> Result<Connection> {
    eventually(SOON, "the certificate is served", async || {
        let trusted = issued.certificate.der();
        Connection::secure(address, host, trusted).await.map(Some)
    })
    .await
}

pub(super) async fn a_new_secret_is_for_new_connections(scene: Scene) -> Result<()> {
    let host = host(&scene, "shop");
    let (_, https) = gateway(&scene).await?;
    let old = issue(&host)?;
    write(&scene, &old, &old.key).await?;
    let spec = json!({
        "hosts": [host], "tls": {"secretName": "cert"}, "scale": {"idleAfter": "2s"},
    });
    scene.function("shop", spec).await?;
    for condition in ["HostsClaimed", "CertificateReady"] {
        scene
            .wait_condition("shop", condition, "True", SOON)
            .await?;
    }
    scene.wait_zero("shop", SOON).await?;
    let mut before = connects(https, &host, &old).await?;
    // From zero, over TLS.
    before.get("/").await?.expect(200)?;

    let new = issue(&host)?;
    write(&scene, &new, &new.key).await?;
    let mut after = connects(https, &host, &new).await?;
    after.get("/").await?.expect(200)?;
    before.get("/").await?.expect(200)?;
    let refused = Connection::secure(https, &host, old.certificate.der()).await;
    ensure!(refused.is_err(), "the old certificate is still served");

    // The condition tells of a wrong key, and the former certificate is served on.
    write(&scene, &new, &old.key).await?;
    let told = scene.wait_condition("shop", "CertificateReady", "False", SOON);
    let (reason, message) = told.await?;
    ensure!(reason == "CertificateKeyMismatch", "{reason}: {message}");
    connects(https, &host, &new)
        .await?
        .get("/")
        .await?
        .expect(200)?;
    let ready = scene.wait_condition("shop", "Ready", "True", SOON);
    ready
        .await
        .context("a wrong Secret is no matter of the rest")?;

    let secrets = scene.api::<Secret>();
    secrets.delete("cert", &DeleteParams::default()).await?;
    eventually(
        SOON,
        "the condition says that the Secret is gone",
        async || {
            let told = scene.wait_condition("shop", "CertificateReady", "False", SOON);
            Ok((told.await?.0 == "SecretNotFound").then_some(()))
        },
    )
    .await?;
    eventually(SOON, "there is no TLS any more", async || {
        let connecting = Connection::secure(https, &host, new.certificate.der());
        Ok(connecting.await.err().map(drop))
    })
    .await
}

pub(super) async fn a_secret_that_is_no_certificate_is_told(scene: Scene) -> Result<()> {
    let host = host(&scene, "shop");
    scene
        .kubectl(&["create", "secret", "generic", "other", "--from-literal=a=b"])
        .await?;
    let spec = |secret: &str| json!({"hosts": [host], "tls": {"secretName": secret}});
    for (secret, expected) in [("nobody", "SecretNotFound"), ("other", "SecretInvalid")] {
        scene.apply("shop", spec(secret)).await?;
        let what = format!("the condition says {expected} of Secret {secret}");
        eventually(SOON, &what, async || {
            let told = scene.wait_condition("shop", "CertificateReady", "False", SOON);
            let (reason, message) = told.await?;
            Ok((reason == expected && message.contains(secret)).then_some(()))
        })
        .await?;
    }
    // It appears, and nobody has to touch the Function.
    scene.apply("shop", spec("cert")).await?;
    let issued = issue(&host)?;
    write(&scene, &issued, &issued.key).await?;
    let (_, https) = gateway(&scene).await?;
    connects(https, &host, &issued)
        .await?
        .get("/")
        .await?
        .expect(200)?;
    scene
        .wait_condition("shop", "CertificateReady", "True", SOON)
        .await?;
    Ok(())
}

pub(super) async fn a_host_belongs_to_one_function(scene: Scene) -> Result<()> {
    let host = host(&scene, "shop");
    let (plain, _) = gateway(&scene).await?;
    scene.function("first", json!({"hosts": [host]})).await?;
    let claimed = scene.wait_condition("first", "HostsClaimed", "True", SOON);
    claimed.await?;
    let reserved = "other.default.svc.cluster.local";
    let spec = json!({"hosts": [host, reserved]});
    scene.function("second", spec).await?;
    let told = scene.wait_condition("second", "HostsClaimed", "False", SOON);
    let (reason, message) = told.await?;
    ensure!(reason == "HostTaken", "{reason}: {message}");
    ensure!(
        message.contains(&host) && message.contains(reserved),
        "{message}"
    );
    ensure!(!message.contains("first"), "it names the other: {message}");
    scene
        .wait_condition("second", "Ready", "True", SOON)
        .await?;
    client::get(plain, &host, "/").await?.expect(200)?;
    ensure!(
        scene.pods("second").await?.is_empty(),
        "the second was woken"
    );

    let functions = scene.api::<Function>();
    functions.delete("first", &DeleteParams::default()).await?;
    eventually(SOON, "the second has the host", async || {
        let hosts = functions
            .get("second")
            .await?
            .status
            .unwrap_or_default()
            .hosts;
        Ok((hosts == [host.clone()]).then_some(()))
    })
    .await?;
    client::get(plain, &host, "/").await?.expect(200)?;
    ensure!(
        !scene.pods("second").await?.is_empty(),
        "the second was not woken"
    );
    Ok(())
}

/// Whoever reads the nodes' traffic learns neither the token nor a key.
pub(super) async fn control_streams_have_tls(scene: Scene) -> Result<()> {
    let of = ListParams::default().labels("app.kubernetes.io/component=activator");
    let pods = Api::<Pod>::namespaced(scene.client.clone(), NAMESPACE);
    let secret = Api::<Secret>::namespaced(scene.client.clone(), NAMESPACE);
    let data = secret.get("ebb-control").await?.data.unwrap_or_default();
    let pem = data
        .get("tls.crt")
        .context("the chart makes no certificate")?;
    let mut probed = 0;
    for pod in pods.list(&of).await? {
        let ip = pod
            .status
            .and_then(|s| s.pod_ip)
            .context("a pod has an address")?;
        let address: SocketAddr = format!("{ip}:8901").parse()?;
        // A network policy may keep this test off, where the network has them.
        if tokio::time::timeout(
            Duration::from_secs(3),
            tokio::net::TcpStream::connect(address),
        )
        .await
        .is_err()
        {
            continue;
        }
        client::shake(address, crds::control::SERVER_NAME, &pem.0)
            .await
            .context("no TLS with the certificate of the Secret")?;
        let plain = client::get(address, "control", "/").await;
        ensure!(plain.is_err(), "the control port answers without TLS");
        probed += 1;
    }
    ensure!(probed > 0, "no activator could be reached");
    Ok(())
}
