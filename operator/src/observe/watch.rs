//! Watches: from the API server's events to changes of the index.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crds::names::FunctionKey;
use futures::{Stream, StreamExt, TryStreamExt};
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event},
    },
};
use tokio::time::Instant;

use crate::observe::{
    Entry, Index,
    kinds::{Change, Indexed},
};

/// First and longest wait before a watch is opened anew. A lost one means that starts from zero are not seen, so the longest is far below
/// the half minute that clients of Kubernetes commonly wait.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(4);

/// How long to wait before a watch is opened anew: twice as long each time, with jitter, so that replicas do not come at once.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    failures: u32,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = RETRY_FIRST * 2u32.saturating_pow(self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        Some(wait.min(RETRY_MAX).mul_f64(0.5 + fastrand::f64()))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Told of every Function whose entry has changed.
pub trait Changed: Send + Sync + 'static {
    /// The entry of `key` is not what it was.
    fn changed(&self, key: &FunctionKey, change: Change);
}

/// Keeps the index's objects of kind `K` up to date for ever. `synced` is called when the first list is complete.
pub async fn run<K: Indexed>(
    client: Client,
    selector: Option<&str>,
    index: Arc<Index>,
    told: Arc<dyn Changed>,
    synced: impl FnOnce() + Send,
) {
    let api: Api<DeserializeGuard<K>> = Api::all(client);
    let mut config = watcher::Config::default();
    if let Some(labels) = selector {
        config = config.labels(labels);
    }
    let events = kube::runtime::watcher(api, config).backoff(Patience::default());
    follow::<K>(events, &index, told.as_ref(), synced).await;
}

async fn follow<K: Indexed>(
    events: impl Stream<Item = Result<Event<DeserializeGuard<K>>, watcher::Error>>,
    index: &Index,
    told: &dyn Changed,
    synced: impl FnOnce() + Send,
) {
    let mut synced = Some(synced);
    let mut listed = HashSet::new();
    let mut events = std::pin::pin!(events.into_stream());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object)) => {
                apply::<K>(index, told, object);
            }
            Ok(Event::Delete(object)) => {
                if let Some((key, name)) = place::<K>(&object) {
                    delete::<K>(index, told, &key, &name);
                }
            }
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.extend(apply::<K>(index, told, object)),
            Ok(Event::InitDone) => {
                forget_unlisted::<K>(index, told, &listed);
                listed = HashSet::new();
                if let Some(synced) = synced.take() {
                    synced();
                }
            }
            // The stream goes on by itself, with back-off.
            Err(error) => tracing::warn!(kind = K::NAME, error = %error, "watch interrupted"),
        }
    }
}

fn place<K: Indexed>(object: &DeserializeGuard<K>) -> Option<(FunctionKey, String)> {
    let meta = match &object.0 {
        Ok(object) => object.meta(),
        Err(invalid) => &invalid.metadata,
    };
    Some((K::key(meta)?, meta.name.clone()?))
}

/// Puts an object into the index. One that cannot be read is passed over, and what was known of it stays: it must not stop the watch of all others.
fn apply<K: Indexed>(
    index: &Index,
    told: &dyn Changed,
    object: DeserializeGuard<K>,
) -> Option<(FunctionKey, String)> {
    let (key, name) = place(&object)?;
    match object.0 {
        Ok(object) => {
            let put = |entry: &mut Entry| K::put(entry, &name, object, Instant::now());
            told.changed(&key, index.change(&key, put));
        }
        Err(invalid) => {
            tracing::warn!(kind = K::NAME, %name, error = %invalid.error, "object cannot be read")
        }
    }
    Some((key, name))
}

fn delete<K: Indexed>(index: &Index, told: &dyn Changed, key: &FunctionKey, name: &str) {
    index.change(key, |entry| K::remove(entry, name));
    told.changed(key, Change::State);
}

/// After a new list: what it does not have was deleted while nobody watched.
fn forget_unlisted<K: Indexed>(
    index: &Index,
    told: &dyn Changed,
    listed: &HashSet<(FunctionKey, String)>,
) {
    let gone = index.map(|key, entry| {
        let names = K::names(entry).into_iter();
        let gone: Vec<_> = names
            .filter(|n| !listed.contains(&(key.clone(), n.clone())))
            .collect();
        (!gone.is_empty()).then(|| (key.clone(), gone))
    });
    for (key, names) in gone {
        for name in names {
            delete::<K>(index, told, &key, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use k8s_openapi::api::core::v1::Pod;
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Changed for Seen {
        fn changed(&self, key: &FunctionKey, _: Change) {
            self.0.lock().push(key.to_string());
        }
    }

    fn pod(name: &str, function: &str) -> DeserializeGuard<Pod> {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop", "labels": {"ebb.dev/function": function}}}))
            .unwrap()
    }

    #[tokio::test]
    async fn a_new_list_forgets_what_it_does_not_have() {
        let index = Index::default();
        let seen = Seen::default();
        let events = stream::iter([
            Event::Init,
            Event::InitApply(pod("a-1", "a")),
            Event::InitApply(pod("b-1", "b")),
            Event::InitDone,
            Event::Apply(pod("a-2", "a")),
            Event::Init,
            Event::InitApply(pod("a-2", "a")),
            Event::InitDone,
        ])
        .map(Ok);
        follow::<Pod>(events, &index, &seen, || ()).await;
        let a = index.entry(&FunctionKey::new("shop", "a"));
        assert_eq!(a.pods.keys().collect::<Vec<_>>(), ["a-2"]);
        assert_eq!(index.keys(), [FunctionKey::new("shop", "a")]);
        assert!(seen.0.lock().contains(&"shop/b".to_string()));
    }
}
