//! Ports of Functions on the activators. A Function's port is recorded in its Service, so all replicas and restarts agree; this only
//! finds one for a Function that has none.

use std::collections::{HashMap, HashSet};

use crds::names::{FUNCTION_PORT_FIRST, FUNCTION_PORT_LAST, FunctionKey};
use parking_lot::Mutex;

use crate::observe::Index;

/// Ports given out by this process whose Services the watch may not show yet.
#[derive(Debug, Default)]
pub struct Ports {
    given: Mutex<HashMap<FunctionKey, u16>>,
}

impl Ports {
    /// The Function's port: the recorded one unless another Function has it too, else a free one. `None`: all are taken.
    pub fn of(&self, key: &FunctionKey, index: &Index) -> Option<u16> {
        let mut given = self.given.lock();
        let recorded: Vec<(FunctionKey, u16)> =
            index.map(|k, entry| Some((k.clone(), entry.port()?)));
        // What the watch shows needs no memory here, nor do Functions that are gone.
        let exists: HashSet<FunctionKey> = index
            .map(|k, e| e.function.is_some().then(|| k.clone()))
            .into_iter()
            .collect();
        given.retain(|k, port| exists.contains(k) && !recorded.contains(&(k.clone(), *port)));
        choose(key, &recorded, &mut given)
    }
}

fn choose(
    key: &FunctionKey,
    recorded: &[(FunctionKey, u16)],
    given: &mut HashMap<FunctionKey, u16>,
) -> Option<u16> {
    let own = recorded
        .iter()
        .find(|(k, _)| k == key)
        .map(|(_, port)| *port);
    let in_range = |port: &u16| (FUNCTION_PORT_FIRST..=FUNCTION_PORT_LAST).contains(port);
    // Two Functions can only have one port if somebody edited a Service; the one whose name sorts first keeps it.
    let rivals = |port: u16| recorded.iter().any(|(k, p)| *p == port && k < key);
    if let Some(port) = own.filter(in_range).filter(|port| !rivals(*port)) {
        return Some(port);
    }
    if let Some(port) = given.get(key) {
        return Some(*port);
    }
    let taken: HashSet<u16> = recorded
        .iter()
        .map(|(_, p)| *p)
        .chain(given.values().copied())
        .collect();
    let port = (FUNCTION_PORT_FIRST..=FUNCTION_PORT_LAST).find(|port| !taken.contains(port))?;
    given.insert(key.clone(), port);
    Some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> FunctionKey {
        FunctionKey::new("shop", name)
    }

    #[test]
    fn ports_are_kept_and_never_given_twice() {
        let recorded = [(key("a"), 20_000), (key("c"), 20_002)];
        let mut given = HashMap::new();
        assert_eq!(choose(&key("a"), &recorded, &mut given), Some(20_000));
        assert_eq!(choose(&key("b"), &recorded, &mut given), Some(20_001));
        assert_eq!(choose(&key("d"), &recorded, &mut given), Some(20_003));
        assert_eq!(choose(&key("b"), &recorded, &mut given), Some(20_001));
    }

    #[test]
    fn an_edited_port_does_not_stay_double_or_out_of_range() {
        let recorded = [(key("a"), 20_000), (key("b"), 20_000), (key("c"), 80)];
        let mut given = HashMap::new();
        assert_eq!(choose(&key("a"), &recorded, &mut given), Some(20_000));
        assert_eq!(choose(&key("b"), &recorded, &mut given), Some(20_001));
        assert_eq!(choose(&key("c"), &recorded, &mut given), Some(20_002));
    }

    #[test]
    fn all_taken() {
        let recorded: Vec<_> = (FUNCTION_PORT_FIRST..=FUNCTION_PORT_LAST)
            .map(|p| (key(&format!("f{p}")), p))
            .collect();
        assert_eq!(
            choose(&key("one-more"), &recorded, &mut HashMap::new()),
            None
        );
    }
}
