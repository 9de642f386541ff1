//! Who keeps a Function's limit of requests at once: one activator, and never two at a time. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crds::control::{Keeper, Limit};

use crate::fleet::SessionId;

/// An activator that can be the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its control stream. Over another one it may have followed another operator meanwhile, so it counts as another activator.
    pub session: SessionId,
    /// Name of its pod.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// How far the choice of a keeper has come.
///
/// A keeper is named when every activator has said in this term that it sends nothing to the pods. Whenever the best candidate, or the set
/// of those who must agree, is another one, a new term begins.
#[derive(Debug, Default)]
pub struct Keeping {
    term: u64,
    wanted: Option<Candidate>,
    sessions: BTreeSet<SessionId>,
    /// Who has released the pods in this term, and in which its requests still are.
    released: BTreeMap<SessionId, Vec<String>>,
    /// The highest term that an activator has answered, whoever told it.
    newest: u64,
    granted: bool,
}

impl Keeping {
    /// An activator's [`Released`](crds::control::ToOperator::Released).
    pub fn released(&mut self, session: SessionId, term: u64, newest: u64, busy: Vec<String>) {
        self.newest = self.newest.max(newest);
        if term == self.term {
            self.released.insert(session, busy);
        }
    }

    /// Takes in who could be the keeper. `strangers`: an activator may run that is not connected. `fresh` is a number that no other
    /// replica gives and that grows.
    pub fn observe(
        &mut self,
        wanted: Option<&Candidate>,
        sessions: &BTreeSet<SessionId>,
        strangers: bool,
        fresh: u64,
    ) {
        let same = self.wanted.as_ref() == wanted && self.sessions == *sessions;
        if !same || self.term == 0 || self.newest > self.term {
            *self = Self {
                term: fresh.max(self.term + 1).max(self.newest + 1),
                wanted: wanted.cloned(),
                sessions: sessions.clone(),
                newest: self.newest,
                ..Self::default()
            };
        }
        let all = sessions.iter().all(|s| self.released.contains_key(s));
        self.granted |= self.wanted.is_some() && all && !strangers;
    }

    /// What activators are told.
    pub fn limit(&self, per_pod: u32, activators: Vec<IpAddr>) -> Limit {
        let keeper = self.wanted.as_ref().filter(|_| self.granted);
        let others = self.released.iter().filter(|(session, _)| {
            // What is in flight from the keeper itself it counts.
            keeper.is_none_or(|keeper| keeper.session != **session)
        });
        let busy: BTreeSet<&String> = others.flat_map(|(_, busy)| busy).collect();
        Limit {
            per_pod,
            term: self.term,
            keeper: keeper.map(|keeper| Keeper {
                activator: keeper.name.clone(),
                address: keeper.address,
            }),
            busy: busy.into_iter().cloned().collect(),
            activators,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn candidate(session: SessionId) -> Candidate {
        let number = session.0;
        Candidate {
            session,
            name: format!("activator-{number}"),
            address: IpAddr::from([10, 0, 0, number as u8]),
        }
    }

    struct World {
        keeping: Keeping,
        wanted: Option<Candidate>,
        sessions: BTreeSet<SessionId>,
        strangers: bool,
        now: u64,
    }

    impl World {
        fn new() -> Self {
            Self {
                keeping: Keeping::default(),
                wanted: Some(candidate(A)),
                sessions: [A, B].into(),
                strangers: false,
                now: 1_000,
            }
        }

        fn look(&mut self) -> Limit {
            let wanted = self.wanted.as_ref();
            self.now += 1;
            self.keeping
                .observe(wanted, &self.sessions, self.strangers, self.now);
            self.keeping.limit(1, Vec::new())
        }

        fn releases(&mut self, session: SessionId, busy: &[&str]) {
            let term = self.keeping.term;
            let busy = busy.iter().map(ToString::to_string).collect();
            self.keeping.released(session, term, term, busy);
        }

        fn keeper(&mut self) -> Option<String> {
            self.look().keeper.map(|keeper| keeper.activator)
        }

        fn settled() -> Self {
            let mut world = Self::new();
            world.look();
            world.releases(A, &[]);
            world.releases(B, &[]);
            assert_eq!(world.keeper().unwrap(), "activator-1");
            world
        }
    }

    #[test]
    fn a_keeper_is_named_when_all_have_let_go() {
        let mut world = World::new();
        assert_eq!(world.keeper(), None);
        world.releases(A, &[]);
        assert_eq!(world.keeper(), None, "the other has said nothing");
        world.releases(B, &["p1", "p2"]);
        let limit = world.look();
        assert_eq!(limit.keeper.unwrap().activator, "activator-1");
        assert_eq!(limit.busy, ["p1", "p2"], "requests of the other");
        world.releases(B, &["p2"]);
        let later = world.look();
        assert_eq!(
            (later.term, &later.busy[..]),
            (limit.term, &["p2".to_owned()][..])
        );
    }

    #[test]
    fn another_keeper_begins_a_new_term() {
        let mut world = World::settled();
        let before = world.look().term;
        world.wanted = Some(candidate(B));
        let limit = world.look();
        assert!(limit.term > before && limit.keeper.is_none());
        world.keeping.released(A, before, before, Vec::new());
        world.releases(B, &[]);
        assert_eq!(world.keeper(), None, "an answer to the term before");
        world.releases(A, &["p1"]);
        let limit = world.look();
        assert_eq!(
            (limit.keeper.unwrap().activator.as_str(), &limit.busy[..]),
            ("activator-2", &["p1".to_owned()][..])
        );
    }

    #[test]
    fn who_comes_or_goes_or_is_not_connected_counts() {
        let mut world = World::settled();
        world.sessions.remove(&B);
        world.strangers = true;
        assert_eq!(world.keeper(), None);
        world.releases(A, &[]);
        assert_eq!(world.keeper(), None, "B may still send");
        world.strangers = false;
        assert_eq!(world.keeper().unwrap(), "activator-1");
        world.sessions.insert(SessionId(3));
        assert_eq!(
            world.keeper(),
            None,
            "it may have followed another operator"
        );
        world.wanted = None;
        world.releases(A, &[]);
        world.releases(SessionId(3), &[]);
        assert_eq!(world.keeper(), None, "nobody listens");
    }

    #[test]
    fn a_term_is_above_all_that_activators_have_answered() {
        let mut world = World::settled();
        world.keeping.released(A, 7, 5_000_000, Vec::new());
        let limit = world.look();
        assert_eq!((limit.term, limit.keeper), (5_000_001, None));
    }
}
