//! A certificate and its key, read from a Secret and checked. Pure.

use crds::{
    conditions::Reason,
    control::{MAX_CERTIFICATE, PrivateKey},
};
use k8s_openapi::{ByteString, api::core::v1::Secret, jiff::Timestamp};
use rustls::{
    Error, InconsistentKeys,
    client::verify_server_name,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

/// The type of Secrets that hold a certificate.
pub const SECRET_TYPE: &str = "kubernetes.io/tls";

/// A certificate and a key that belong together. Its `Debug` shows no key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate and those that it was issued by, in PEM.
    pub chain_pem: String,
    /// Its key in PEM.
    pub key_pem: PrivateKey,
    /// It is not valid before.
    pub not_before: Timestamp,
    /// It is not valid after.
    pub not_after: Timestamp,
    leaf: CertificateDer<'static>,
}

/// Why a Secret cannot be used. No variant has anything of its data.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Flaw {
    /// It is a Secret for something else.
    #[error("it is of type {0}, and must be of type {SECRET_TYPE}")]
    Type(String),
    /// It could not be sent to the activators.
    #[error("tls.crt and tls.key have more than {MAX_CERTIFICATE} bytes together")]
    TooLong,
    /// It has no certificate.
    #[error("its tls.crt is no certificate in PEM")]
    Certificate,
    /// It has no key.
    #[error("its tls.key is no private key in PEM of a kind that TLS can use")]
    Key,
    /// The two do not belong together.
    #[error("its tls.key is not the key of the certificate in tls.crt")]
    Mismatch,
}

impl Flaw {
    /// The condition's reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Mismatch => Reason::CertificateKeyMismatch,
            _ => Reason::SecretInvalid,
        }
    }
}

impl Pair {
    /// Reads a Secret.
    ///
    /// # Errors
    /// [`Flaw`], in words for the Secret's owner.
    pub fn read(secret: &Secret) -> Result<Self, Flaw> {
        let kind = secret.type_.as_deref().unwrap_or("Opaque");
        if kind != SECRET_TYPE {
            return Err(Flaw::Type(kind.into()));
        }
        let bytes = |name: &str| {
            let data = secret.data.as_ref().and_then(|data| data.get(name));
            data.map_or(&[][..], |ByteString(bytes)| bytes)
        };
        let (chain, key) = (bytes("tls.crt"), bytes("tls.key"));
        if chain.len() + key.len() > MAX_CERTIFICATE {
            return Err(Flaw::TooLong);
        }
        let chain_pem = String::from_utf8(chain.into()).map_err(|_| Flaw::Certificate)?;
        let key_pem = String::from_utf8(key.into()).map_err(|_| Flaw::Key)?;
        let certificates = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|_| Flaw::Certificate)?;
        let leaf = certificates.first().ok_or(Flaw::Certificate)?.clone();
        let (not_before, not_after) = dates(&leaf).ok_or(Flaw::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Flaw::Key)?;
        let provider = default_provider().key_provider;
        let key = provider.load_private_key(key).map_err(|_| Flaw::Key)?;
        match CertifiedKey::new(certificates, key).keys_match() {
            Ok(()) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(Flaw::Mismatch);
            }
            Err(_) => return Err(Flaw::Certificate),
        }
        Ok(Self {
            chain_pem,
            key_pem: PrivateKey(key_pem),
            not_before,
            not_after,
            leaf,
        })
    }

    /// Whether clients take it for a certificate of `host`.
    pub fn covers(&self, host: &str) -> bool {
        let parsed = ParsedCertificate::try_from(&self.leaf);
        let name = ServerName::try_from(host);
        let (Ok(parsed), Ok(name)) = (parsed, name) else {
            return false;
        };
        verify_server_name(&parsed, &name).is_ok()
    }
}

fn dates(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let validity = parsed.validity();
    let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some((time(validity.not_before)?, time(validity.not_after)?))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A Secret with these two texts.
    pub(crate) fn secret(kind: &str, certificate: &str, key: &str) -> Secret {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let data = [
            ("tls.crt".to_owned(), bytes(certificate)),
            ("tls.key".to_owned(), bytes(key)),
        ];
        let mut secret = Secret {
            type_: Some(kind.into()),
            data: Some(BTreeMap::from(data)),
            ..Secret::default()
        };
        secret.metadata.name = Some("cert".into());
        secret.metadata.namespace = Some("shop".into());
        secret
    }

    /// A certificate for these names, valid in this year, and its key.
    pub(crate) fn issue(names: &[&str], year: i32) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(year, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + 1, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_good_pair_is_read_with_its_names_and_dates() {
        let (certificate, key) = issue(&["a.example", "*.b.example"], 2026);
        let pair = Pair::read(&secret(SECRET_TYPE, &certificate, &key)).unwrap();
        assert!(pair.covers("a.example") && pair.covers("x.b.example"));
        assert!(!pair.covers("b.example") && !pair.covers("x.y.b.example"));
        assert_eq!(pair.not_before.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(pair.not_after.to_string(), "2027-01-01T00:00:00Z");
        let shown = format!("{pair:?}");
        let secret_line = key.lines().nth(1).unwrap();
        assert!(!shown.contains(secret_line), "{shown}");
    }

    #[test]
    fn what_is_wrong_is_told_without_what_is_in_it() {
        let (certificate, key) = issue(&["a.example"], 2026);
        let (_, other) = issue(&["a.example"], 2026);
        let long = format!("{certificate}{}", "\n".repeat(MAX_CERTIFICATE));
        let rows = [
            ("Opaque", &*certificate, &*key, Flaw::Type("Opaque".into())),
            (SECRET_TYPE, "", &key, Flaw::Certificate),
            (SECRET_TYPE, "nonsense", &key, Flaw::Certificate),
            (SECRET_TYPE, &key, &key, Flaw::Certificate),
            (SECRET_TYPE, &certificate, "", Flaw::Key),
            (SECRET_TYPE, &certificate, "nonsense", Flaw::Key),
            (SECRET_TYPE, &certificate, &certificate, Flaw::Key),
            (SECRET_TYPE, &certificate, &other, Flaw::Mismatch),
            (SECRET_TYPE, &long, &key, Flaw::TooLong),
        ];
        for (index, (kind, certificate, key, flaw)) in rows.into_iter().enumerate() {
            let read = Pair::read(&secret(kind, certificate, key));
            assert_eq!(read.err(), Some(flaw), "row {index}");
        }
    }
}
