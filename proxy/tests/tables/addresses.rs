//! Which Service an address belongs to, whom it is for, and where node ports answer.

use model::Event;
use proxy::maps::Maps;

use crate::daemon::{Daemon, Objects, devices, installed, parse, service};
use crate::ids::number_of;
use crate::scenario;

#[test]
fn an_address_passes_from_one_service_to_another() {
    let objects = scenario("conflict");
    let mut daemon = installed(&objects);
    daemon.see(Event::ServiceGone(objects.services[0].name.clone()));
    daemon.settle();
    let mut second_only = objects.clone();
    second_only.services.remove(0);
    assert_eq!(daemon.dump(), installed(&second_only).dump());
    daemon.see(Event::Service(objects.services[0].clone()));
    daemon.settle();
    assert_eq!(daemon.dump(), installed(&objects).dump());
}

#[test]
fn a_cluster_address_belongs_to_its_service_whoever_else_names_it() {
    let objects = parse(&[service(1, 1), service(2, 1)].concat());
    let mut thief = objects.services[0].clone();
    thief.external_ips.push([10, 96, 0, 2].into());
    let victim = objects.services[1].clone();
    assert!(thief.name < victim.name);
    let mut daemon = installed(&objects);
    daemon.see(Event::Service(thief.clone()));
    assert_eq!(owner_of(&daemon, 2), "d/s2");
    let (text, id) = (daemon.dump(), number_of(&daemon, 2));

    // The other one comes first after a restart too.
    let mut stolen = objects.clone();
    stolen.services[0] = thief.clone();
    let writes = daemon.writes();
    let mut daemon = daemon.restart();
    daemon.see_all(&stolen);
    daemon.settle();
    assert_eq!((daemon.dump(), number_of(&daemon, 2)), (text, id));
    assert_eq!(daemon.writes(), writes);

    // While there is no such Service, the address is as good as any.
    daemon.see(Event::ServiceGone(victim.name.clone()));
    daemon.settle();
    assert_eq!(owner_of(&daemon, 2), "d/s1");
    daemon.see(Event::Service(victim.clone()));
    assert_eq!(owner_of(&daemon, 2), "d/s2");

    // Nor does one that has gone while no daemon ran hold the address for ever.
    let mut daemon = daemon.restart();
    stolen.services.pop();
    daemon.see_all(&stolen);
    daemon.settle();
    assert_eq!(owner_of(&daemon, 2), "d/s1");
    daemon.see(Event::Services(Vec::new()));
    daemon.settle();
    daemon.assert_empty();
}

#[test]
fn ranges_come_before_an_address_is_closed_and_go_after_it_is_open() {
    // That no reader ever finds a closed address without a range is what the maps of tests check at each write.
    let objects = scenario("ranges");
    let mut open = objects.clone();
    for service in &mut open.services {
        service.source_ranges.clear();
    }
    let mut daemon = installed(&open);
    let text = daemon.dump();
    assert!(!text.contains("for="), "{text}");
    daemon.see_all(&objects);
    assert_eq!(daemon.dump(), installed(&objects).dump());
    daemon.see_all(&open);
    assert_eq!(daemon.dump(), text);
}

#[test]
fn node_ports_answer_at_addresses_that_come_and_go() {
    let mut daemon = installed(&Objects::default());
    let addresses = |daemon: &Daemon| -> Vec<String> {
        let all = daemon.reconciler.tables().maps().node_addresses().unwrap();
        all.iter().map(|(address, _)| address.to_string()).collect()
    };
    let all = ["127.0.0.1", "192.168.0.7", "2001:db8::7"];
    assert_eq!(addresses(&daemon), all);
    let mut other = devices();
    other.addresses[1].ip = [192, 168, 0, 9].into();
    other.addresses.pop();
    daemon.reconciler.see_devices(other, daemon.now);
    daemon.reconciler.round(daemon.now);
    assert_eq!(addresses(&daemon), ["127.0.0.1", "192.168.0.9"]);
    let node = daemon.reconciler.tables().maps().node().unwrap();
    assert_eq!(node.source_v4.to_string(), "192.168.0.9");
    assert!(node.source_v6.is_unspecified());
}

/// What the Service at 10.96.0.`number`, port 80, is called.
fn owner_of(daemon: &Daemon, number: u8) -> String {
    let id = number_of(daemon, number);
    let names = daemon.reconciler.tables().maps().names().unwrap();
    let name = names.into_iter().find(|(named, _)| *named == id);
    name.unwrap().1.text().to_owned()
}
