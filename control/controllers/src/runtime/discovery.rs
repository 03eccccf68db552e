//! What kinds the API server has, for the controllers that deal with all of them.

use futures::future::try_join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};

/// A kind whose objects can be listed and deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) watchable: bool,
    /// Whether all objects of a namespace can be deleted by one request.
    pub(crate) collection: bool,
}

impl Kind {
    /// The API of this kind where such an object lives.
    pub(crate) fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }

    /// "pods", or with a group "deployments.apps".
    pub(crate) fn name(&self) -> String {
        match self.resource.group.as_str() {
            "" => self.resource.plural.clone(),
            group => format!("{}.{group}", self.resource.plural),
        }
    }
}

/// All kinds that can be listed and deleted, each in its group's preferred version.
pub(crate) async fn kinds(client: &Client) -> Result<Vec<Kind>, kube::Error> {
    let groups = client.list_api_groups().await?.groups;
    let versions = groups.into_iter().filter_map(|group| {
        let preferred = group
            .preferred_version
            .or_else(|| group.versions.into_iter().next())?;
        Some((group.name, preferred.version, preferred.group_version))
    });
    let lists = versions.map(|(group, version, group_version)| async move {
        let list = client.list_api_group_resources(&group_version).await?;
        Ok::<_, kube::Error>((group, version, list.resources))
    });
    let core = client.list_core_api_resources("v1").await?.resources;
    let mut all = try_join_all(lists).await?;
    all.insert(0, (String::new(), "v1".to_owned(), core));
    let kinds = all.into_iter().flat_map(|(group, version, resources)| {
        resources
            .into_iter()
            .filter_map(move |resource| kind(&group, &version, resource))
    });
    Ok(kinds.collect())
}

fn kind(group: &str, version: &str, resource: APIResource) -> Option<Kind> {
    let can = |verb: &str| resource.verbs.iter().any(|known| known == verb);
    if resource.name.contains('/') || !can("list") || !can("delete") {
        return None;
    }
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(Kind {
        namespaced: resource.namespaced,
        watchable: can("watch"),
        collection: can("deletecollection"),
        resource: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: resource.kind,
            plural: resource.name,
        },
    })
}
