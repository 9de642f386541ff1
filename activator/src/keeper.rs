//! Whose turn it is to send to the pods of a Function with a limit: one activator alone, the keeper, so that the limit is exact.
//!
//! The others send to the keeper as if it were a pod. While there is none, requests wait.

use std::net::IpAddr;

use crds::control::{Keeper, Limit};
use http::{HeaderMap, HeaderName, HeaderValue};
use throttle::Told;

/// How often a request was sent on from one activator to another.
const HOPS: HeaderName = HeaderName::from_static("x-ebb-hops");

/// No request goes further than this. It goes on once more each time that the keeper changes while it waits; round it cannot go, since
/// the keeper changes only when all have let go of the former one. This is for the case that this is wrong.
const MAX_HOPS: u32 = 16;

/// What this activator is to a Function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// One of several that send to its pods: it has no limit.
    Any,
    /// The only one that sends to its pods.
    Keeper {
        per_pod: u32,
        /// Pods that others have not released yet.
        busy: &'a [String],
    },
    /// One that sends to the keeper, if there is one.
    Other {
        term: u64,
        keeper: Option<&'a Keeper>,
    },
}

impl<'a> Role<'a> {
    /// The role of the activator `name`, by a picture's limit. `newest` is the highest term that it has answered: a picture with
    /// a lower one is of an operator that does not know what has happened since, and names nobody.
    pub(crate) fn of(limit: Option<&'a Limit>, name: &str, newest: u64) -> Self {
        let Some(limit) = limit else {
            return Self::Any;
        };
        match limit.keeper.as_ref().filter(|_| limit.term >= newest) {
            Some(keeper) if keeper.activator == name => Self::Keeper {
                per_pod: limit.per_pod,
                busy: &limit.busy,
            },
            keeper => Self::Other {
                term: limit.term,
                keeper,
            },
        }
    }

    /// What may be sent to a pod, and how much at once.
    pub(crate) fn standing(&self, uid: &str, told: Told) -> (Told, u32) {
        match self {
            Self::Any => (told, u32::MAX),
            Self::Keeper { per_pod, busy } => {
                let away = busy.iter().any(|busy| busy == uid);
                (away_unless_draining(away, told), *per_pod)
            }
            Self::Other { .. } => (away_unless_draining(true, told), u32::MAX),
        }
    }
}

fn away_unless_draining(away: bool, told: Told) -> Told {
    match told {
        Told::Draining => told,
        _ if away => Told::Away,
        _ => told,
    }
}

/// What requests must know of the limit.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    /// Addresses of the activators.
    addresses: Vec<IpAddr>,
}

impl Peers {
    pub(crate) fn of(limit: &Limit) -> Self {
        Self {
            addresses: limit.activators.clone(),
        }
    }

    /// How many activators have sent a request on; 0 if it comes from anybody else, who could claim anything.
    pub(crate) fn hops(&self, client: IpAddr, headers: &HeaderMap) -> u32 {
        if !self.addresses.contains(&client) {
            return 0;
        }
        let hops = headers.get(HOPS).and_then(|value| value.to_str().ok());
        hops.and_then(|hops| hops.parse().ok()).unwrap_or(0)
    }
}

/// Notes in a request that it is sent on for the `hops`th time; a pod is not told. Returns whether it may go on.
pub(crate) fn note(headers: &mut HeaderMap, to_activator: bool, hops: u32) -> bool {
    if to_activator {
        headers.insert(HOPS, HeaderValue::from(hops));
    } else {
        headers.remove(HOPS);
    }
    hops <= MAX_HOPS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(term: u64, keeper: Option<&str>) -> Limit {
        let address = IpAddr::from([10, 0, 0, 1]);
        Limit {
            per_pod: 2,
            term,
            keeper: keeper.map(|name| Keeper {
                activator: name.into(),
                address,
            }),
            busy: vec!["p1".into()],
            activators: vec![address],
        }
    }

    #[test]
    fn only_the_keeper_of_a_term_that_is_not_over_sends_to_pods() {
        let told = |limit: Option<&Limit>, newest, uid| {
            Role::of(limit, "me", newest).standing(uid, Told::Serving)
        };
        let (mine, others) = (limit(5, Some("me")), limit(5, Some("you")));
        assert_eq!(told(None, 9, "p1"), (Told::Serving, u32::MAX));
        assert_eq!(told(Some(&mine), 5, "p2"), (Told::Serving, 2));
        assert_eq!(told(Some(&mine), 5, "p1"), (Told::Away, 2), "another's");
        assert_eq!(told(Some(&mine), 6, "p2").0, Told::Away, "it is over");
        assert_eq!(told(Some(&others), 5, "p2").0, Told::Away);
        assert_eq!(told(Some(&limit(5, None)), 0, "p2").0, Told::Away);
        let over = Role::of(Some(&others), "me", 6);
        assert_eq!(
            over,
            Role::Other {
                term: 5,
                keeper: None
            }
        );
        let draining = Role::of(Some(&others), "me", 0).standing("p2", Told::Draining);
        assert_eq!(draining.0, Told::Draining);
    }

    #[test]
    fn only_activators_tell_hops() {
        let peers = Peers::of(&limit(1, None));
        let mut headers = HeaderMap::new();
        assert!(note(&mut headers, true, 2));
        assert_eq!(peers.hops([10, 0, 0, 1].into(), &headers), 2);
        assert_eq!(peers.hops([10, 0, 0, 2].into(), &headers), 0);
        assert!(!note(&mut headers, true, 17), "it goes round");
        note(&mut headers, false, 3);
        assert!(headers.is_empty());
    }
}
