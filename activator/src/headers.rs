//! What a proxy must change in the heads of messages.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, request,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::{
    answer::{Reason, Refusal},
    fields::Fields,
    identity,
    origin::{self, Origin},
};

pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
pub(crate) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What a message may not have removed by naming it in `Connection`: without the first two it would be another message, and the others are how
/// the pod and its people know whose it is.
const KEPT: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::FORWARDED,
    origin::FOR,
    origin::HOST,
    origin::PROTO,
    identity::REQUEST_ID,
    identity::TRACE_PARENT,
];

/// Turns a client's request head, which has these `fields`, into the one that a pod gets. `origin` is `None` if another activator has sent the request on, and has
/// told where it comes from.
///
/// # Errors
/// If the request is of a kind that cannot be forwarded.
pub(crate) fn to_pod(
    head: &mut request::Parts,
    fields: Fields,
    origin: Option<&Origin>,
    default_host: impl FnOnce() -> String,
) -> Result<(), Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::new(Reason::BadRequest, "CONNECT is not supported"));
    }
    set_host(head, default_host)?;
    let trailers = fields.have(Fields::TE) && lists(&head.headers, header::TE, b"trailers");
    if fields.have(Fields::OF_HOP) {
        strip_hop_by_hop(&mut head.headers);
    }
    if fields.have(Fields::EXPECT) {
        // The activator itself asks the client to go on, by reading the body when the pod's connection wants it.
        head.headers.remove(header::EXPECT);
    }
    if trailers {
        let value = HeaderValue::from_static("trailers");
        head.headers.insert(header::TE, value);
    }
    if fields.have(Fields::COOKIE) {
        join_cookies(&mut head.headers);
    }
    if let Some(origin) = origin {
        origin.add_to(&mut head.headers, fields);
    }
    identity::trace(&mut head.headers, fields);
    head.version = Version::HTTP_11;
    Ok(())
}

/// HTTP/2 clients may send a cookie header for each cookie; anything but HTTP/2 wants one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    // Parts of valid values, joined by valid bytes, are valid.
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Writes a request of [`to_pod`] as HTTP/1.1 wants it, also one that [`to_http2`] had already changed.
pub(crate) fn to_http1<B>(request: &mut http::Request<B>) {
    *request.version_mut() = Version::HTTP_11;
    if let Some(authority) = request.uri().authority() {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            request.headers_mut().insert(header::HOST, host);
        }
        *request.uri_mut() = relative(request.uri());
    }
}

/// Writes a request of [`to_pod`] as HTTP/2 wants it: with the host as its authority.
pub(crate) fn to_http2<B>(request: &mut http::Request<B>) {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(header::HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    // A host that is no authority is told as one that says nothing: HTTP/2 has no other place for it.
    parts.authority = authority.or(Some(Authority::from_static("unknown")));
    parts
        .path_and_query
        .get_or_insert(PathAndQuery::from_static("/"));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// Copies the head of a request of [`to_pod`] out of the buffer that it was read into: HTTP/2's library reads into large ones, and a request of some
/// hundred bytes would keep one for as long as it waits. Heads of HTTP/1.1 are copied when they are read. Returns how many bytes target and values take.
pub(crate) fn detach<B>(request: &mut http::Request<B>) -> usize {
    /// Least that the allocator gives for a value.
    const LEAST: usize = 16;
    let mut bytes = 0;
    for value in request.headers_mut().values_mut() {
        bytes += value.len().max(LEAST);
        if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(value.is_sensitive());
            *value = copy;
        }
    }
    // One that was written for HTTP/2 already was copied then.
    let relative = Some(request.uri()).filter(|uri| uri.authority().is_none());
    let target = relative.and_then(|uri| uri.path_and_query());
    if let Some(Ok(copy)) = target.map(|target| PathAndQuery::try_from(target.as_str())) {
        *request.uri_mut() = Uri::from(copy);
    }
    bytes
        + request
            .uri()
            .path_and_query()
            .map_or(0, |target| target.as_str().len())
}

/// Bytes that the map of a head's fields occupies beside their values: a place for each name that it has room for, one for each further field of the same
/// name, in a vector that doubles, and the names, which it has copied.
pub(crate) fn footprint(headers: &HeaderMap) -> usize {
    const PLACE: usize = 104;
    const FURTHER: usize = 72;
    let further = match headers.len() - headers.keys_len() {
        0 => 0,
        further => further.next_power_of_two(),
    };
    let names: usize = headers.keys().map(|name| name.as_str().len()).sum();
    headers.capacity() * PLACE + further * FURTHER + names
}

/// Turns the head of a pod's answer that came over HTTP/2 into the one that the client gets.
pub(crate) fn to_client(head: &mut http::response::Parts) {
    strip_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
}

/// The host that a request is for, without port: of its absolute target if it has one, else its Host header.
pub(crate) fn host<B>(request: &http::Request<B>) -> Option<&str> {
    if let Some(host) = request.uri().host() {
        return Some(host);
    }
    let host = request.headers().get(header::HOST)?.to_str().ok()?;
    let port = |(_, port): &(&str, &str)| port.bytes().all(|b| b.is_ascii_digit());
    Some(
        host.rsplit_once(':')
            .filter(port)
            .map_or(host, |(host, _)| host),
    )
}

/// Makes the target relative and the Host header right, as RFC 9112 section 3.2.2 demands of a proxy.
fn set_host(head: &mut request::Parts, default: impl FnOnce() -> String) -> Result<(), Refusal> {
    let bad = || {
        Refusal::new(
            Reason::BadRequest,
            "the request has no valid target, or not exactly one valid Host",
        )
    };
    // The whole server can be asked for its options only.
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(bad());
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let has_host = match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => true,
        (None, _) if head.version != Version::HTTP_11 => false,
        // HTTP/1.1 has one beside an absolute target, too.
        _ => return Err(bad()),
    };
    if let Some(authority) = head.uri.authority() {
        // An authority alone is a target of CONNECT; one with a user is not to be trusted (RFC 9110 section 4.2.4).
        if head.uri.scheme().is_none() || !is_host(authority.as_str().as_bytes()) {
            return Err(bad());
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
        head.headers.insert(header::HOST, host);
        head.uri = relative(&head.uri);
        return Ok(());
    }
    if has_host {
        return Ok(());
    }
    // HTTP/1.0 needs no Host; what pods are spoken to in does.
    if head.version != Version::HTTP_10 {
        return Err(bad());
    }
    let host = HeaderValue::try_from(default()).map_err(|_| bad())?;
    head.headers.insert(header::HOST, host);
    Ok(())
}

/// A target without its authority. Of `http://host#x` there is an empty path, which would be written as nothing.
fn relative(target: &Uri) -> Uri {
    let path = target.path_and_query().filter(|path| path.as_str() != "/");
    let path = path.cloned();
    Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
}

/// Whether a Host is a name or an address (RFC 3986 section 3.2.2), which may be empty, and perhaps a port. What is no host to us could be another
/// one to the pod.
fn is_host(host: &[u8]) -> bool {
    let of_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(b);
    let (last, after) = match host {
        [b'[', ..] => (b']', 1),
        _ => (b':', 0),
    };
    let end = host.iter().position(|b| *b == last);
    let (name, port) = host.split_at(end.map_or(host.len(), |end| end + after));
    let name = match name {
        [b'[', address @ .., b']'] => address.iter().all(|b| of_name(b) || *b == b':'),
        name => name.iter().all(of_name),
    };
    let digits = port.strip_prefix(b":").unwrap_or(port);
    let port = port.is_empty() || port[0] == b':';
    name && port && digits.iter().all(u8::is_ascii_digit)
}

/// Removes what is meant for the next hop only (RFC 9110 section 7.6.1). `Trailer` stays: only announced trailers are sent.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        strip_named_by_connection(headers);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

fn strip_named_by_connection(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in members(value.as_bytes()) {
            if !token.eq_ignore_ascii_case(b"close") && !token.eq_ignore_ascii_case(b"keep-alive") {
                named.extend(HeaderName::from_bytes(token).ok());
            }
        }
    }
    headers.remove(header::CONNECTION);
    for name in named.iter().filter(|name| !KEPT.contains(name)) {
        headers.remove(name);
    }
}

/// The members of a field that is a list, as `Connection` is (RFC 9110 section 5.6.1).
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

/// Whether `token` is a member of the list that the fields of a name are.
pub(crate) fn lists(headers: &HeaderMap, name: HeaderName, token: &[u8]) -> bool {
    let values = headers.get_all(name).into_iter();
    let mut all = values.flat_map(|value| members(value.as_bytes()));
    all.any(|member| member.eq_ignore_ascii_case(token))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step is a failed test
mod tests {
    use http::Request;

    use super::*;

    fn forwarded(request: http::request::Builder) -> Result<request::Parts, Refusal> {
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let origin = Origin::new([10, 0, 0, 9].into(), true);
        let fields = Fields::of(&head.headers);
        to_pod(&mut head, fields, Some(&origin), || "hello.shop".to_owned()).map(|()| head)
    }

    #[test]
    fn many_fields_of_one_name_take_more_than_their_text() {
        let mut headers = HeaderMap::new();
        assert_eq!(footprint(&headers), 0);
        headers.insert("a", HeaderValue::from_static("b"));
        let one = footprint(&headers);
        assert!((104..1024).contains(&one), "{one}");
        for _ in 0..1000 {
            headers.append("a", HeaderValue::from_static("b"));
        }
        assert_eq!(footprint(&headers), one + 1024 * 72);
    }

    #[test]
    fn hop_by_hop_headers_go_and_the_rest_stays() {
        let head = forwarded(
            Request::get("/x?y=1")
                .header("host", "hello.shop:80")
                .header("connection", "keep-alive, X-Secret, host, x-forwarded-for")
                .header("connection", "x-request-id")
                .header("x-request-id", "mine")
                .header("x-secret", "1")
                .header("keep-alive", "timeout=5")
                .header("upgrade", "websocket")
                .header("te", "gzip, trailers")
                .header("expect", "100-continue")
                .header("trailer", "x-sum")
                .header("x-forwarded-for", "1.2.3.4")
                .header("x-forwarded-for", "5.6.7.8")
                .header("x-forwarded-proto", "https"),
        )
        .unwrap();
        let mut left: Vec<_> = head
            .headers
            .iter()
            .filter(|(name, _)| *name != "traceparent")
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "forwarded: for=10.0.0.9;host=\"hello.shop:80\";proto=http",
                "host: hello.shop:80",
                "te: trailers",
                "trailer: x-sum",
                "x-forwarded-for: 1.2.3.4, 5.6.7.8, 10.0.0.9",
                "x-forwarded-host: hello.shop:80",
                "x-forwarded-proto: https",
                "x-request-id: mine",
            ]
        );
        assert_eq!(head.uri, "/x?y=1");
    }

    #[test]
    fn an_absolute_target_becomes_the_host() {
        let head = forwarded(Request::get("http://real:81/x").header("host", "other")).unwrap();
        assert_eq!(head.headers["host"], "real:81");
        assert_eq!(head.uri, "/x");
        for (target, path) in [("http://real#x", "/"), ("http://real?y#x", "/?y")] {
            let head = forwarded(Request::get(target).header("host", "real")).unwrap();
            assert_eq!(head.uri.to_string(), path, "{target}");
        }
        let head = forwarded(Request::get("/").version(Version::HTTP_10)).unwrap();
        assert_eq!(head.headers["host"], "hello.shop");
        assert_eq!(head.version, Version::HTTP_11);
        assert!(forwarded(Request::connect("real:81")).is_err());
    }

    #[test]
    fn a_detached_head_is_the_same() {
        let request = Request::get("/x?y=%20z").header("a", "1").header("a", "2");
        let mut request = request.body(()).unwrap();
        let value = request.headers_mut().get_mut("a").unwrap();
        value.set_sensitive(true);
        let before = (request.uri().clone(), request.headers().clone());
        detach(&mut request);
        assert_eq!((request.uri(), request.headers()), (&before.0, &before.1));
        assert!(request.headers()["a"].is_sensitive());
        let mut written = Request::get("/x").header("host", "real").body(()).unwrap();
        to_http2(&mut written);
        detach(&mut written);
        assert_eq!(written.uri(), "http://real/x");
        let mut all = Request::options("*").body(()).unwrap();
        detach(&mut all);
        assert_eq!(all.uri(), "*");
    }

    #[test]
    fn a_target_that_pods_may_read_otherwise_is_refused() {
        for target in ["http://me@real/x", "http://real:x@other/", "real:81", "*"] {
            let request = Request::get(target).header("host", "real");
            assert!(forwarded(request).is_err(), "{target}");
        }
        let head = forwarded(Request::options("*").header("host", "real")).unwrap();
        assert_eq!(head.uri, "*");
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for good in [
            "",
            "a-b.c",
            "a:80",
            "a:",
            "[fd00::1]",
            "[fd00::1]:80",
            "1.2.3.4:80",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "a:b", "a:80:81", "a[", "[::1", "[::1]a", "[::1]80", "::1", "a@b", "a/b", "[a]:80]",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn hosts_lose_their_port() {
        for (value, expected) in [
            ("Hello.shop", "Hello.shop"),
            ("hello.shop:8080", "hello.shop"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            let request = Request::get("/").header("host", value).body(()).unwrap();
            assert_eq!(host(&request), Some(expected), "{value}");
        }
        assert_eq!(host(&Request::get("/").body(()).unwrap()), None);
    }
}
