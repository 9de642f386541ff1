//! Which activators own a Function: rendezvous hashing, so that losing one moves only the Functions that it owned. Pure.

use std::hash::Hasher;

use crds::names::FunctionKey;

/// Activators that serve one Function. Two, so that losing one does not interrupt it; not all, so that a Function's concurrency is
/// seen in few places.
const OWNERS: usize = 2;

/// The owners of `key` among the activators of these names, best first.
pub fn choose<'a>(key: &FunctionKey, activators: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut ranked: Vec<(u64, &str)> = activators.map(|name| (weight(key, name), name)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    ranked
        .into_iter()
        .take(OWNERS)
        .map(|(_, name)| name)
        .collect()
}

/// Every replica must come to the same owners, so the hash is one that has fixed keys.
#[expect(
    deprecated,
    reason = "SipHasher is std's only hasher that is the same in every process and version"
)]
fn weight(key: &FunctionKey, activator: &str) -> u64 {
    let mut hasher = std::hash::SipHasher::new_with_keys(0, 0);
    hasher.write(key.namespace.as_bytes());
    hasher.write_u8(b'/');
    hasher.write(key.name.as_bytes());
    hasher.write_u8(b'@');
    hasher.write(activator.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(function: usize, activators: &[&str]) -> Vec<String> {
        let key = FunctionKey::new("shop", format!("f{function}"));
        choose(&key, activators.iter().copied())
            .into_iter()
            .map(String::from)
            .collect()
    }

    #[test]
    fn losing_an_activator_moves_only_what_it_owned() {
        let all = ["a", "b", "c", "d"];
        for f in 0..200 {
            let before = owners(f, &all);
            let after = owners(f, &["a", "b", "d"]);
            assert_eq!(before.len(), 2);
            if !before.contains(&"c".into()) {
                assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn functions_are_spread() {
        let all = ["a", "b", "c", "d"];
        for name in all {
            let owned = (0..400)
                .filter(|f| owners(*f, &all).contains(&name.into()))
                .count();
            assert!(
                (130..270).contains(&owned),
                "{name} owns {owned} of 400, half expected"
            );
        }
    }
}
