//! The cluster's certificates and the kubeconfigs made of them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

use super::layout::{API_SERVICE, Layout, NODE};

/// The API server's port on the node's address.
pub(crate) const API_PORT: u16 = 6443;

/// Who has a kubeconfig: its file, the user's name and the user's group.
const USERS: [(&str, &str, Option<&str>); 5] = [
    ("kubeconfig", "admin", Some("system:masters")),
    (
        "kube-controller-manager.conf",
        "system:kube-controller-manager",
        None,
    ),
    ("kube-scheduler.conf", "system:kube-scheduler", None),
    ("kube-proxy.conf", "system:kube-proxy", None),
    ("kubelet.conf", "system:node:node", Some("system:nodes")),
];

/// Makes all keys, certificates and kubeconfigs.
pub(crate) fn write(layout: &Layout, node: Ipv4Addr) -> Result<()> {
    let pki = layout.pki();
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&pki)?;
    let (authority, ca) = authority(&pki)?;
    let ips = [node, Ipv4Addr::from(API_SERVICE), Ipv4Addr::LOCALHOST];
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
    ];
    server(&authority, &pki, "kube-apiserver", &names, &ips)?;
    server(&authority, &pki, "kubelet-server", &[NODE], &[node])?;
    for (file, user, group) in USERS {
        let key = KeyPair::generate()?;
        let mut params = named(user);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &authority)?.pem();
        secret(
            &layout.state().join(file),
            &kubeconfig(layout, node, &ca, &certificate, &key)?,
        )?;
        if user == "admin" {
            // With this the API server asks the kubelet for logs.
            pair(&pki, user, &certificate, &key)?;
        }
    }
    let accounts = KeyPair::generate()?;
    secret(&pki.join("service-accounts.key"), &accounts.serialize_pem())?;
    Ok(fs::write(
        pki.join("service-accounts.pub"),
        accounts.public_key_pem(),
    )?)
}

fn authority(pki: &Path) -> Result<(Issuer<'static, KeyPair>, String)> {
    let key = KeyPair::generate()?;
    let mut params = named("ebb-cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let certificate = params.self_signed(&key)?.pem();
    pair(pki, "ca", &certificate, &key)?;
    Ok((Issuer::new(params, key), certificate))
}

fn server(
    authority: &Issuer<'_, KeyPair>,
    pki: &Path,
    name: &str,
    names: &[&str],
    addresses: &[Ipv4Addr],
) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = named(name);
    for name in names {
        params
            .subject_alt_names
            .push(SanType::DnsName((*name).try_into()?));
    }
    params.subject_alt_names.extend(
        addresses
            .iter()
            .map(|ip| SanType::IpAddress(IpAddr::V4(*ip))),
    );
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    pair(pki, name, &params.signed_by(&key, authority)?.pem(), &key)
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn pair(pki: &Path, name: &str, certificate: &str, key: &KeyPair) -> Result<()> {
    fs::write(pki.join(format!("{name}.crt")), certificate)?;
    secret(&pki.join(format!("{name}.key")), &key.serialize_pem())
}

fn secret(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(std::io::Write::write_all(&mut file, text.as_bytes())?)
}

/// A kubeconfig that needs no other file. It names the node's address, which both the machine and the node reach.
fn kubeconfig(
    layout: &Layout,
    node: Ipv4Addr,
    ca: &str,
    certificate: &str,
    key: &KeyPair,
) -> Result<String> {
    let name = layout.name();
    let base64 = |text: &str| ByteString(text.as_bytes().to_vec());
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": {
            "server": format!("https://{node}:{API_PORT}"),
            "certificate-authority-data": base64(ca),
        }}],
        "users": [{ "name": name, "user": {
            "client-certificate-data": base64(certificate),
            "client-key-data": base64(&key.serialize_pem()),
        }}],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        "current-context": name,
    });
    Ok(yaml_serde::to_string(&config)?)
}
