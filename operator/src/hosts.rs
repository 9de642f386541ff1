//! Which Function has which host name on the port that all share. Pure.
//!
//! A name that a Function has stays with it for as long as it lists it: its status records that, where its owner cannot write. Of those who
//! want a name that nobody has, the Function that was created first gets it.

use std::collections::{BTreeSet, HashMap};

use crds::{
    conditions::{Reason, Verdict},
    function::Function,
    names::FunctionKey,
};
use k8s_openapi::jiff::Timestamp;

/// What a Function says and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    created: Timestamp,
    hosts: Vec<String>,
    /// Those that it has by its status.
    held: Vec<String>,
}

impl Claim {
    /// The claim of a Function.
    pub fn of(function: &Function) -> Self {
        let created = function.metadata.creation_timestamp.as_ref();
        let status = function.status.as_ref();
        Self {
            created: created.map_or(Timestamp::MAX, |time| time.0),
            hosts: function.spec.hosts.clone(),
            held: status.map(|s| s.hosts.clone()).unwrap_or_default(),
        }
    }
}

/// What becomes of one name of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It leads here.
    Own,
    /// It leads to another Function.
    Taken,
    /// It is one of the cluster's own names for Services.
    Reserved,
}

/// The claims of all Functions.
#[derive(Debug)]
pub struct Hosts {
    cluster_domain: String,
    claims: HashMap<FunctionKey, Claim>,
    /// Who wants a name.
    wanted: HashMap<String, BTreeSet<FunctionKey>>,
}

impl Hosts {
    /// No claims, in a cluster with this DNS domain.
    pub fn new(cluster_domain: &str) -> Self {
        Self {
            cluster_domain: cluster_domain.into(),
            claims: HashMap::new(),
            wanted: HashMap::new(),
        }
    }

    /// Takes note of a Function's claim; `None`: it is gone. Returns the Functions whose names may be others now, itself included.
    pub fn set(&mut self, key: &FunctionKey, claim: Option<Claim>) -> BTreeSet<FunctionKey> {
        if self.claims.get(key) == claim.as_ref() {
            return BTreeSet::new();
        }
        // Its own short name is nobody else's while it exists.
        let mut names = BTreeSet::from([format!("{}.{}", key.name, key.namespace)]);
        let old = self.claims.remove(key);
        for host in old.into_iter().flat_map(|old| old.hosts) {
            if let Some(all) = self.wanted.get_mut(&host) {
                all.remove(key);
            }
            names.insert(host);
        }
        if let Some(claim) = claim {
            for host in &claim.hosts {
                let all = self.wanted.entry(host.clone()).or_default();
                all.insert(key.clone());
                names.insert(host.clone());
            }
            self.claims.insert(key.clone(), claim);
        }
        let mut touched = BTreeSet::from([key.clone()]);
        for name in &names {
            match self.wanted.get(name) {
                Some(all) if all.is_empty() => drop(self.wanted.remove(name)),
                Some(all) => touched.extend(all.iter().cloned()),
                None => {}
            }
        }
        touched
    }

    /// Whether the claim that is noted is that of this Function as it is now.
    pub fn knows(&self, key: &FunctionKey, function: &Function) -> bool {
        let noted = self.claims.get(key);
        noted.is_some_and(|claim| claim.hosts == function.spec.hosts)
    }

    /// The names of a Function's claim that lead to it.
    pub fn of(&self, key: &FunctionKey) -> Vec<String> {
        let hosts = self.claims.get(key).map(|claim| claim.hosts.iter());
        let own = |host: &&String| self.standing(key, host) == Standing::Own;
        hosts.into_iter().flatten().filter(own).cloned().collect()
    }

    /// What the condition `HostsClaimed` says; `None` if nothing is claimed. It names no other Function: that may be another tenant's.
    pub fn verdict(&self, key: &FunctionKey) -> Option<Verdict> {
        let claim = self.claims.get(key).filter(|c| !c.hosts.is_empty())?;
        let with = |standing| {
            let hosts = claim.hosts.iter();
            let hosts = hosts.filter(|host| self.standing(key, host) == standing);
            hosts.map(String::as_str).collect::<Vec<_>>().join(", ")
        };
        let (taken, reserved) = (with(Standing::Taken), with(Standing::Reserved));
        let mut parts = Vec::new();
        if !taken.is_empty() {
            parts.push(format!("another Function has {taken}"));
        }
        if !reserved.is_empty() {
            parts.push(format!(
                "the cluster's own names for Services cannot be claimed: {reserved}"
            ));
        }
        let reason = match (taken.is_empty(), reserved.is_empty()) {
            (true, true) => return Some(Verdict::yes(Reason::HostsLeadHere, "")),
            (false, _) => Reason::HostTaken,
            (true, false) => Reason::HostReserved,
        };
        Some(Verdict::no(reason, parts.join("; ")))
    }

    fn standing(&self, key: &FunctionKey, host: &str) -> Standing {
        if key
            .hosts(&self.cluster_domain)
            .iter()
            .any(|own| own == host)
        {
            return Standing::Own;
        }
        let service = host.strip_suffix(&self.cluster_domain);
        let service = service.and_then(|rest| rest.strip_suffix('.'));
        if service.unwrap_or(host).ends_with(".svc") {
            return Standing::Reserved;
        }
        match self.owner(host) {
            Some(owner) if owner == *key => Standing::Own,
            _ => Standing::Taken,
        }
    }

    /// Who has a name: the Function that it is the short name of, else the best of the claims.
    fn owner(&self, host: &str) -> Option<FunctionKey> {
        if let Some((name, namespace)) = host.split_once('.') {
            let named = FunctionKey::new(namespace, name);
            if self.claims.contains_key(&named) {
                return Some(named);
            }
        }
        let rank = |key: &&FunctionKey| {
            let claim = self.claims.get(*key);
            let held = claim.is_some_and(|claim| claim.held.iter().any(|held| held == host));
            (!held, claim.map(|claim| claim.created))
        };
        // The first of equals, by namespace and name.
        self.wanted.get(host)?.iter().min_by_key(rank).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> FunctionKey {
        FunctionKey::new("shop", name)
    }

    fn claim(created: i64, hosts: &[&str], held: &[&str]) -> Option<Claim> {
        let owned = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect();
        Some(Claim {
            created: Timestamp::from_second(created).unwrap(),
            hosts: owned(hosts),
            held: owned(held),
        })
    }

    fn reason(hosts: &Hosts, name: &str) -> Option<Reason> {
        hosts.verdict(&key(name)).map(|verdict| verdict.reason)
    }

    #[test]
    fn the_function_that_was_created_first_has_a_name_that_is_new() {
        let mut hosts = Hosts::new("cluster.local");
        hosts.set(&key("young"), claim(2, &["a.example", "b.example"], &[]));
        let touched = hosts.set(&key("old"), claim(1, &["a.example"], &[]));
        assert_eq!(touched, BTreeSet::from([key("old"), key("young")]));
        assert_eq!(hosts.of(&key("old")), ["a.example"]);
        assert_eq!(hosts.of(&key("young")), ["b.example"]);
        assert_eq!(reason(&hosts, "old"), Some(Reason::HostsLeadHere));
        let refused = hosts.verdict(&key("young")).unwrap();
        assert_eq!(refused.reason, Reason::HostTaken);
        assert_eq!(refused.message, "another Function has a.example");
        let touched = hosts.set(&key("old"), None);
        assert!(touched.contains(&key("young")));
        assert_eq!(hosts.of(&key("young")), ["a.example", "b.example"]);
    }

    #[test]
    fn of_two_that_were_created_at_once_the_first_by_name_has_it() {
        let mut hosts = Hosts::new("cluster.local");
        hosts.set(&key("b"), claim(1, &["a.example"], &[]));
        hosts.set(&key("a"), claim(1, &["a.example"], &[]));
        assert_eq!(hosts.of(&key("a")), ["a.example"]);
        assert_eq!(reason(&hosts, "b"), Some(Reason::HostTaken));
    }

    #[test]
    fn a_name_that_is_held_is_not_taken_away_by_an_older_function() {
        let mut hosts = Hosts::new("cluster.local");
        hosts.set(&key("young"), claim(2, &["a.example"], &["a.example"]));
        hosts.set(&key("old"), claim(1, &["a.example"], &[]));
        assert_eq!(hosts.of(&key("young")), ["a.example"]);
        assert_eq!(reason(&hosts, "old"), Some(Reason::HostTaken));
        hosts.set(&key("young"), claim(2, &[], &["a.example"]));
        assert_eq!(hosts.of(&key("old")), ["a.example"], "it was given up");
        assert_eq!(reason(&hosts, "young"), None);
    }

    #[test]
    fn names_of_services_and_of_other_functions_cannot_be_claimed() {
        let mut hosts = Hosts::new("cluster.local");
        let names = [
            "hello.other.svc.cluster.local",
            "hello.other.svc",
            "thief.shop",
            "hello.other",
            "svc.example",
        ];
        hosts.set(&key("thief"), claim(1, &names, &["hello.other"]));
        let own = ["thief.shop", "hello.other", "svc.example"];
        assert_eq!(hosts.of(&key("thief")), own);
        assert_eq!(reason(&hosts, "thief"), Some(Reason::HostReserved));
        // As soon as there is such a Function its name is its own.
        let named = FunctionKey::new("other", "hello");
        let touched = hosts.set(&named, claim(2, &[], &[]));
        assert!(touched.contains(&key("thief")));
        assert_eq!(hosts.of(&key("thief")), ["thief.shop", "svc.example"]);
        assert_eq!(reason(&hosts, "thief"), Some(Reason::HostTaken));
        assert!(hosts.set(&named, claim(2, &[], &[])).is_empty());
    }
}
