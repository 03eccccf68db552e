//! Small families of objects, and what is decided about each.

use super::*;

fn owner(uid: &str, blocking: bool) -> OwnerReference {
    OwnerReference {
        uid: uid.to_owned(),
        block_owner_deletion: Some(blocking),
        ..OwnerReference::default()
    }
}

fn object(uid: &str, owners: &[&str]) -> Object {
    Object {
        kind: 0,
        key: Key::new("a", uid),
        uid: uid.to_owned(),
        resource_version: "1".to_owned(),
        owners: owners.iter().map(|uid| owner(uid, true)).collect(),
        finalizers: Vec::new(),
        deleting: false,
    }
}

fn deleting(object: Object, finalizers: &[&str]) -> Object {
    Object {
        deleting: true,
        finalizers: finalizers.iter().map(|name| (*name).to_owned()).collect(),
        ..object
    }
}

fn graph(objects: &[Object]) -> Graph {
    let mut graph = Graph::default();
    for object in objects {
        graph.set(object.clone());
    }
    graph
}

fn decide(graph: &Graph, uid: &str) -> Verdict {
    graph.decide(uid, &HashSet::new())
}

#[test]
fn an_object_with_a_living_owner_stays() {
    let graph = graph(&[object("owner", &[]), object("child", &["owner"])]);
    assert_eq!(decide(&graph, "owner"), Verdict::Nothing);
    assert_eq!(decide(&graph, "child"), Verdict::Nothing);
}

#[test]
fn an_unknown_owner_is_looked_for_before_anything_is_deleted() {
    let mut graph = Graph::default();
    assert_eq!(graph.set(object("child", &["ghost"])), ["child"]);
    assert_eq!(
        decide(&graph, "child"),
        Verdict::LookUp(vec![owner("ghost", true)])
    );
    assert_eq!(
        graph.decide("child", &HashSet::from(["ghost".to_owned()])),
        Verdict::Nothing
    );
    graph.note_absent("ghost");
    assert_eq!(
        decide(&graph, "child"),
        Verdict::Delete(Propagation::Background)
    );
    graph.set(object("ghost", &[]));
    assert_eq!(decide(&graph, "child"), Verdict::Nothing);
}

#[test]
fn the_end_of_an_owner_concerns_its_dependents_one_generation_at_a_time() {
    let mut graph = graph(&[
        object("d", &[]),
        object("rs", &["d"]),
        object("p1", &["rs"]),
        object("p2", &["rs"]),
    ]);
    assert_eq!(graph.remove("d"), ["rs"]);
    assert_eq!(
        decide(&graph, "rs"),
        Verdict::Delete(Propagation::Background)
    );
    assert_eq!(decide(&graph, "p1"), Verdict::Nothing);
    assert_eq!(graph.remove("rs"), ["p1", "p2"]);
    assert_eq!(
        decide(&graph, "p1"),
        Verdict::Delete(Propagation::Background)
    );
    assert_eq!(graph.remove("never seen"), Vec::<String>::new());
}

#[test]
fn a_second_owner_keeps_an_object_and_the_dead_one_is_struck_off() {
    let mut graph = graph(&[
        object("x", &[]),
        object("y", &[]),
        object("child", &["x", "y"]),
    ]);
    graph.remove("x");
    assert_eq!(
        decide(&graph, "child"),
        Verdict::SetOwners(vec![owner("y", true)])
    );
    graph.set(object("child", &["y"]));
    assert_eq!(decide(&graph, "child"), Verdict::Nothing);
}

#[test]
fn a_foreground_deletion_goes_from_the_leaves_up() {
    let mut graph = graph(&[object("d", &[]), object("rs", &["d"]), object("p", &["rs"])]);
    let concerned = graph.set(deleting(object("d", &[]), &[FOREGROUND]));
    assert_eq!(concerned, ["rs", "d"]);
    assert_eq!(decide(&graph, "d"), Verdict::Nothing);
    assert_eq!(
        decide(&graph, "rs"),
        Verdict::Delete(Propagation::Foreground)
    );
    let concerned = graph.set(deleting(object("rs", &["d"]), &[FOREGROUND]));
    assert!(concerned.contains(&"p".to_owned()));
    assert_eq!(
        decide(&graph, "p"),
        Verdict::Delete(Propagation::Background)
    );
    assert_eq!(graph.remove("p"), ["rs"]);
    assert_eq!(decide(&graph, "rs"), Verdict::Release(FOREGROUND));
    assert_eq!(graph.remove("rs"), ["d"]);
    assert_eq!(decide(&graph, "d"), Verdict::Release(FOREGROUND));
}

#[test]
fn a_dependent_that_does_not_block_is_not_waited_for() {
    let mut child = object("child", &[]);
    child.owners = vec![owner("owner", false)];
    let graph = graph(&[deleting(object("owner", &[]), &[FOREGROUND]), child]);
    assert_eq!(decide(&graph, "owner"), Verdict::Release(FOREGROUND));
    assert_eq!(
        decide(&graph, "child"),
        Verdict::Delete(Propagation::Background)
    );
}

#[test]
fn orphaning_concerns_all_dependents() {
    let mut graph = graph(&[
        object("rs", &[]),
        object("p1", &["rs"]),
        object("p2", &["rs"]),
    ]);
    assert_eq!(graph.set(deleting(object("rs", &[]), &[ORPHAN])), ["rs"]);
    let both = Verdict::OrphanDependents(vec!["p1".to_owned(), "p2".to_owned()]);
    assert_eq!(decide(&graph, "rs"), both);
}

#[test]
fn a_circle_of_waiting_owners_is_broken() {
    let graph = graph(&[
        deleting(object("a", &["c"]), &[FOREGROUND]),
        object("b", &["a"]),
        deleting(object("c", &["b"]), &[FOREGROUND]),
    ]);
    assert_eq!(
        decide(&graph, "b"),
        Verdict::SetOwners(vec![owner("a", false)])
    );
}

#[test]
fn an_object_already_on_its_way_out_is_left_alone() {
    let mut graph = graph(&[
        object("rs", &[]),
        deleting(object("p", &["rs"]), &["example.com/hold"]),
    ]);
    graph.remove("rs");
    assert_eq!(decide(&graph, "p"), Verdict::Nothing);
}

#[test]
fn an_owner_in_another_namespace_is_no_owner() {
    let mut elsewhere = object("owner", &[]);
    elsewhere.key.namespace = "b".to_owned();
    let graph = graph(&[elsewhere, object("child", &["owner"])]);
    assert_eq!(
        decide(&graph, "child"),
        Verdict::Delete(Propagation::Background)
    );
    let mut everywhere = object("node", &[]);
    everywhere.key.namespace = String::new();
    let graph = self::graph(&[everywhere, object("child", &["node"])]);
    assert_eq!(decide(&graph, "child"), Verdict::Nothing);
}

#[test]
fn objects_with_unknown_owners_are_unexplained() {
    let graph = graph(&[
        object("x", &[]),
        object("y", &["x"]),
        object("z", &["x", "ghost"]),
    ]);
    assert_eq!(graph.unexplained(), ["z"]);
}

#[test]
fn a_relist_finds_what_has_gone_meanwhile() {
    let mut graph = graph(&[
        object("gone", &[]),
        object("kept", &[]),
        object("child", &["gone"]),
    ]);
    graph.start_relist(0);
    graph.set(object("kept", &[]));
    graph.set(object("child", &["gone"]));
    assert_eq!(graph.finish_relist(0), ["child"]);
    assert!(graph.get("gone").is_none());
    assert!(graph.get("kept").is_some());
}
