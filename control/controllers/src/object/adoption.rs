//! Which objects belong to a controller: the ones it owns, and orphans its selector matches.
//!
//! An owned object that no longer matches is released, a matching orphan adopted. Objects owned by others are left alone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{controller_of, controller_reference, deleting, name, uid};
use crate::error::{Error, gone_is_fine};

/// What is to be done with a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Keep,
    Adopt,
    Release,
    Ignore,
}

/// Decides about one candidate.
pub(crate) fn claim<O: Resource, K: Resource>(
    owner: &O,
    selector: &Selector,
    candidate: &K,
) -> Claim {
    let matches = candidate
        .meta()
        .labels
        .as_ref()
        .is_some_and(|labels| selector.matches(labels));
    match controller_of(candidate) {
        Some(reference) if reference.uid != uid(owner) => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if deleting(owner) => Claim::Ignore,
        Some(_) => Claim::Release,
        None if !matches || deleting(owner) || deleting(candidate) => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Carries out the claims on all candidates and answers those that now belong to the owner. Before the first adoption the
/// API is asked whether the owner still lives: what a dead owner adopts would be deleted with it.
pub(crate) async fn claim_all<O, K>(
    owners: &Api<O>,
    api: &Api<K>,
    owner: &O,
    selector: &Selector,
    candidates: Vec<Arc<K>>,
) -> Result<Vec<Arc<K>>, Error>
where
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut owned = Vec::with_capacity(candidates.len());
    let mut lives = None;
    for candidate in candidates {
        match claim(owner, selector, &*candidate) {
            Claim::Keep => owned.push(candidate),
            Claim::Adopt => {
                let lives = match lives {
                    Some(known) => known,
                    None => *lives.insert(still_lives(owners, owner).await?),
                };
                if !lives {
                    continue;
                }
                adopt(api, owner, &*candidate).await?;
                owned.push(candidate);
            }
            Claim::Release => release(api, owner, &*candidate).await?,
            Claim::Ignore => {}
        }
    }
    Ok(owned)
}

async fn still_lives<O>(owners: &Api<O>, owner: &O) -> Result<bool, Error>
where
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let live = owners.get_metadata_opt(name(owner)).await?;
    Ok(live.is_some_and(|live| uid(&live) == uid(owner) && !deleting(&live)))
}

/// The uid in the patch makes it fail on a reborn object of the same name.
async fn adopt<O, K>(api: &Api<K>, owner: &O, candidate: &K) -> Result<(), Error>
where
    O: Resource<DynamicType = ()>,
    K: Clone + Resource + DeserializeOwned + std::fmt::Debug,
{
    let reference = controller_reference(owner);
    let patch = json!({"metadata": {"uid": uid(candidate), "ownerReferences": [reference]}});
    api.patch(
        name(candidate),
        &PatchParams::default(),
        &Patch::Strategic(patch),
    )
    .await?;
    Ok(())
}

async fn release<O, K>(api: &Api<K>, owner: &O, candidate: &K) -> Result<(), Error>
where
    O: Resource<DynamicType = ()>,
    K: Clone + Resource + DeserializeOwned + std::fmt::Debug,
{
    let owners = json!([{"$patch": "delete", "uid": uid(owner)}]);
    let patch = json!({"metadata": {"uid": uid(candidate), "ownerReferences": owners}});
    gone_is_fine(
        api.patch(
            name(candidate),
            &PatchParams::default(),
            &Patch::Strategic(patch),
        )
        .await,
    )?;
    Ok(())
}

/// Whether this pod still counts: neither finished nor on its way out.
pub(crate) fn counts(pod: &Pod) -> bool {
    !deleting(pod) && !super::pod::finished(pod)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;

    use super::super::{parse, selector};
    use super::*;

    #[test]
    fn claims() {
        let owner = |deleting: bool| -> ReplicaSet {
            let deletion = deleting.then_some("2026-01-01T00:00:00Z");
            parse(json!({"metadata": {"uid": "me", "deletionTimestamp": deletion}}))
        };
        let pod = |controller: Option<&str>, app: &str, deleting: bool| -> Pod {
            let owners: Vec<_> = controller
                .iter()
                .map(|uid| json!({"apiVersion": "v1", "kind": "K", "name": "n", "uid": uid, "controller": true}))
                .collect();
            let deletion = deleting.then_some("2026-01-01T00:00:00Z");
            parse(
                json!({"metadata": {"labels": {"app": app}, "ownerReferences": owners, "deletionTimestamp": deletion}}),
            )
        };
        let wanted = selector(&parse(json!({"matchLabels": {"app": "x"}}))).expect("valid");
        for (owner_deleting, controller, app, pod_deleting, expected) in [
            (false, Some("me"), "x", false, Claim::Keep),
            (false, Some("me"), "y", false, Claim::Release),
            (true, Some("me"), "y", false, Claim::Ignore),
            (false, Some("other"), "x", false, Claim::Ignore),
            (false, None, "x", false, Claim::Adopt),
            (false, None, "x", true, Claim::Ignore),
            (true, None, "x", false, Claim::Ignore),
            (false, None, "y", false, Claim::Ignore),
        ] {
            let got = claim(
                &owner(owner_deleting),
                &wanted,
                &pod(controller, app, pod_deleting),
            );
            assert_eq!(
                got, expected,
                "{owner_deleting} {controller:?} {app} {pod_deleting}"
            );
        }
    }
}
