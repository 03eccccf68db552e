//! What a cache reports as changed.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;
use crate::object::parse;

fn pod(name: &str, version: &str, owner: Option<&str>) -> Pod {
    let owners: Vec<_> = owner
        .iter()
        .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": uid, "controller": true}))
        .collect();
    parse(
        json!({"metadata": {"name": name, "namespace": "a", "resourceVersion": version, "ownerReferences": owners}}),
    )
}

#[test]
fn a_relist_reports_additions_updates_and_missed_deletions_only() {
    let mut store = Store::default();
    for object in [
        pod("same", "1", None),
        pod("gone", "2", None),
        pod("newer", "3", None),
    ] {
        assert_eq!(store.apply(Event::Apply(object)).len(), 1);
    }
    store.apply(Event::Init);
    for object in [
        pod("same", "1", None),
        pod("newer", "5", None),
        pod("born", "6", None),
    ] {
        assert!(store.apply(Event::InitApply(object)).is_empty());
    }
    let changes = store.apply(Event::InitDone);
    let mut seen: Vec<_> = changes
        .iter()
        .map(|c| (c.object().name_any(), c.old.is_some(), c.new.is_some()))
        .collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            ("born".to_owned(), false, true),
            ("gone".to_owned(), true, false),
            ("newer".to_owned(), true, true)
        ]
    );
}

#[test]
fn answers_to_writes_come_first_and_the_watch_catches_up() {
    let mut store = Store::default();
    assert!(
        store.absorb(pod("p", "5", None)).is_none(),
        "it may be gone already"
    );
    store.apply(Event::Apply(pod("p", "5", None)));
    assert!(store.absorb(pod("p", "7", None)).is_some());
    assert!(store.absorb(pod("p", "6", None)).is_none());
    assert!(store.apply(Event::Apply(pod("p", "6", None))).is_empty());
    assert!(store.apply(Event::Apply(pod("p", "7", None))).is_empty());
    assert_eq!(store.apply(Event::Apply(pod("p", "8", None))).len(), 1);
    let mut reborn = pod("p", "3", None);
    reborn.metadata.uid = Some("other".to_owned());
    assert!(store.absorb(reborn).is_none());
    assert_eq!(store.apply(Event::Delete(pod("p", "8", None))).len(), 1);
    assert!(store.get(&Key::new("a", "p")).is_none());
}

#[test]
fn the_owner_index_follows_adoption_release_and_deletion() {
    let mut store = Store::default();
    store.apply(Event::Apply(pod("p", "1", None)));
    assert!(store.owned_by("u").is_empty());
    store.apply(Event::Apply(pod("p", "2", Some("u"))));
    assert_eq!(store.owned_by("u").len(), 1);
    store.apply(Event::Apply(pod("p", "3", Some("v"))));
    assert!(store.owned_by("u").is_empty());
    store.apply(Event::Delete(pod("p", "4", Some("v"))));
    assert!(store.owned_by("v").is_empty());
    assert!(store.owned.is_empty());
}

#[test]
fn a_namespace_listing_stops_at_its_end() {
    let mut store = Store::default();
    store.apply(Event::Apply(pod("p", "1", None)));
    let mut other = pod("q", "2", None);
    other.metadata.namespace = Some("ab".to_owned());
    store.apply(Event::Apply(other));
    assert_eq!(store.namespace("a").count(), 1);
    assert_eq!(store.namespace("ab").count(), 1);
    assert_eq!(store.namespace("b").count(), 0);
}
