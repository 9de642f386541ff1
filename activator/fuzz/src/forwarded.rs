//! What pods are told of where a request comes from: a client that is not trusted cannot tell them anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use activator::{Networks, fuzzing};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

const FORWARDED: [&str; 4] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Takes the first byte for what is tried, four for an address, and the rest for networks or for a request's fields.
pub fn run(input: &[u8]) {
    let [options, a, b, c, d, rest @ ..] = input else {
        return;
    };
    let v4 = Ipv4Addr::new(*a, *b, *c, *d);
    let v6 = Ipv6Addr::from(u128::from(u32::from(v4)) | 0xfd00 << 112);
    if options & 4 != 0 {
        let addresses = [v4.into(), v6.into(), v4.to_ipv6_mapped().into()];
        return networks(rest, &addresses);
    }
    let client = if options & 2 == 0 {
        v4.into()
    } else {
        v6.into()
    };
    headers(rest, client, options & 1 != 0);
}

fn headers(lines: &[u8], client: IpAddr, trusted: bool) {
    let mut request = Request::new(());
    for line in lines.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    let (mut head, ()) = request.into_parts();
    let before = head.headers.clone();
    if fuzzing::to_pod(&mut head, client, trusted).is_err() {
        return;
    }
    let told = &head.headers;
    for name in FORWARDED {
        assert!(told.contains_key(name), "{name} is missing");
    }
    let host = told[header::HOST].as_bytes();
    let own = own(client, host);
    if trusted {
        ends(&before, told, "x-forwarded-for", &client.to_string());
        ends(&before, told, "forwarded", &own);
    } else {
        only(told, "x-forwarded-for", client.to_string().as_bytes());
        only(told, "forwarded", own.as_bytes());
        only(told, "x-forwarded-proto", b"http");
        only(told, "x-forwarded-host", host);
    }
}

/// What the activator itself says of a request.
fn own(client: IpAddr, host: &[u8]) -> String {
    let node = match client {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(b);
    match host.iter().all(plain) {
        true => format!(
            "{node};host=\"{}\";proto=http",
            String::from_utf8_lossy(host)
        ),
        false => format!("{node};proto=http"),
    }
}

fn only(told: &HeaderMap, name: &str, value: &[u8]) {
    let values: Vec<_> = told.get_all(name).iter().collect();
    assert!(
        values.len() == 1 && values[0].as_bytes() == value,
        "{name}: {values:?}"
    );
}

/// What a trusted client has said is kept, unless it said that this is for the next hop only, and its own address follows.
fn ends(before: &HeaderMap, told: &HeaderMap, name: &str, own: &str) {
    let said = before.get_all(name).iter().map(HeaderValue::as_bytes);
    let mut list: Vec<&[u8]> = said.collect();
    list.push(own.as_bytes());
    let values: Vec<_> = told.get_all(name).iter().collect();
    assert_eq!(values.len(), 1, "{name}: {values:?}");
    let value = values[0].as_bytes();
    let whole = value == list.join(&b", "[..]);
    let dropped = before.contains_key(header::CONNECTION) && value == own.as_bytes();
    assert!(whole || dropped, "{name}: {values:?}");
}

fn networks(text: &[u8], addresses: &[IpAddr]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let parts: Vec<&str> = text
        .split(',')
        .filter(|part| !part.trim().is_empty())
        .collect();
    let own: Option<Vec<_>> = parts.iter().map(|part| network(part)).collect();
    let parsed: Result<Networks, _> = text.parse();
    assert_eq!(parsed.is_ok(), own.is_some(), "{text:?}: {parsed:?}");
    let (Ok(parsed), Some(own)) = (parsed, own) else {
        return;
    };
    let bases = own.iter().map(|(base, _)| *base);
    for address in addresses.iter().copied().chain(bases) {
        let contained = own.iter().any(|own| contains(*own, address));
        assert_eq!(parsed.contain(address), contained, "{address} in {text:?}");
    }
}

/// A network, its address as it is written.
fn network(part: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = part.trim().split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits: u8 = bits.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some((address, bits))
}

/// Bit by bit. An address of IPv4 can be written as one of IPv6, and is the same; a network that is wider than all of these is of IPv6 alone.
fn contains((base, bits): (IpAddr, u8), address: IpAddr) -> bool {
    let (base, bits) = match base {
        IpAddr::V6(v6) if bits >= 96 => match v6.to_ipv4_mapped() {
            Some(v4) => (v4.into(), bits - 96),
            None => (base, bits),
        },
        _ => (base, bits),
    };
    let same = |a: &[u8], b: &[u8]| {
        let bit = |bytes: &[u8], i: u8| bytes[usize::from(i / 8)] >> (7 - i % 8) & 1;
        (0..bits).all(|i| bit(a, i) == bit(b, i))
    };
    match (base, address.to_canonical()) {
        (IpAddr::V4(base), IpAddr::V4(address)) => same(&base.octets(), &address.octets()),
        (IpAddr::V6(base), IpAddr::V6(address)) => same(&base.octets(), &address.octets()),
        _ => false,
    }
}
