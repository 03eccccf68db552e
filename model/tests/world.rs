//! The world: what an event changes, and that the order of events does not matter.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use model::{
    Endpoint, Event, Family, Node, ObjectName, Protocol, Service, ServicePort, Slice, SlicePort,
    World,
};
use proptest::prelude::*;

fn name(number: u8) -> ObjectName {
    ObjectName::new("default", format!("s{number}"))
}

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("ports in tests are not 0")
}

fn service(number: u8, version: u16) -> Service {
    Service {
        cluster_ips: vec![IpAddr::V4(Ipv4Addr::new(10, 96, 0, number))],
        ports: vec![service_port(80 + version)],
        ..Service::new(name(number))
    }
}

fn service_port(number: u16) -> ServicePort {
    ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: port(number),
        node_port: None,
        app_protocol: None,
    }
}

fn slice(number: u8, owner: u8, endpoint: u8) -> Slice {
    Slice {
        triggered: None,
        name: ObjectName::new("default", format!("slice-{number}")),
        service: name(owner),
        family: Family::V4,
        ports: vec![SlicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: port(8080),
        }],
        endpoints: vec![Endpoint {
            ip: IpAddr::V4(Ipv4Addr::new(10, 244, 0, endpoint)),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            hints: None,
        }],
    }
}

fn node(zone: &str) -> Event {
    Event::Node(Some(Node {
        name: "here".into(),
        zone: Some(zone.into()),
        internal_ips: Vec::new(),
        leaving: false,
    }))
}

fn changed(names: &[u8]) -> BTreeSet<ObjectName> {
    names.iter().map(|number| name(*number)).collect()
}

fn endpoints(world: &World, owner: u8) -> Vec<String> {
    let port = service_port(80);
    let backends = world.backends(&name(owner), &port, Family::V4);
    backends.map(|b| b.address.to_string()).collect()
}

#[test]
fn an_event_that_says_nothing_new_changes_nothing() {
    let mut world = World::new("here");
    assert_eq!(world.apply(Event::Service(service(1, 0))), changed(&[1]));
    assert_eq!(world.apply(Event::Service(service(1, 0))), changed(&[]));
    assert_eq!(world.apply(Event::Service(service(1, 1))), changed(&[1]));
    assert_eq!(world.apply(Event::Slice(slice(1, 1, 2))), changed(&[1]));
    assert_eq!(world.apply(Event::Slice(slice(1, 1, 2))), changed(&[]));
    assert_eq!(world.apply(Event::SliceGone(name(9))), changed(&[]));
    assert_eq!(world.apply(Event::ServiceGone(name(9))), changed(&[]));
}

#[test]
fn a_full_list_removes_what_it_does_not_name() {
    let mut world = World::new("here");
    for number in 1..=3 {
        world.apply(Event::Service(service(number, 0)));
        world.apply(Event::Slice(slice(number, number, number)));
    }
    let list = vec![service(1, 0), service(2, 1)];
    assert_eq!(world.apply(Event::Services(list)), changed(&[2, 3]));
    let list = vec![slice(1, 1, 1), slice(2, 2, 9)];
    assert_eq!(world.apply(Event::Slices(list)), changed(&[2, 3]));
    assert_eq!(world.services().count(), 2);
    assert_eq!(endpoints(&world, 2), ["10.244.0.9:8080"]);
    assert!(endpoints(&world, 3).is_empty());
}

#[test]
fn a_slice_may_change_its_service() {
    let mut world = World::new("here");
    world.apply(Event::Slice(slice(1, 1, 7)));
    assert_eq!(world.apply(Event::Slice(slice(1, 2, 7))), changed(&[1, 2]));
    assert!(endpoints(&world, 1).is_empty());
    assert_eq!(endpoints(&world, 2), ["10.244.0.7:8080"]);
}

#[test]
fn a_new_zone_changes_every_service_and_anything_else_about_the_node_none() {
    let mut world = World::new("here");
    world.apply(Event::Service(service(1, 0)));
    world.apply(Event::Service(service(2, 0)));
    assert_eq!(world.apply(node("a")), changed(&[1, 2]));
    assert_eq!(world.apply(node("a")), changed(&[]));
    assert_eq!(world.place().zone, Some("a"));
    assert_eq!(world.apply(Event::Node(None)), changed(&[1, 2]));
    assert_eq!(world.place().zone, None);
}

#[test]
fn the_world_is_complete_when_every_source_was_listed() {
    let mut world = World::new("here");
    world.apply(Event::Service(service(1, 0)));
    world.apply(Event::Services(Vec::new()));
    world.apply(Event::Slices(Vec::new()));
    assert!(!world.is_complete());
    world.apply(Event::Node(None));
    assert!(world.is_complete());
}

/// Something that happens to one object. The last event about an object is the truth about it.
#[derive(Debug, Clone)]
enum Step {
    Service(u8, Option<u16>),
    Slice(u8, Option<(u8, u8)>),
}

impl Step {
    fn event(&self) -> Event {
        match *self {
            Self::Service(number, Some(version)) => Event::Service(service(number, version)),
            Self::Service(number, None) => Event::ServiceGone(name(number)),
            Self::Slice(number, Some((owner, ip))) => Event::Slice(slice(number, owner, ip)),
            Self::Slice(number, None) => Event::SliceGone(slice(number, 0, 0).name),
        }
    }

    fn is_about_a_slice(&self) -> bool {
        matches!(self, Self::Slice(..))
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u8..4, proptest::option::of(0u16..3)).prop_map(|(n, v)| Step::Service(n, v)),
        (0u8..6, proptest::option::of((0u8..4, 1u8..9))).prop_map(|(n, s)| Step::Slice(n, s)),
    ];
    proptest::collection::vec(step, 0..40)
}

fn play<'a>(steps: impl IntoIterator<Item = &'a Step>) -> World {
    let mut world = World::new("here");
    for step in steps {
        world.apply(step.event());
    }
    world
}

fn dump(world: &World) -> String {
    let services: Vec<_> = world.services().collect();
    let slices: Vec<Vec<_>> = (0..4).map(|n| world.slices(&name(n)).collect()).collect();
    format!("{services:#?}\n{slices:#?}")
}

proptest! {
    /// Services and slices come from two watches, so they may interleave in any way.
    #[test]
    fn the_order_of_services_against_slices_does_not_matter(steps in steps()) {
        let slices_first = steps.iter().filter(|s| s.is_about_a_slice())
            .chain(steps.iter().filter(|s| !s.is_about_a_slice()));
        prop_assert_eq!(dump(&play(&steps)), dump(&play(slices_first)));
    }

    /// A watch that was cut off and listed anew ends where an uninterrupted one does, and names every service that
    /// differs from before.
    #[test]
    fn a_list_makes_up_for_missed_events(steps in steps(), cut in 0usize..40) {
        let whole = play(&steps);
        let mut world = play(steps.iter().take(cut));
        let before: Vec<String> = (0..4).map(|n| state(&world, n)).collect();
        let mut changed = world.apply(Event::Services(whole.services().cloned().collect()));
        let slices = (0..4).flat_map(|n| whole.slices(&name(n)).cloned().collect::<Vec<_>>());
        changed.append(&mut world.apply(Event::Slices(slices.collect())));
        prop_assert_eq!(dump(&world), dump(&whole));
        for (n, before) in (0u8..4).zip(before) {
            if state(&world, n) != before {
                prop_assert!(changed.contains(&name(n)));
            }
        }
    }
}

fn state(world: &World, number: u8) -> String {
    let slices: Vec<_> = world.slices(&name(number)).collect();
    format!("{:?} {slices:?}", world.service(&name(number)))
}
