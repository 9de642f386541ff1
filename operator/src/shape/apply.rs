//! Applies children by server-side apply, and only when they differ from what is wanted.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::Arc,
};

use crds::names::{FIELD_MANAGER_SCALE, FIELD_MANAGER_SHAPE, FunctionKey};
use k8s_openapi::{
    NamespaceResourceScope,
    api::apps::v1::Deployment,
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta},
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::observe::Entry;

/// Applies children.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    /// What was wanted and the version that was seen to match it, or that an apply of it gave, by kind and name. Kubernetes may write a
    /// value in other words (`1000m` as `1`), and then what is wanted never equals what is there; and a comparison of versions costs
    /// little where one of the objects writes each of them as JSON.
    matched: Arc<Mutex<HashMap<String, (u64, u64)>>>,
}

/// What an apply did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was as wanted.
    Unchanged,
    /// It did not exist.
    Created,
    /// Somebody, or a new version of Ebb, had made it differ.
    Restored,
    /// An object of this name belongs to somebody else; it was left alone.
    Foreign,
}

impl Applier {
    /// An applier over this client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            matched: Arc::default(),
        }
    }

    /// Applies a revision's Deployment, whose count belongs to the scaler: it is created with `initial` pods, then the scaler's field manager claims
    /// the field, and from then on this manager leaves it out.
    ///
    /// # Errors
    /// The API server's.
    pub async fn deployment(
        &self,
        key: &FunctionKey,
        entry: &Entry,
        mut wanted: Value,
        initial: u32,
    ) -> kube::Result<Outcome> {
        let name = wanted["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let Some(observed) = entry.deployments.get(&name) else {
            wanted["spec"]["replicas"] = json!(initial);
            self.patch::<Deployment>(key, &wanted).await?;
            self.claim(key, &name, i32::try_from(initial).unwrap_or(0))
                .await?;
            return Ok(Outcome::Created);
        };
        let claimed = observed
            .metadata
            .managed_fields
            .as_ref()
            .is_some_and(|fields| {
                let manager =
                    |f: &ManagedFieldsEntry| f.manager.as_deref() == Some(FIELD_MANAGER_SCALE);
                fields.iter().any(manager)
            });
        if !claimed {
            let replicas = observed.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
            self.claim(key, &name, replicas).await?;
        }
        self.apply(key, Some(observed.as_ref()), &wanted).await
    }

    /// Applies the Service.
    ///
    /// # Errors
    /// The API server's.
    pub async fn service(
        &self,
        key: &FunctionKey,
        entry: &Entry,
        wanted: Value,
    ) -> kube::Result<Outcome> {
        self.apply(key, entry.own_service(), &wanted).await
    }

    /// Applies the EndpointSlice.
    ///
    /// # Errors
    /// The API server's.
    pub async fn slice(
        &self,
        key: &FunctionKey,
        entry: &Entry,
        wanted: Value,
    ) -> kube::Result<Outcome> {
        self.apply(key, entry.slice.as_deref(), &wanted).await
    }

    /// Deletes the Deployment of a former revision, if it still is the one that was seen.
    ///
    /// # Errors
    /// The API server's, except that it is gone already.
    pub async fn delete_deployment(
        &self,
        key: &FunctionKey,
        entry: &Entry,
        name: &str,
    ) -> kube::Result<()> {
        let Some(observed) = entry.deployments.get(name) else {
            return Ok(());
        };
        let seen = Preconditions {
            uid: observed.metadata.uid.clone(),
            resource_version: observed.metadata.resource_version.clone(),
        };
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = DeleteParams {
            preconditions: Some(seen),
            ..DeleteParams::background()
        };
        match api.delete(name, &params).await {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    async fn apply<K>(
        &self,
        key: &FunctionKey,
        observed: Option<&K>,
        wanted: &Value,
    ) -> kube::Result<Outcome>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let place = format!("{}/{}/{name}", K::kind(&()), key.namespace);
        let hash = hash(wanted);
        let Some(observed) = observed else {
            return self.create::<K>(key, name, wanted).await;
        };
        let there = (hash, version(observed.meta()));
        if self.matched.lock().get(&place) == Some(&there) {
            return Ok(Outcome::Unchanged);
        }
        // An object that cannot be written as JSON is applied, and that tells why.
        if serde_json::to_value(observed).is_ok_and(|observed| covers(wanted, &observed)) {
            self.matched.lock().insert(place, there);
            return Ok(Outcome::Unchanged);
        }
        let object: K = self.patch(key, wanted).await?;
        self.matched
            .lock()
            .insert(place, (hash, version(object.meta())));
        Ok(Outcome::Restored)
    }

    /// Creates an object, and never takes over one that is there already: an apply would.
    async fn create<K>(
        &self,
        key: &FunctionKey,
        name: &str,
        wanted: &Value,
    ) -> kube::Result<Outcome>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let object: K = serde_json::from_value(wanted.clone()).map_err(kube::Error::SerdeError)?;
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER_SHAPE.into()),
            ..PostParams::default()
        };
        match api.create(&params, &object).await {
            Ok(_) => return Ok(Outcome::Created),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(error),
        }
        // Ours, if the watch is only late.
        let uid = wanted["metadata"]["ownerReferences"][0]["uid"].as_str();
        let there = api.get_metadata(name).await?;
        let owners = there.metadata.owner_references.iter().flatten();
        let ours = owners
            .into_iter()
            .any(|owner| Some(owner.uid.as_str()) == uid);
        Ok(if ours {
            Outcome::Unchanged
        } else {
            Outcome::Foreign
        })
    }

    async fn patch<K>(&self, key: &FunctionKey, wanted: &Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        // Forced: these objects are ours, and what somebody else set on our fields is put back.
        api.patch(
            name,
            &PatchParams::apply(FIELD_MANAGER_SHAPE).force(),
            &Patch::Apply(wanted),
        )
        .await
    }

    /// Makes the scaler own the count. Not forced: a count that has changed since it was seen must not be put back.
    async fn claim(&self, key: &FunctionKey, name: &str, replicas: i32) -> kube::Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let claim = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": replicas}});
        let params = PatchParams::apply(FIELD_MANAGER_SCALE);
        match api.patch(name, &params, &Patch::Apply(claim)).await {
            // The scaler was faster, and owns the count by its own write.
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Forgets what was applied for a Function that is gone.
    pub fn forget(&self, key: &FunctionKey) {
        let (service, slice) = (format!("Service/{key}"), format!("EndpointSlice/{key}"));
        let deployments = format!("Deployment/{key}-");
        self.matched.lock().retain(|place, _| {
            *place != service && *place != slice && !place.starts_with(&deployments)
        });
    }
}

fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    // A map of `Value` is sorted, so that equal values hash alike.
    value.hash(&mut hasher);
    hasher.finish()
}

/// What changes when the object's spec or metadata does. Where there is a generation it stands for the spec, since the resource version
/// changes with the status too; labels and annotations have none.
fn version(meta: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    meta.uid.hash(&mut hasher);
    match meta.generation {
        Some(generation) => {
            generation.hash(&mut hasher);
            meta.labels.hash(&mut hasher);
            meta.annotations.hash(&mut hasher);
            let owners = meta.owner_references.iter().flatten();
            owners.for_each(|owner| owner.uid.hash(&mut hasher));
        }
        None => meta.resource_version.hash(&mut hasher),
    }
    hasher.finish()
}

/// Whether `there` has everything that is `wanted`; what it has besides (defaults, others' fields) does not matter. Lists must be of one length.
fn covers(wanted: &Value, there: &Value) -> bool {
    match (wanted, there) {
        (Value::Object(wanted), Value::Object(there)) => {
            wanted.iter().all(|(key, value)| match there.get(key) {
                Some(there) => covers(value, there),
                None => is_empty(value),
            })
        }
        (Value::Array(wanted), Value::Array(there)) => {
            wanted.len() == there.len()
                && wanted
                    .iter()
                    .zip(there)
                    .all(|(wanted, there)| covers(wanted, there))
        }
        (wanted, there) => wanted == there,
    }
}

/// Kubernetes leaves out what is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_ignores_what_others_add_but_not_what_they_change() {
        let wanted = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"list": [{"x": 1}], "endpoints": []}});
        let there = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"list": [{"x": 1, "y": 2}], "more": 3}});
        assert!(covers(&wanted, &there));
        let changed = json!({"metadata": {"labels": {"a": "2"}}, "spec": {"list": [{"x": 1}]}});
        assert!(!covers(&wanted, &changed));
        let longer =
            json!({"metadata": {"labels": {"a": "1"}}, "spec": {"list": [{"x": 1}, {"x": 2}]}});
        assert!(!covers(&wanted, &longer));
    }
}
