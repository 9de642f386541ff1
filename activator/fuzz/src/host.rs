//! Which Function a request is for, and that its pod is told the same.

use std::{net::IpAddr, sync::OnceLock};

use activator::fuzzing::{self, Hosts};
use crds::{
    control::{Route, Weight},
    names::FunctionKey,
};
use http::{HeaderValue, Method, Request, Uri, Version, header};

/// Functions and their hosts; two want the same one.
const KNOWN: [(&str, &[&str]); 3] = [
    (
        "hello",
        &["hello.shop", "hello.shop.svc", "www.example.com"],
    ),
    ("other", &["other.shop", "www.example.com", "[::1]"]),
    ("x", &["x", "10.0.0.1"]),
];

/// Takes the first byte for version and method, the first line for the target, and each further one for a Host.
pub fn run(input: &[u8]) {
    let Some((&options, rest)) = input.split_first() else {
        return;
    };
    let Some(request) = request(options, rest) else {
        return;
    };
    let hosts = hosts();
    let chosen = hosts.chosen(&request);
    let host = meant(&request);
    let (mut head, ()) = request.into_parts();
    let client = IpAddr::from([10, 0, 0, 9]);
    if fuzzing::to_pod(&mut head, client, false).is_err() {
        return;
    }
    let rewritten = Request::from_parts(head, ());
    let told = only_host(&rewritten);
    assert!(is_host(&told), "the pod is told the host {told:?}");
    let target = rewritten.uri().to_string();
    let asterisk = target == "*" && rewritten.method() == Method::OPTIONS;
    assert!(target.starts_with('/') || asterisk, "{target:?}");
    if let Some(host) = host {
        assert_eq!(chosen, expected(&host), "who has {host:?}");
        assert_eq!(hosts.chosen(&rewritten), chosen, "the pod is told {told:?}");
    }
    there_and_back(rewritten, &told);
}

fn request(options: u8, rest: &[u8]) -> Option<Request<()>> {
    let mut lines = rest.split(|b| *b == b'\n');
    let target = Uri::try_from(lines.next()?).ok()?;
    let mut request = Request::new(());
    *request.version_mut() = match options & 3 {
        0 => Version::HTTP_10,
        1 | 2 => Version::HTTP_11,
        // Its targets have both.
        _ if target.scheme().is_some() && target.authority().is_some() => Version::HTTP_2,
        _ => return None,
    };
    *request.method_mut() = match options >> 2 & 3 {
        0 => Method::OPTIONS,
        1 => Method::CONNECT,
        _ => Method::GET,
    };
    *request.uri_mut() = target;
    for line in lines {
        let value = HeaderValue::from_bytes(line).ok()?;
        request.headers_mut().append(header::HOST, value);
    }
    Some(request)
}

fn hosts() -> &'static Hosts {
    static HOSTS: OnceLock<Hosts> = OnceLock::new();
    HOSTS.get_or_init(|| {
        let routes = KNOWN.map(|(name, hosts)| Route {
            function: FunctionKey::new("shop", name),
            port: 20_000,
            hosts: hosts.iter().map(ToString::to_string).collect(),
            weights: vec![Weight {
                revision: name.to_owned(),
                weight: 1,
            }],
            cold_start_ms: 1_000,
            request_ms: 1_000,
            first_byte_ms: None,
            idle_ms: None,
            count_upgrades: true,
            keep_alive_probe: None,
        });
        Hosts::new(&routes).expect("the names of metrics are valid")
    })
}

/// The host and port that a request names, if it names one.
fn meant(request: &Request<()>) -> Option<String> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.to_string());
    }
    let value = request.headers().get(header::HOST)?;
    Some(value.to_str().ok()?.to_owned())
}

fn expected(host: &str) -> Option<FunctionKey> {
    let host = host.to_ascii_lowercase();
    let digits = host.trim_end_matches(|c: char| c.is_ascii_digit());
    let host = digits.strip_suffix(':').unwrap_or(&host);
    let known = KNOWN.iter().find(|(_, hosts)| hosts.contains(&host))?;
    Some(FunctionKey::new("shop", known.0))
}

fn only_host(request: &Request<()>) -> String {
    let mut values = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (values.next(), values.next()) else {
        panic!("not exactly one Host: {:?}", request.headers());
    };
    String::from_utf8(host.as_bytes().to_vec()).expect("a host is ASCII")
}

/// RFC 9110 section 7.2: a host of RFC 3986 section 3.2.2, which may be empty, and perhaps a port.
pub(crate) fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((literal, port)) if literal.bytes().all(is_name_or_colon) => ("", port),
            _ => return false,
        },
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    let port = port.is_empty() || port.starts_with(':');
    port && digits.bytes().all(|b| b.is_ascii_digit()) && name.bytes().all(is_name)
}

fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b)
}

fn is_name_or_colon(b: u8) -> bool {
    is_name(b) || b == b':'
}

/// A request that was written for HTTP/2 and has to be written for HTTP/1.1 after all is the same.
fn there_and_back(mut request: Request<()>, host: &str) {
    let target = request.uri().to_string();
    fuzzing::to_http2(&mut request);
    let uri = request.uri();
    assert!(uri.scheme().is_some(), "{uri}");
    assert!(request.headers().get(header::HOST).is_none());
    let authority = uri.authority().expect("an authority").to_string();
    assert!(authority == host || authority == "unknown", "{authority:?}");
    fuzzing::to_http1(&mut request);
    assert_eq!(only_host(&request), authority);
    assert_eq!(request.uri().to_string(), target);
}
