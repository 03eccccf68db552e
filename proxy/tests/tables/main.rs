//! Objects in, maps out: what is installed for each of the scenarios in `tests/golden`, whatever the order of events,
//! across restarts and failing writes, and that nothing is left when everything is gone. Needs no privilege.
//!
//! With `UPDATE_GOLDEN=1` the expected texts are written instead of compared.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod daemon;
mod health;
mod health_check;
mod histories;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::{Daemon, LATER, Objects, devices, installed, parse, service, sizes};
use dataplane_ebpf::abi::{Backend, BackendKey, FrontendKey, Name};
use dataplane_ebpf::addr::{Port, Protocol};
use model::{Event, Service, ServiceCidr, Unserved};
use proxy::desired::Entry;
use proxy::maps::{Fake, Maps, Sizes};
use proxy::tables::Retired;

fn golden(extension: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().unwrap() == extension)
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> Objects {
    let text = std::fs::read_to_string(path).unwrap();
    parse(&text)
}

/// Runs `check` on every scenario with its expected text.
fn each_scenario(check: impl Fn(&str, &Objects, &str)) {
    for path in golden("yaml") {
        let expected = std::fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        check(
            &path.file_name().unwrap().to_string_lossy(),
            &read(&path),
            &expected,
        );
    }
}

#[test]
fn scenarios_install_what_is_expected() {
    for path in golden("yaml") {
        let text = installed(&read(&path)).dump();
        let expected = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &text).unwrap();
        }
        assert_eq!(
            text,
            std::fs::read_to_string(&expected).unwrap(),
            "{}",
            path.display()
        );
    }
}

#[test]
fn the_order_of_arrival_does_not_matter() {
    each_scenario(|name, objects, expected| {
        let mut slices_first = Daemon::start(Fake::new(sizes()));
        slices_first.see(Event::Node(objects.node.clone()));
        slices_first.see(Event::Slices(objects.slices.clone()));
        slices_first.see(Event::Services(objects.services.clone()));
        slices_first.settle();
        assert_eq!(
            slices_first.dump(),
            expected,
            "{name}, lists the other way round"
        );

        let mut one_by_one = Daemon::start(Fake::new(sizes()));
        one_by_one.see_all(&Objects::default());
        for slice in objects.slices.iter().rev() {
            one_by_one.see(Event::Slice(slice.clone()));
        }
        for service in objects.services.iter().rev() {
            one_by_one.see(Event::Service(service.clone()));
        }
        one_by_one.see(Event::Node(objects.node.clone()));
        one_by_one.settle();
        assert_eq!(
            one_by_one.dump(),
            expected,
            "{name}, one by one from the end"
        );
    });
}

#[test]
fn nothing_is_left_when_everything_is_gone() {
    each_scenario(|_, objects, _| {
        let mut services_first = installed(objects);
        for service in &objects.services {
            services_first.see(Event::ServiceGone(service.name.clone()));
        }
        services_first.settle();
        services_first.assert_empty();

        let mut slices_first = installed(objects);
        for slice in objects.slices.iter().rev() {
            slices_first.see(Event::SliceGone(slice.name.clone()));
        }
        slices_first.see(Event::Services(Vec::new()));
        slices_first.settle();
        slices_first.assert_empty();
    });
}

#[test]
fn a_restarted_daemon_that_sees_the_same_writes_nothing() {
    each_scenario(|name, objects, expected| {
        let before = installed(objects);
        let writes = before.writes();
        let mut after = before.restart();
        assert_eq!(after.dump(), expected, "{name}");
        after.see_all(objects);
        after.settle();
        assert_eq!(after.dump(), expected, "{name}");
        assert_eq!(after.writes(), writes, "{name}");
    });
}

#[test]
fn a_restarted_daemon_removes_what_went_meanwhile_but_not_before_every_list_is_in() {
    each_scenario(|name, objects, expected| {
        let mut daemon = installed(objects).restart();
        daemon.see(Event::Services(Vec::new()));
        daemon.see(Event::Node(None));
        assert_eq!(daemon.dump(), expected, "{name}");
        daemon.see(Event::Slices(Vec::new()));
        daemon.settle();
        daemon.assert_empty();
    });
}

#[test]
fn a_daemon_that_dies_between_two_writes_is_made_up_for() {
    each_scenario(|name, objects, expected| {
        for survived in 0..installed(objects).writes() {
            let mut dying = Daemon::start(Fake::new(sizes()));
            dying.fail(Some(Box::new(move |write| write > survived)));
            dying.see_all(objects);
            dying.fail(None);
            let mut next = dying.restart();
            next.see_all(objects);
            next.settle();
            assert_eq!(
                next.dump(),
                expected,
                "{name}, dead after {survived} writes"
            );
            next.see(Event::Services(Vec::new()));
            next.settle();
            next.assert_empty();
        }
    });
}

#[test]
fn failing_writes_are_repeated_until_they_succeed() {
    each_scenario(|name, objects, expected| {
        for period in 2..7 {
            let mut daemon = Daemon::start(Fake::new(sizes()));
            daemon.fail(Some(Box::new(move |write| write % period == 0)));
            daemon.see_all(objects);
            assert!(daemon.reconciler.behind_since().is_some());
            for _ in 0..200 {
                daemon.now += LATER;
                daemon.reconciler.round(daemon.now);
            }
            daemon.fail(None);
            daemon.settle();
            assert_eq!(
                daemon.dump(),
                expected,
                "{name}, one write in {period} fails"
            );
            assert_eq!(daemon.reconciler.behind_since(), None);

            daemon.fail(Some(Box::new(move |write| write % period == 0)));
            daemon.see(Event::Services(Vec::new()));
            for _ in 0..200 {
                daemon.now += LATER;
                daemon.reconciler.round(daemon.now);
            }
            daemon.fail(None);
            daemon.settle();
            daemon.assert_empty();
        }
    });
}

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
fn an_address_passes_from_one_service_to_another() {
    let path = golden("yaml")
        .into_iter()
        .find(|path| path.ends_with("conflict.yaml"))
        .unwrap();
    let objects = read(&path);
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

/// What the Service at 10.96.0.`number`, port 80, is called.
fn owner_of(daemon: &Daemon, number: u8) -> String {
    let id = number_of(daemon, number);
    let names = daemon.reconciler.tables().maps().names().unwrap();
    let name = names.into_iter().find(|(named, _)| *named == id);
    name.unwrap().1.text().to_owned()
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

/// A Service with a node port or none.
fn exposed(number: u8, node_port: Option<u16>) -> Service {
    let mut objects = parse(&service(number, 0));
    let mut service = objects.services.remove(0);
    service.ports[0].node_port = node_port.map(|port| port.try_into().unwrap());
    service
}

/// The number of the Service at 10.96.0.`number`, port 80.
fn number_of(daemon: &Daemon, number: u8) -> u32 {
    let address: IpAddr = [10, 96, 0, number].into();
    let key = FrontendKey::new(address.into(), Port::new(80), Protocol::TCP);
    let entries = daemon.reconciler.tables().maps().entries().unwrap();
    let found = entries
        .into_iter()
        .find(|(entry, _)| *entry == Entry::Frontend(key));
    found.unwrap().1.service
}

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

/// The settings of the Service at 10.96.0.1, port 80.
fn settings_of_first(daemon: &Daemon) -> proxy::maps::Settings {
    let id = number_of(daemon, 1);
    proxy::maps::Settings::of(&daemon.reconciler.tables().maps().service(id).unwrap())
}

#[test]
fn affinity_that_is_switched_on_begins_anew_and_flows_stay() {
    let mut daemon = installed(&parse(&service(1, 2)));
    let mut change = |seconds: Option<u64>| {
        let affinity = seconds.map(Duration::from_secs);
        let service = parse(&service(1, 2)).services.remove(0);
        daemon.see(Event::Service(Service {
            affinity,
            ..service
        }));
        settings_of_first(&daemon)
    };
    let (off, on) = (change(None), change(Some(60)));
    assert_ne!(on.affinity_generation, off.affinity_generation);
    assert_eq!((off.affinity_seconds, on.affinity_seconds), (0, 60));
    let longer = change(Some(600));
    assert_eq!(longer.affinity_generation, on.affinity_generation);
    let again = [change(None), change(Some(60))][1];
    assert_ne!(again.affinity_generation, on.affinity_generation);
    assert_eq!(again.generation, off.generation);
}

/// The flags of all backends in use, by address.
fn flags(daemon: &Daemon) -> Vec<(String, u8)> {
    let backends = daemon.reconciler.tables().maps().backends().unwrap();
    let mut flags: Vec<(String, u8)> = backends
        .iter()
        .map(|(_, backend)| (backend.address.to_string(), backend.flags))
        .collect();
    flags.sort();
    flags
}

#[test]
fn clients_may_be_held_to_the_backends_of_each_run_and_no_others() {
    let (serving, local) = (Backend::SERVING, Backend::SERVING | Backend::LOCAL);
    let (cluster, here) = (Backend::IN_CLUSTER_RUN, Backend::IN_LOCAL_RUN);
    let mut objects = parse(&service(1, 3));
    let endpoints = &mut objects.slices[0].endpoints;
    endpoints[0].node = Some("here".into());
    endpoints[2].ready = false;
    let mut daemon = installed(&objects);
    let named = |flags: [u8; 3]| {
        let rows = (1..=3u8).map(|number| format!("10.244.1.{number}"));
        rows.zip(flags).collect::<Vec<_>>()
    };
    let expected = named([local | cluster | here, serving | cluster, serving]);
    assert_eq!(flags(&daemon), expected);

    // The one here stops being ready, and the one that was not is.
    objects.slices[0].endpoints[0].ready = false;
    objects.slices[0].endpoints[2].ready = true;
    daemon.see(Event::Slice(objects.slices[0].clone()));
    let expected = named([local, serving | cluster, serving | cluster]);
    assert_eq!(flags(&daemon), expected);
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

#[test]
fn ranges_come_before_an_address_is_closed_and_go_after_it_is_open() {
    // That no reader ever finds a closed address without a range is what the maps of tests check at each write.
    let path = golden("yaml")
        .into_iter()
        .find(|path| path.ends_with("ranges.yaml"))
        .unwrap();
    let objects = read(&path);
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

#[test]
fn unknown_addresses_are_not_dropped_before_what_did_not_fit_is_in_or_never_will_be() {
    let cidr = ServiceCidr {
        name: model::ObjectName::new("", "kubernetes"),
        ranges: vec!["10.96.0.0/12".parse().unwrap()],
    };
    let small = Sizes {
        services: 2,
        ..sizes()
    };
    let start = || {
        let mut daemon = Daemon::start(Fake::new(small));
        daemon.see(Event::ServiceCidrs(vec![cidr.clone()]));
        daemon.see_all(&parse(
            &[service(1, 1), service(2, 1), service(3, 1)].concat(),
        ));
        assert!(!daemon.reconciler.is_steady());
        daemon
    };

    let mut daemon = start();
    // Growth in small steps: each may be too little for one of them.
    for larger in [small, small, small, small, small, small, sizes()] {
        assert!(!daemon.reconciler.is_steady());
        assert_eq!(known_cidrs(&daemon), [""; 0]);
        let maps = daemon.reconciler.tables().maps().copy_to(larger);
        daemon.reconciler.grow(maps, daemon.now);
        daemon.reconciler.round(daemon.now);
    }
    assert!(daemon.reconciler.is_steady());
    daemon.reconciler.round(daemon.now);
    assert_eq!(known_cidrs(&daemon), ["10.96.0.0"]);

    // There is no more room, for whatever reason.
    let mut daemon = start();
    let begin = daemon.now;
    while !daemon.reconciler.is_steady() {
        daemon.now = daemon.reconciler.next_round().unwrap();
        daemon.reconciler.round(daemon.now);
        let took = daemon.now - begin;
        assert!(took < Duration::from_secs(20), "not steady after {took:?}");
    }
    assert!(daemon.now - begin > Duration::from_secs(5));
    assert_eq!(daemon.reconciler.waiting(), 1);
    daemon.reconciler.round(daemon.now);
    assert_eq!(known_cidrs(&daemon), ["10.96.0.0"]);
}

#[test]
fn backends_here_that_answer_clients_themselves_are_found_by_their_addresses() {
    let path = golden("yaml")
        .into_iter()
        .find(|path| path.ends_with("algorithm.yaml"))
        .unwrap();
    let objects = read(&path);
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
    let path = golden("yaml")
        .into_iter()
        .find(|path| path.ends_with("algorithm.yaml"))
        .unwrap();
    let objects = read(&path);
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

/// The slice called `name` of the first Service, with these endpoints.
fn slice_of_first(name: &str, endpoints: &str) -> model::Slice {
    let text = service(1, 0).replace("endpoints: []", &format!("endpoints: [{endpoints}]"));
    let mut slice = parse(&text).slices.remove(0);
    slice.name = model::ObjectName::new("d", name);
    slice
}

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

/// All backends in use: address and port, id, and generation.
fn backend_ids(daemon: &Daemon) -> Vec<(String, u32, u32)> {
    let backends = daemon.reconciler.tables().maps().backends().unwrap();
    let row = |(id, backend): (u32, Backend)| {
        let address = format!("{}:{}", backend.address, backend.port);
        (address, id, backend.generation)
    };
    backends.into_iter().map(row).collect()
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

/// The ServiceCIDRs that the programs know.
fn known_cidrs(daemon: &Daemon) -> Vec<String> {
    let node = daemon.reconciler.tables().maps().node().unwrap();
    let known = &node.service_cidrs[..node.service_cidr_count as usize];
    let addresses = known.iter().map(|prefix| prefix.address.to_string());
    addresses.collect()
}

#[test]
fn service_cidrs_are_known_once_all_services_are_in_and_across_restarts() {
    let objects = parse(&service(1, 1));
    let cidr = |name: &str, ranges: &[&str]| ServiceCidr {
        name: model::ObjectName::new("", name),
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
    };
    let all = Event::ServiceCidrs(vec![cidr("kubernetes", &["10.96.0.0/12", "fd00::/108"])]);
    let mut daemon = Daemon::start(Fake::new(sizes()));
    daemon.see(all);
    daemon.see(Event::Services(objects.services.clone()));
    daemon.see(Event::Node(None));
    assert_eq!(known_cidrs(&daemon), [""; 0]);
    daemon.see(Event::Slices(objects.slices.clone()));
    daemon.settle();
    assert_eq!(known_cidrs(&daemon), ["10.96.0.0", "fd00::"]);

    daemon.see(Event::ServiceCidr(cidr("more", &["10.112.0.0/16"])));
    let more = ["10.96.0.0", "10.112.0.0", "fd00::"];
    assert_eq!(known_cidrs(&daemon), more);
    daemon.see(Event::ServiceCidrGone(model::ObjectName::new("", "more")));
    let known = known_cidrs(&daemon);
    assert_eq!(known, ["10.96.0.0", "fd00::"]);
    // Whoever starts does not know them for a while, which is no reason to forget.
    let mut next = daemon.restart();
    next.see_all(&objects);
    next.settle();
    assert_eq!(known_cidrs(&next), known);
    next.see(Event::ServiceCidrs(Vec::new()));
    assert_eq!(known_cidrs(&next), [""; 0]);
}

#[test]
fn no_address_counts_as_unknown_while_another_proxy_has_services() {
    let objects = parse(&service(1, 1));
    let cidr = ServiceCidr {
        name: model::ObjectName::new("", "kubernetes"),
        ranges: vec!["10.96.0.0/12".parse().unwrap()],
    };
    let mut daemon = installed(&objects);
    daemon.see(Event::ServiceCidrs(vec![cidr]));
    assert_eq!(known_cidrs(&daemon), ["10.96.0.0"]);
    let other = model::ObjectName::new("d", "other");
    for reason in [Unserved::OtherProxy, Unserved::Headless] {
        daemon.see(Event::Unserved(reason, other.clone()));
        assert_eq!(known_cidrs(&daemon), [""; 0], "{reason:?}");
        daemon.see(Event::UnservedGone(reason, other.clone()));
        assert_eq!(known_cidrs(&daemon), ["10.96.0.0"], "{reason:?}");
        daemon.see(Event::UnservedAll(reason, vec![other.clone()]));
        assert_eq!(known_cidrs(&daemon), [""; 0], "{reason:?}");
        daemon.see(Event::UnservedAll(reason, Vec::new()));
    }
}

#[test]
fn the_address_of_a_service_is_in_before_unknown_ones_are_dropped() {
    // Each write but the last of the first round may be the last: nowhere are the ranges known without the Service.
    let objects = parse(&service(1, 1));
    let cidr = ServiceCidr {
        name: model::ObjectName::new("", "kubernetes"),
        ranges: vec!["10.96.0.0/12".parse().unwrap()],
    };
    for survived in 0..40 {
        let mut daemon = Daemon::start(Fake::new(sizes()));
        daemon.fail(Some(Box::new(move |write| write > survived)));
        daemon.see(Event::ServiceCidrs(vec![cidr.clone()]));
        daemon.see_all(&objects);
        daemon.reconciler.round(daemon.now);
        let is_in = daemon
            .dump()
            .contains("cluster-ip TCP 10.96.0.1:80 cluster=10.244.1.1:80");
        assert!(is_in || known_cidrs(&daemon).is_empty(), "after {survived}");
    }
}
