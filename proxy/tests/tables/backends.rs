//! Backends: which endpoints they are, and when connections lose them.

use dataplane_ebpf::abi::Backend;
use model::Event;
use proxy::maps::Maps;
use proxy::tables::Retired;

use crate::daemon::{Daemon, installed, parse, service};

#[test]
fn an_endpoint_that_moves_from_one_slice_to_another_is_not_touched() {
    let (first, second) = ("{addresses: [10.244.1.1]}", "{addresses: [10.244.1.2]}");
    let both = format!("{first}, {second}");
    let mut daemon = installed(&parse(&service(1, 0)));
    daemon.see(Event::SliceGone(model::ObjectName::new("d", "s1")));
    daemon.see(Event::Slice(slice_of_first("a", &both)));
    let (text, writes) = (daemon.dump(), daemon.writes());
    assert!(
        text.contains("cluster=10.244.1.1:80,10.244.1.2:80"),
        "{text}"
    );
    daemon.see(Event::Slice(slice_of_first("b", second)));
    daemon.see(Event::Slice(slice_of_first("a", first)));
    daemon.see(Event::Slice(slice_of_first("b", &both)));
    daemon.see(Event::SliceGone(model::ObjectName::new("d", "a")));
    assert_eq!((daemon.dump(), daemon.writes()), (text, writes));
}

#[test]
fn connections_keep_their_backend_while_its_endpoint_is_there_whatever_its_state() {
    let mut daemon = installed(&parse(&service(1, 2)));
    let before = backend_ids(&daemon);
    for state in [
        "{ready: false, serving: false}",
        "{ready: false, serving: true, terminating: true}",
        "{ready: false, serving: false, terminating: true}",
    ] {
        let first = format!("{{addresses: [10.244.1.1], conditions: {state}}}");
        let endpoints = format!("{first}, {{addresses: [10.244.1.2]}}");
        daemon.see(Event::Slice(slice_of_first("s1", &endpoints)));
        daemon.settle();
        assert_eq!(backend_ids(&daemon), before, "{state}");
    }
}

#[test]
fn an_endpoint_whose_port_changes_is_another_backend() {
    let objects = parse(&service(1, 1));
    let mut daemon = installed(&objects);
    let (address, id, generation) = backend_ids(&daemon).remove(0);
    assert_eq!(address, "10.244.1.1:80");
    let mut slice = objects.slices[0].clone();
    slice.ports[0].port = 8080.try_into().unwrap();
    daemon.see(Event::Slice(slice));
    let now = backend_ids(&daemon);
    let old = now.iter().find(|(_, other, _)| *other == id).unwrap();
    assert!(old.2 > generation, "connections to it are told: {now:?}");
    let is_new = |row: &(String, u32, u32)| row.0 == "10.244.1.1:8080" && row.1 != id;
    assert!(now.iter().any(is_new), "{now:?}");
}

#[test]
fn what_connected_udp_sockets_got_is_reported_when_it_goes_or_stops_serving_while_others_serve() {
    let mut objects = parse(&service(1, 2));
    let mut daemon = installed(&objects);
    for id in 0..2 {
        daemon.reconciler.maps_mut().udp_connected.insert(id);
    }
    let retired = |daemon: &mut Daemon| -> Vec<String> {
        let retired = daemon.reconciler.tables_mut().take_retired();
        let text = |retired: Retired| format!("{}:{}", retired.address, retired.port);
        retired.into_iter().map(text).collect()
    };
    let mut set_state = |endpoint: usize, serves: bool| {
        let endpoint = &mut objects.slices[0].endpoints[endpoint];
        (endpoint.ready, endpoint.serving) = (serves, serves);
        daemon.see(Event::Slice(objects.slices[0].clone()));
        retired(&mut daemon)
    };
    assert_eq!(set_state(0, false), ["10.244.1.1:80"]);
    // The last one that serves: there is no better one.
    assert_eq!(set_state(1, false), [""; 0]);
    assert_eq!(set_state(1, true), [""; 0]);
    // Once when it goes, and once more when its id is free, for a socket that got it at the last moment.
    daemon.see(Event::Services(Vec::new()));
    assert_eq!(retired(&mut daemon).len(), 2);
    daemon.settle();
    assert_eq!(retired(&mut daemon).len(), 2);
}

/// The slice called `name` of the first Service, with these endpoints.
fn slice_of_first(name: &str, endpoints: &str) -> model::Slice {
    let text = service(1, 0).replace("endpoints: []", &format!("endpoints: [{endpoints}]"));
    let mut slice = parse(&text).slices.remove(0);
    slice.name = model::ObjectName::new("d", name);
    slice
}

/// All backends in use: address and port, id, and generation.
fn backend_ids(daemon: &Daemon) -> Vec<(String, u32, u32)> {
    let backends = daemon.reconciler.tables().maps().backends().unwrap();
    let row = |(id, backend): (u32, Backend)| {
        let address = format!("{}:{}", backend.address, backend.port);
        (address, id, backend.generation)
    };
    backends.into_iter().map(row).collect()
}
