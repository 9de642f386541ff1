//! Which fields a request's head has that mean something to a proxy.
//!
//! Found in one pass: looking for each in turn, of which most heads have hardly any, was a tenth of what a warm request costs.

use http::HeaderMap;

/// A set of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields(u32);

impl Fields {
    pub(crate) const CONNECTION: Self = Self(1);
    pub(crate) const TE: Self = Self(1 << 1);
    pub(crate) const UPGRADE: Self = Self(1 << 2);
    /// What is for the next hop only: these and some that are only removed.
    pub(crate) const OF_HOP: Self = Self(0b1111);
    pub(crate) const EXPECT: Self = Self(1 << 4);
    pub(crate) const COOKIE: Self = Self(1 << 5);
    pub(crate) const CONTENT_TYPE: Self = Self(1 << 6);
    /// What tells where the request comes from.
    pub(crate) const OF_ORIGIN: Self = Self(1 << 7);
    pub(crate) const REQUEST_ID: Self = Self(1 << 8);
    pub(crate) const TRACE_PARENT: Self = Self(1 << 9);
    const OTHER_OF_HOP: Self = Self(1 << 3);

    /// Those of a head.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let bit = |name: &str| match name {
            "connection" => Self::CONNECTION.0,
            "te" => Self::TE.0,
            "upgrade" => Self::UPGRADE.0,
            "keep-alive" | "proxy-connection" | "transfer-encoding" => Self::OTHER_OF_HOP.0,
            "expect" => Self::EXPECT.0,
            "cookie" => Self::COOKIE.0,
            "content-type" => Self::CONTENT_TYPE.0,
            "forwarded" | "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" => {
                Self::OF_ORIGIN.0
            }
            "x-request-id" => Self::REQUEST_ID.0,
            "traceparent" => Self::TRACE_PARENT.0,
            _ => 0,
        };
        Self(headers.keys().fold(0, |all, name| all | bit(name.as_str())))
    }

    /// Whether one of `any` is among them.
    pub(crate) fn have(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, header};

    use super::*;
    use crate::{headers, identity, origin};

    #[test]
    fn every_field_that_is_looked_for_is_found() {
        for (name, set) in [
            (header::CONNECTION, Fields::CONNECTION),
            (header::CONNECTION, Fields::OF_HOP),
            (header::TE, Fields::TE),
            (header::TE, Fields::OF_HOP),
            (header::TRANSFER_ENCODING, Fields::OF_HOP),
            (header::UPGRADE, Fields::UPGRADE),
            (header::UPGRADE, Fields::OF_HOP),
            (headers::KEEP_ALIVE, Fields::OF_HOP),
            (headers::PROXY_CONNECTION, Fields::OF_HOP),
            (header::EXPECT, Fields::EXPECT),
            (header::COOKIE, Fields::COOKIE),
            (header::CONTENT_TYPE, Fields::CONTENT_TYPE),
            (header::FORWARDED, Fields::OF_ORIGIN),
            (origin::FOR, Fields::OF_ORIGIN),
            (origin::HOST, Fields::OF_ORIGIN),
            (origin::PROTO, Fields::OF_ORIGIN),
            (identity::REQUEST_ID, Fields::REQUEST_ID),
            (identity::TRACE_PARENT, Fields::TRACE_PARENT),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("a"));
            assert_eq!(Fields::of(&headers), Fields(0));
            headers.insert(HeaderName::clone(&name), HeaderValue::from_static("a"));
            assert!(Fields::of(&headers).have(set), "{name}");
        }
    }
}
