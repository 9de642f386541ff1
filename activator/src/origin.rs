//! Where a request comes from, as the pod is told: `X-Forwarded-For`, `-Proto` and `-Host`, and `Forwarded` (RFC 7239).
//!
//! A client that is trusted is a proxy itself: what it says of those before it is kept and its own address is appended. What any other
//! client says is dropped, because anybody can say anything.

use std::{net::IpAddr, str::FromStr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;

use crate::fields::Fields;

pub(crate) const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What the host in `Forwarded` begins with.
const HOST_IS: &[u8] = b";host=\"";

/// What all requests of a connection have in common.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) client: IpAddr,
    /// The client's address.
    address: HeaderValue,
    /// The same as RFC 7239 writes it.
    node: String,
    trusted: bool,
    /// What the client speaks.
    proto: &'static str,
    /// The last `Forwarded` that was made: a client mostly asks for one host.
    last: Mutex<Option<HeaderValue>>,
}

impl Origin {
    pub(crate) fn new(client: IpAddr, trusted: bool) -> Self {
        let client = client.to_canonical();
        let address = client.to_string();
        let node = match client {
            IpAddr::V4(_) => ["for=", &address].concat(),
            IpAddr::V6(_) => ["for=\"[", &address, "]\""].concat(),
        };
        Self {
            client,
            // An address is a valid value.
            address: HeaderValue::try_from(address)
                .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            node,
            trusted,
            proto: "http",
            last: Mutex::default(),
        }
    }

    /// The client speaks TLS.
    pub(crate) fn secure(&mut self) {
        self.proto = "https";
        *self.last.get_mut() = None;
    }

    /// Adds the headers to a request with these `fields`, whose `Host` is right.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap, fields: Fields) {
        let host = headers.get(header::HOST).cloned();
        let forwarded = self.forwarded(host.as_ref());
        if !self.trusted || !fields.have(Fields::OF_ORIGIN) {
            // What they were goes.
            headers.insert(FOR, self.address.clone());
            headers.insert(header::FORWARDED, forwarded);
            headers.insert(PROTO, HeaderValue::from_static(self.proto));
            match host {
                Some(host) => headers.insert(HOST, host),
                None => headers.remove(HOST),
            };
            return;
        }
        append(headers, FOR, self.address.clone());
        append(headers, header::FORWARDED, forwarded);
        // A trusted proxy knows better what the client spoke and whom it asked for.
        if !headers.contains_key(PROTO) {
            headers.insert(PROTO, HeaderValue::from_static(self.proto));
        }
        if let Some(host) = host.filter(|_| !headers.contains_key(HOST)) {
            headers.insert(HOST, host);
        }
    }

    /// This client's element of `Forwarded`, for a request to this host.
    fn forwarded(&self, host: Option<&HeaderValue>) -> HeaderValue {
        let mut last = self.last.lock();
        if let (Some(last), Some(host)) = (&*last, host)
            && self.names(last, host)
        {
            return last.clone();
        }
        last.insert(self.write(host)).clone()
    }

    /// Whether `forwarded`, which this has written, names `host`.
    fn names(&self, forwarded: &HeaderValue, host: &HeaderValue) -> bool {
        let rest = forwarded.as_bytes().get(self.node.len()..);
        let rest = rest.and_then(|rest| rest.strip_prefix(HOST_IS));
        let rest = rest.and_then(|rest| rest.strip_prefix(host.as_bytes()));
        rest.is_some_and(|rest| rest.starts_with(b"\""))
    }

    fn write(&self, host: Option<&HeaderValue>) -> HeaderValue {
        let mut text = Vec::with_capacity(96);
        text.extend_from_slice(self.node.as_bytes());
        // A host of other characters could end the quotes; it has no business in this header.
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(b);
        if let Some(host) = host.map(HeaderValue::as_bytes)
            && host.iter().all(plain)
        {
            text.extend_from_slice(HOST_IS);
            text.extend_from_slice(host);
            text.push(b'"');
        }
        text.extend_from_slice(b";proto=");
        text.extend_from_slice(self.proto.as_bytes());
        // All parts are visible ASCII.
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| self.address.clone())
    }
}

/// Makes one list of all values of a header and this one.
fn append(headers: &mut HeaderMap, name: HeaderName, last: HeaderValue) {
    if !headers.contains_key(&name) {
        headers.insert(name, last);
        return;
    }
    let mut list = Vec::new();
    for value in headers.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(last.as_bytes());
    // Parts of valid values, joined by valid bytes, are valid.
    headers.insert(name, HeaderValue::from_bytes(&list).unwrap_or(last));
}

/// A network whose addresses are trusted, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let number = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, true),
            IpAddr::V6(v6) => (u128::from(v6), false),
        };
        let ((own, own_kind), (other, other_kind)) =
            (number(self.address), number(address.to_canonical()));
        let rest = 128 - u32::from(self.bits);
        own_kind == other_kind && own.checked_shr(rest) == other.checked_shr(rest)
    }
}

/// Networks, as a list with commas; an empty one has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Whether an address lies in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromStr for Networks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').filter(|part| !part.trim().is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no network: write it as 10.0.0.0/8 or fd00::/8");
        let (address, bits) = text.trim().split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if bits > most {
            return Err(wrong());
        }
        // An address of IPv4 is compared as one, however it is written.
        if let IpAddr::V6(v6) = address
            && let (Some(v4), 96..) = (v6.to_ipv4_mapped(), bits)
        {
            let (address, bits) = (v4.into(), bits - 96);
            return Ok(Self { address, bits });
        }
        Ok(Self { address, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(trusted: bool, before: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("hello.shop"));
        for (name, value) in before {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let fields = Fields::of(&headers);
        Origin::new([10, 0, 0, 9].into(), trusted).add_to(&mut headers, fields);
        let names = [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "forwarded",
        ];
        names
            .map(|name| headers[name].to_str().expect("ASCII").to_owned())
            .into()
    }

    const CLAIMS: [(&str, &str); 5] = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-for", "5.6.7.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("forwarded", "for=1.2.3.4"),
    ];

    #[test]
    fn a_trusted_proxy_is_believed_and_others_are_not() {
        let own = "for=10.0.0.9;host=\"hello.shop\";proto=http";
        let fresh = ["10.0.0.9", "http", "hello.shop", own];
        assert_eq!(told(true, &[]), fresh);
        assert_eq!(told(false, &CLAIMS), fresh);
        assert_eq!(
            told(true, &CLAIMS),
            [
                "1.2.3.4, 5.6.7.8, 10.0.0.9",
                "https",
                "shop.example",
                &format!("for=1.2.3.4, {own}"),
            ]
        );
    }

    #[test]
    fn a_host_cannot_end_its_quotes() {
        let origin = Origin::new("fd00::1".parse().expect("an address"), true);
        let host = HeaderValue::from_static("a\";for=9.9.9.9");
        assert_eq!(
            origin.forwarded(Some(&host)),
            "for=\"[fd00::1]\";proto=http"
        );
    }

    #[test]
    fn each_request_tells_its_own_host() {
        let mut origin = Origin::new([10, 0, 0, 9].into(), false);
        for host in ["a.b", "a.b", "a.b:80", "a", "", "a\"", "a.b"] {
            let value = HeaderValue::from_static(host);
            let told = match host {
                "a\"" => "for=10.0.0.9;proto=http".to_owned(),
                host => format!("for=10.0.0.9;host=\"{host}\";proto=http"),
            };
            assert_eq!(origin.forwarded(Some(&value)), told);
        }
        origin.secure();
        let host = HeaderValue::from_static("a.b");
        let told = "for=10.0.0.9;host=\"a.b\";proto=https";
        assert_eq!(origin.forwarded(Some(&host)), told);
        assert_eq!(origin.forwarded(None), "for=10.0.0.9;proto=https");
    }

    #[test]
    fn networks_contain_their_addresses() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("10.1.2.3/32", "10.1.2.3", true),
            ("10.1.2.3/32", "10.1.2.2", false),
            ("::/0", "fd00::1", true),
            ("fd00::/8", "fd12::1", true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "11.0.0.1", false),
        ] {
            let parsed: Network = network.parse().expect("a network");
            let address = address.parse().expect("an address");
            assert_eq!(parsed.contains(address), inside, "{network} {address}");
        }
        let some: Networks = "10.0.0.0/8, fd00::/8".parse().expect("networks");
        assert!(some.contain([10, 0, 0, 1].into()) && !some.contain([11, 0, 0, 1].into()));
        let none: Networks = "".parse().expect("an empty list");
        assert!(!none.contain([10, 0, 0, 1].into()));
        assert!("10.0.0.0/8,x".parse::<Networks>().is_err());
        for wrong in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129", ""] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
