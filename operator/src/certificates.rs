//! The certificates that Functions name: which Secrets they are in, what was read from them, and what comes of it.
//!
//! Secrets that no Function names are not kept, not even for a moment longer than it takes to see that.

pub mod pair;
pub mod watch;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use crds::{
    conditions::{Reason, Verdict},
    names::FunctionKey,
};
use k8s_openapi::{api::core::v1::Secret, jiff::Timestamp};
use parking_lot::Mutex;

use crate::{
    certificates::pair::{Flaw, Pair},
    queue::Queue,
};

/// Namespace and name of a Secret.
pub type SecretName = (String, String);

/// Longest wait before a certificate's dates are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// What was found under a Secret's name.
#[derive(Clone, Debug)]
enum Known {
    Missing,
    Good(Arc<Pair>),
    /// One that is edited in two steps has a wrong key in between, so what was good before is kept.
    Bad {
        flaw: Flaw,
        former: Option<Arc<Pair>>,
    },
}

/// All certificates that Functions name.
#[derive(Debug)]
pub struct Certificates {
    enabled: bool,
    inner: Mutex<Inner>,
    /// Functions whose Secret nobody has read yet.
    unread: Queue,
}

#[derive(Debug, Default)]
struct Inner {
    named: HashMap<FunctionKey, SecretName>,
    users: HashMap<SecretName, BTreeSet<FunctionKey>>,
    known: HashMap<SecretName, Known>,
}

/// What is to be told to activators.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// The Secret is being read: what they know holds.
    AsBefore,
    /// No certificate.
    Nothing,
    /// This one.
    This(Arc<Pair>),
}

/// How it stands with a Function's certificate.
#[derive(Clone, Debug)]
pub struct Standing {
    secret: String,
    enabled: bool,
    /// `None`: not read yet.
    known: Option<Known>,
}

impl Certificates {
    /// None yet. `enabled`: whether Secrets may be read at all.
    pub fn new(enabled: bool) -> Self {
        Self {
            enabled,
            inner: Mutex::default(),
            unread: Queue::default(),
        }
    }

    /// Takes note of the Secret that a Function names.
    pub fn name(&self, key: &FunctionKey, secret: Option<&str>) {
        let mut inner = self.inner.lock();
        let name = secret.map(|secret| (key.namespace.to_string(), secret.to_owned()));
        if inner.named.get(key) == name.as_ref() {
            return;
        }
        inner.unname(key);
        let Some(name) = name else { return };
        let users = inner.users.entry(name.clone()).or_default();
        users.insert(key.clone());
        let unread = !inner.known.contains_key(&name);
        inner.named.insert(key.clone(), name);
        if unread {
            self.unread.add(key);
        }
    }

    /// How it stands with a Function's certificate; `None` if it names none.
    pub fn of(&self, key: &FunctionKey) -> Option<Standing> {
        let inner = self.inner.lock();
        let name = inner.named.get(key)?;
        Some(Standing {
            secret: name.1.clone(),
            enabled: self.enabled,
            known: inner.known.get(name).cloned(),
        })
    }

    /// The Secret of a Function, if nobody has read it yet.
    fn unread(&self, key: &FunctionKey) -> Option<SecretName> {
        let inner = self.inner.lock();
        let name = inner.named.get(key)?;
        (!inner.known.contains_key(name)).then(|| name.clone())
    }

    /// A Secret is there or has changed. Returns the Functions that name it.
    fn put(&self, name: &SecretName, secret: &Secret) -> Vec<FunctionKey> {
        let mut inner = self.inner.lock();
        let Some(users) = inner.users.get(name) else {
            return Vec::new();
        };
        let users = users.iter().cloned().collect();
        let former = inner.known.remove(name).and_then(Known::served);
        let known = match Pair::read(secret) {
            Ok(pair) => Known::Good(Arc::new(pair)),
            Err(flaw) => Known::Bad { flaw, former },
        };
        inner.known.insert(name.clone(), known);
        users
    }

    /// There is no such Secret. Returns the Functions that name it.
    fn missing(&self, name: &SecretName) -> Vec<FunctionKey> {
        let mut inner = self.inner.lock();
        let Some(users) = inner.users.get(name) else {
            return Vec::new();
        };
        let users = users.iter().cloned().collect();
        inner.known.insert(name.clone(), Known::Missing);
        users
    }

    /// What a new list does not have is gone, or of another type: each is to be read again, and until then nothing changes.
    fn listed(&self, listed: &HashSet<SecretName>) {
        let mut inner = self.inner.lock();
        let Inner { users, known, .. } = &mut *inner;
        known.retain(|name, _| {
            let there = listed.contains(name);
            if let Some(key) = users.get(name).and_then(BTreeSet::first).filter(|_| !there) {
                self.unread.add(key);
            }
            there
        });
    }
}

impl Known {
    fn served(self) -> Option<Arc<Pair>> {
        match self {
            Self::Missing => None,
            Self::Good(pair) => Some(pair),
            Self::Bad { former, .. } => former,
        }
    }
}

impl Inner {
    fn unname(&mut self, key: &FunctionKey) {
        let Some(name) = self.named.remove(key) else {
            return;
        };
        let users = self.users.entry(name.clone()).or_default();
        users.remove(key);
        if users.is_empty() {
            self.users.remove(&name);
            self.known.remove(&name);
        }
    }
}

impl Standing {
    /// What activators are to be told.
    pub fn wanted(&self) -> Wanted {
        match &self.known {
            _ if !self.enabled => Wanted::Nothing,
            None => Wanted::AsBefore,
            Some(known) => known.clone().served().map_or(Wanted::Nothing, Wanted::This),
        }
    }

    /// What the condition `CertificateReady` says, for a Function that has these hosts.
    pub fn verdict(&self, hosts: &[String], now: Timestamp) -> Verdict {
        let secret = &self.secret;
        if !self.enabled {
            let message = "this installation serves no TLS: the platform team must set gateway.tls.enabled in Ebb's chart";
            return Verdict::no(Reason::TlsDisabled, message);
        }
        match &self.known {
            None => Verdict::unknown(
                Reason::ReadingSecret,
                format!("Secret {secret} is being read"),
            ),
            Some(Known::Missing) => {
                let message = format!("there is no Secret {secret} in this namespace");
                Verdict::no(Reason::SecretNotFound, message)
            }
            Some(Known::Good(pair)) => of_pair(secret, pair, hosts, now),
            Some(Known::Bad { flaw, former }) => {
                let mut message = format!("Secret {secret} cannot be used: {flaw}");
                if former.is_some() {
                    message += "; the former certificate goes on being served";
                }
                Verdict::no(flaw.reason(), message)
            }
        }
    }

    /// When the verdict may be another because of a date.
    pub fn look_again(&self, now: Timestamp) -> Option<Duration> {
        let Some(Known::Good(pair)) = &self.known else {
            return None;
        };
        let next = [pair.not_before, pair.not_after].into_iter();
        let next = next.filter(|date| *date >= now).min()?;
        let wait = Duration::try_from(next.duration_since(now)).ok()?;
        Some((wait + Duration::from_secs(1)).min(LOOK_AGAIN))
    }
}

fn of_pair(secret: &str, pair: &Pair, hosts: &[String], now: Timestamp) -> Verdict {
    let (from, until) = (pair.not_before, pair.not_after);
    let valid = format!("the certificate in Secret {secret} is valid from {from} until {until}");
    if now > until {
        let message = format!("{valid}: it has expired, and is still served");
        return Verdict::no(Reason::CertificateExpired, message);
    }
    if now < from {
        let message = format!("{valid}: that is yet to come, and it is served already");
        return Verdict::no(Reason::CertificateNotYetValid, message);
    }
    let uncovered = hosts.iter().filter(|host| !pair.covers(host));
    let uncovered: Vec<&str> = uncovered.map(String::as_str).collect();
    if !uncovered.is_empty() {
        let hosts = uncovered.join(", ");
        let message = format!("{valid}, but not for {hosts}, which therefore have no TLS");
        return Verdict::no(Reason::HostNotCovered, message);
    }
    Verdict::yes(Reason::CertificateServed, valid)
}

#[cfg(test)]
mod tests {
    use super::{
        pair::{
            SECRET_TYPE,
            tests::{issue, secret},
        },
        *,
    };

    fn key(name: &str) -> FunctionKey {
        FunctionKey::new("shop", name)
    }

    fn cert() -> SecretName {
        ("shop".into(), "cert".into())
    }

    fn at(date: &str) -> Timestamp {
        format!("{date}T00:00:00Z").parse().unwrap()
    }

    fn reason(certificates: &Certificates, hosts: &[&str], date: &str) -> Reason {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let standing = certificates.of(&key("hello")).unwrap();
        standing.verdict(&hosts, at(date)).reason
    }

    fn serves(certificates: &Certificates) -> bool {
        let standing = certificates.of(&key("hello"));
        matches!(standing.map(|s| s.wanted()), Some(Wanted::This(_)))
    }

    #[test]
    fn only_what_a_function_names_is_kept() {
        let certificates = Certificates::new(true);
        let (certificate, private) = issue(&["a.example"], 2026);
        let good = secret(SECRET_TYPE, &certificate, &private);
        assert!(certificates.put(&cert(), &good).is_empty());
        assert!(certificates.inner.lock().known.is_empty());
        certificates.name(&key("hello"), Some("cert"));
        assert_eq!(certificates.unread(&key("hello")), Some(cert()));
        assert_eq!(certificates.put(&cert(), &good), [key("hello")]);
        assert_eq!(certificates.unread(&key("hello")), None);
        assert!(serves(&certificates));
        certificates.name(&key("hello"), None);
        assert!(certificates.of(&key("hello")).is_none());
        assert!(certificates.inner.lock().known.is_empty());
    }

    #[test]
    fn the_condition_says_what_is_wrong() {
        let certificates = Certificates::new(true);
        certificates.name(&key("hello"), Some("cert"));
        let hosts = ["a.example"];
        let now = "2026-06-01";
        assert_eq!(reason(&certificates, &hosts, now), Reason::ReadingSecret);
        certificates.missing(&cert());
        assert_eq!(reason(&certificates, &hosts, now), Reason::SecretNotFound);
        certificates.put(&cert(), &secret(SECRET_TYPE, "x", "y"));
        assert_eq!(reason(&certificates, &hosts, now), Reason::SecretInvalid);
        assert!(!serves(&certificates));
        let (certificate, private) = issue(&hosts, 2026);
        let (_, other) = issue(&hosts, 2026);
        certificates.put(&cert(), &secret(SECRET_TYPE, &certificate, &private));
        for (hosts, date, expected) in [
            (&["a.example"][..], now, Reason::CertificateServed),
            (&["a.example", "b.example"], now, Reason::HostNotCovered),
            (&["a.example"], "2027-06-01", Reason::CertificateExpired),
            (&["a.example"], "2025-06-01", Reason::CertificateNotYetValid),
        ] {
            assert_eq!(
                reason(&certificates, hosts, date),
                expected,
                "{hosts:?} {date}"
            );
        }
        certificates.put(&cert(), &secret(SECRET_TYPE, &certificate, &other));
        let mismatch = Reason::CertificateKeyMismatch;
        assert_eq!(reason(&certificates, &hosts, now), mismatch);
        assert!(serves(&certificates), "the former one is");
        certificates.missing(&cert());
        assert!(!serves(&certificates));
    }

    #[test]
    fn where_tls_is_off_the_condition_says_who_can_turn_it_on() {
        let certificates = Certificates::new(false);
        certificates.name(&key("hello"), Some("cert"));
        let standing = certificates.of(&key("hello")).unwrap();
        let verdict = standing.verdict(&[], at("2026-06-01"));
        assert_eq!(verdict.reason, Reason::TlsDisabled);
        assert!(verdict.message.contains("gateway.tls.enabled"));
        assert!(matches!(standing.wanted(), Wanted::Nothing));
    }

    #[test]
    fn a_date_is_looked_at_when_it_comes_but_at_least_once_a_day() {
        let certificates = Certificates::new(true);
        certificates.name(&key("hello"), Some("cert"));
        let (certificate, private) = issue(&["a.example"], 2026);
        certificates.put(&cert(), &secret(SECRET_TYPE, &certificate, &private));
        let standing = certificates.of(&key("hello")).unwrap();
        let wait = |time: &str| standing.look_again(time.parse().unwrap());
        assert_eq!(wait("2026-06-01T00:00:00Z"), Some(LOOK_AGAIN));
        let second = Duration::from_secs(1);
        assert_eq!(wait("2026-12-31T23:59:59Z"), Some(second * 2));
        assert_eq!(wait("2027-01-01T00:00:01Z"), None);
    }
}
