//! Reading Secrets: all of the type for certificates are watched, and only those that Functions name are looked into.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crds::names::FunctionKey;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    certificates::{Certificates, SecretName, pair::SECRET_TYPE},
    observe::{
        kinds::Change,
        watch::{Changed, Patience},
    },
};

/// Wait after a Secret could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// Follows the Secrets for ever. `synced` is called when all that Functions name by then have been read.
pub async fn run(
    client: Client,
    certificates: Arc<Certificates>,
    told: Arc<dyn Changed>,
    synced: impl FnOnce() + Send,
) {
    let config = watcher::Config::default().fields(&format!("type={SECRET_TYPE}"));
    let events = kube::runtime::watcher(Api::<Secret>::all(client.clone()), config);
    let events = events.backoff(Patience::default());
    let listed = CancellationToken::new();
    let reading = async {
        // What the first list has need not be asked for.
        listed.cancelled().await;
        loop {
            let key = certificates.unread.next().await;
            read(&client, &certificates, told.as_ref(), &key).await;
            certificates.unread.done(&key);
        }
    };
    let following = follow(events, &certificates, told.as_ref(), || {
        synced();
        listed.cancel();
    });
    tokio::select! {
        () = following => {}
        () = reading => {}
    }
}

/// Reads the Secret of a Function that has just begun to name it, or that the list does not have because it is of another type.
async fn read(client: &Client, certificates: &Certificates, told: &dyn Changed, key: &FunctionKey) {
    let Some(name) = certificates.unread(key) else {
        return;
    };
    let api: Api<Secret> = Api::namespaced(client.clone(), &name.0);
    let found = api.get_opt(&name.1).await;
    // The watch may have told of it meanwhile, and of something newer.
    if certificates.unread(key).as_ref() != Some(&name) {
        return;
    }
    let users = match found {
        Ok(Some(secret)) => certificates.put(&name, &secret),
        Ok(None) => certificates.missing(&name),
        Err(error) => {
            tracing::warn!(function = %key, secret = name.1, %error, "a Secret cannot be read");
            return certificates.unread.add_after(key, RETRY);
        }
    };
    tell(told, users);
}

async fn follow(
    events: impl Stream<Item = Result<Event<Secret>, watcher::Error>>,
    certificates: &Certificates,
    told: &dyn Changed,
    synced: impl FnOnce(),
) {
    let mut synced = Some(synced);
    let mut listed = HashSet::new();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(secret)) => tell(told, certificates.put(&name(&secret), &secret)),
            Ok(Event::Delete(secret)) => tell(told, certificates.missing(&name(&secret))),
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(secret)) => {
                let users = certificates.put(&name(&secret), &secret);
                if !users.is_empty() {
                    listed.insert(name(&secret));
                }
                tell(told, users);
            }
            Ok(Event::InitDone) => {
                certificates.listed(&listed);
                listed = HashSet::new();
                if let Some(synced) = synced.take() {
                    synced();
                }
            }
            // The stream goes on by itself, with back-off.
            Err(error) => tracing::warn!(kind = "secrets", %error, "watch interrupted"),
        }
    }
}

fn name(secret: &Secret) -> SecretName {
    (secret.namespace().unwrap_or_default(), secret.name_any())
}

fn tell(told: &dyn Changed, users: Vec<FunctionKey>) {
    for key in users {
        told.changed(&key, Change::Wish);
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use parking_lot::Mutex;

    use super::*;
    use crate::certificates::{
        Wanted,
        pair::tests::{issue, secret},
    };

    #[derive(Default)]
    struct Seen(Mutex<Vec<FunctionKey>>);

    impl Changed for Seen {
        fn changed(&self, key: &FunctionKey, _: Change) {
            self.0.lock().push(key.clone());
        }
    }

    #[tokio::test]
    async fn what_a_new_list_does_not_have_is_read_again() {
        let certificates = Certificates::new(true);
        let key = FunctionKey::new("shop", "hello");
        certificates.name(&key, Some("cert"));
        let (certificate, private) = issue(&["a.example"], 2026);
        let good = secret(SECRET_TYPE, &certificate, &private);
        let mut unnamed = good.clone();
        unnamed.metadata.name = Some("another".into());
        let seen = Seen::default();
        let first = [
            Event::Init,
            Event::InitApply(good),
            Event::InitApply(unnamed),
            Event::InitDone,
        ];
        let mut synced = false;
        let events = stream::iter(first.map(Ok));
        follow(events, &certificates, &seen, || synced = true).await;
        let wanted = || certificates.of(&key).unwrap().wanted();
        assert!(synced && matches!(wanted(), Wanted::This(_)));
        assert_eq!(*seen.0.lock(), std::slice::from_ref(&key));
        let second = [Event::Init, Event::InitDone];
        follow(stream::iter(second.map(Ok)), &certificates, &seen, || ()).await;
        assert!(matches!(wanted(), Wanted::AsBefore));
        assert_eq!(certificates.unread.next().await, key);
        assert!(certificates.unread(&key).is_some());
    }
}
