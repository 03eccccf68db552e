//! Direct server return: how the backends of this node are found.

use dataplane_ebpf::abi::BackendKey;
use model::Event;
use proxy::maps::{Fake, Maps};

use crate::daemon::{Daemon, LATER, installed, sizes};
use crate::scenario;

#[test]
fn backends_here_that_answer_clients_themselves_are_found_by_their_addresses() {
    let objects = scenario("algorithm");
    let mut daemon = installed(&objects);
    let found = |daemon: &Daemon| -> Vec<String> {
        let maps = daemon.reconciler.tables().maps();
        let text = |(key, id): &(BackendKey, u32)| {
            let name = maps
                .names()
                .unwrap()
                .into_iter()
                .find(|(id, _)| *id == key.service);
            let backend = maps.backend(*id).unwrap();
            assert_eq!((key.address, key.port), (backend.address, backend.port));
            format!("{} {}:{}", name.unwrap().1.text(), key.address, key.port)
        };
        maps.local_backends().unwrap().iter().map(text).collect()
    };
    let expected = ["shop/direct:http 10.244.0.2:8080"];
    assert_eq!(found(&daemon), expected);
    daemon = daemon.restart();
    daemon.see_all(&objects);
    assert_eq!(found(&daemon), expected);
    let mut by_this_node = objects.services[1].clone();
    by_this_node.forwarding = None;
    daemon.see(Event::Service(by_this_node));
    assert_eq!(found(&daemon), [""; 0]);
    daemon.see(Event::Service(objects.services[1].clone()));
    assert_eq!(found(&daemon), expected);
    daemon.see(Event::Slices(Vec::new()));
    assert_eq!(found(&daemon), [""; 0]);
}

#[test]
fn a_service_whose_backends_cannot_answer_clients_themselves_is_there_all_the_same() {
    let objects = scenario("algorithm");
    let mut daemon = Daemon::start(Fake::new(sizes()));
    daemon.reconciler.maps_mut().local_backends_room = 0;
    daemon.see_all(&objects);
    assert_eq!(daemon.dump(), installed(&objects).dump());
    let maps = daemon.reconciler.tables().maps();
    assert_eq!(maps.local_backends().unwrap(), []);
    let full = daemon.reconciler.tables_mut().take_full();
    assert_eq!(full, Some("LOCAL_BACKENDS"));
    daemon.now += LATER;
    daemon.reconciler.round(daemon.now);
    let notes = daemon.reconciler.take_news().notes;
    assert!(notes[0].message.ends_with("LOCAL_BACKENDS is full"));

    daemon.reconciler.maps_mut().local_backends_room = 1;
    daemon.settle();
    let maps = daemon.reconciler.tables().maps();
    assert_eq!(maps.local_backends().unwrap().len(), 1);
    assert_eq!(daemon.reconciler.waiting(), 0);
}
