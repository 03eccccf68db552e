//! What does not fit into the maps.

use model::Event;
use proxy::maps::{Fake, Sizes};

use crate::daemon::{Daemon, LATER, installed, parse, service};

#[test]
fn a_service_that_does_not_fit_leaves_its_neighbours_alone_and_comes_in_when_there_is_room() {
    let objects = parse(&[service(1, 3), service(2, 6), service(3, 2)].concat());
    let mut daemon = Daemon::start(Fake::new(Sizes {
        services: 8,
        backends: 8,
        slots: 64,
    }));
    daemon.see_all(&objects);
    daemon.now += LATER;
    daemon.reconciler.round(daemon.now);
    let text = daemon.dump();
    assert!(
        text.contains("10.244.1.3:80") && text.contains("10.244.3.2:80"),
        "{text}"
    );
    assert!(!text.contains("10.96.0.2"), "{text}");
    assert!(daemon.reconciler.next_round().is_some());
    // Nobody is served better by a node that counts as broken.
    assert_eq!(daemon.reconciler.behind_since(), None);

    daemon.see(Event::ServiceGone(objects.services[0].name.clone()));
    daemon.settle();
    let text = daemon.dump();
    assert!(
        text.contains("10.244.2.6:80") && text.contains("10.244.3.2:80"),
        "{text}"
    );
    assert!(!text.contains("10.96.0.1:80"), "{text}");
    assert_eq!(daemon.reconciler.behind_since(), None);
}

#[test]
fn an_update_that_does_not_fit_leaves_the_service_as_it_was_even_after_a_restart() {
    let mut daemon = Daemon::start(Fake::new(Sizes {
        services: 8,
        backends: 8,
        slots: 4,
    }));
    daemon.see_all(&parse(&service(1, 2)));
    daemon.settle();
    let text = daemon.dump();
    assert!(text.contains("10.244.1.2:80"), "{text}");

    let bigger = parse(&service(1, 3));
    daemon.see_all(&bigger);
    assert_eq!(daemon.dump(), text);
    let mut next = daemon.restart();
    next.see_all(&bigger);
    assert_eq!(next.dump(), text);
    assert!(next.reconciler.next_round().is_some());
    next.see_all(&parse(&service(1, 2)));
    next.settle();
    assert_eq!(next.reconciler.tables_mut().take_full(), Some("SLOTS"));
}

#[test]
fn what_did_not_fit_comes_in_when_the_maps_have_grown() {
    let sizes = |factor: u32| Sizes {
        services: 2 * factor,
        backends: 4 * factor,
        slots: 4 * factor,
    };
    let objects = parse(&[service(1, 2), service(2, 2), service(3, 2)].concat());
    let mut daemon = Daemon::start(Fake::new(sizes(1)));
    daemon.see_all(&objects);
    assert!(!daemon.dump().contains("10.96.0.3"));
    assert_eq!(daemon.reconciler.tables_mut().take_full(), Some("SERVICES"));
    let larger = daemon.reconciler.tables().maps().copy_to(sizes(2));
    daemon.reconciler.grow(larger, daemon.now);
    daemon.reconciler.round(daemon.now);
    assert_eq!(daemon.dump(), installed(&objects).dump());
    assert_eq!(daemon.reconciler.tables_mut().take_full(), None);
}
