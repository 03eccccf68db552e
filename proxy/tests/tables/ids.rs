//! The ids of Services: who has one, and what is left of the one before.

use std::net::IpAddr;

use dataplane_ebpf::abi::{FrontendKey, Name};
use dataplane_ebpf::addr::{Port, Protocol};
use model::{Event, Service};
use proxy::desired::Entry;
use proxy::maps::{Fake, Maps};

use crate::daemon::{Daemon, Objects, installed, parse, service, sizes};

#[test]
fn a_node_port_that_moved_while_no_daemon_ran_takes_no_service_along() {
    let mut daemon = Daemon::start(Fake::new(sizes()));
    daemon.see_all(&Objects::default());
    daemon.see(Event::Service(exposed(2, Some(30_080))));
    daemon.settle();
    let before = number_of(&daemon, 2);

    let mut next = daemon.restart();
    next.see_all(&Objects {
        services: vec![exposed(1, Some(30_080)), exposed(2, None)],
        ..Objects::default()
    });
    next.settle();
    assert_eq!(number_of(&next, 2), before);
    assert_ne!(number_of(&next, 1), before);
}

#[test]
fn ids_are_named_and_their_next_owner_begins_at_zero() {
    let mut daemon = installed(&parse(&service(1, 1)));
    let id = number_of(&daemon, 1);
    let names = |daemon: &Daemon| -> Vec<(u32, String)> {
        let names = daemon.reconciler.tables().maps().names().unwrap();
        let text = |(id, name): (u32, Name)| (id, name.text().to_owned());
        names.into_iter().map(text).collect()
    };
    assert_eq!(names(&daemon), [(id, "d/s1".to_owned())]);
    let maps = daemon.reconciler.maps_mut();
    maps.counted.insert(id);
    maps.udp_connected.insert(0);

    daemon.see(Event::Services(Vec::new()));
    daemon.settle();
    assert_eq!(names(&daemon), []);
    let other = parse(&service(2, 1).replace("{port: 80}", "{name: http, port: 80}"));
    daemon.see_all(&other);
    assert_eq!(number_of(&daemon, 2), id);
    assert_eq!(names(&daemon), [(id, "d/s2:http".to_owned())]);
    let maps = daemon.reconciler.maps_mut();
    assert!(maps.counted.is_empty() && maps.backends().unwrap().is_empty());
}

#[test]
fn an_address_that_passes_to_another_service_while_no_daemon_runs_takes_on_its_name() {
    let text = service(1, 0);
    let mut daemon = installed(&parse(&text)).restart();
    daemon.see_all(&parse(&text.replace("name: s1", "name: other")));
    let names = daemon.reconciler.tables().maps().names().unwrap();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].1.text(), "d/other");
}

/// The number of the Service at 10.96.0.`number`, port 80.
pub(crate) fn number_of(daemon: &Daemon, number: u8) -> u32 {
    let address: IpAddr = [10, 96, 0, number].into();
    let key = FrontendKey::new(address.into(), Port::new(80), Protocol::TCP);
    let entries = daemon.reconciler.tables().maps().entries().unwrap();
    let found = entries
        .into_iter()
        .find(|(entry, _)| *entry == Entry::Frontend(key));
    found.unwrap().1.service
}

/// A Service with a node port or none.
fn exposed(number: u8, node_port: Option<u16>) -> Service {
    let mut objects = parse(&service(number, 0));
    let mut service = objects.services.remove(0);
    service.ports[0].node_port = node_port.map(|port| port.try_into().unwrap());
    service
}
