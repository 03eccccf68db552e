//! Session affinity: its settings, and the backends that clients may be held to.

use std::time::Duration;

use dataplane_ebpf::abi::Backend;
use model::{Event, Service};
use proxy::maps::{Maps, Settings};

use crate::daemon::{Daemon, installed, parse, service};
use crate::ids::number_of;

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

/// The settings of the Service at 10.96.0.1, port 80.
fn settings_of_first(daemon: &Daemon) -> Settings {
    let id = number_of(daemon, 1);
    Settings::of(&daemon.reconciler.tables().maps().service(id).unwrap())
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
