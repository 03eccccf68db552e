//! Addresses of the ServiceCIDRs that no Service has: from when on they are dropped.

use std::time::Duration;

use model::{Event, ServiceCidr, Unserved};
use proxy::maps::{Fake, Maps, Sizes};

use crate::daemon::{Daemon, installed, parse, service, sizes};

#[test]
fn service_cidrs_are_known_once_all_services_are_in_and_across_restarts() {
    let objects = parse(&service(1, 1));
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
fn the_address_of_a_service_is_in_before_unknown_ones_are_dropped() {
    // Each write but the last of the first round may be the last: nowhere are the ranges known without the Service.
    let objects = parse(&service(1, 1));
    let cidr = cidr("kubernetes", &["10.96.0.0/12"]);
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

#[test]
fn unknown_addresses_are_not_dropped_before_what_did_not_fit_is_in_or_never_will_be() {
    let cidr = cidr("kubernetes", &["10.96.0.0/12"]);
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
fn no_address_counts_as_unknown_while_another_proxy_has_services() {
    let objects = parse(&service(1, 1));
    let cidr = cidr("kubernetes", &["10.96.0.0/12"]);
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

fn cidr(name: &str, ranges: &[&str]) -> ServiceCidr {
    ServiceCidr {
        name: model::ObjectName::new("", name),
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
    }
}

/// The ServiceCIDRs that the programs know.
fn known_cidrs(daemon: &Daemon) -> Vec<String> {
    let node = daemon.reconciler.tables().maps().node().unwrap();
    let known = &node.service_cidrs[..node.service_cidr_count as usize];
    let addresses = known.iter().map(|prefix| prefix.address.to_string());
    addresses.collect()
}
