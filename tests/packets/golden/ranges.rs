//! `loadBalancerSourceRanges`: which clients may use a load balancer's address.

use std::net::IpAddr;

use anyhow::Result;
use dataplane_ebpf::abi::{Backend, Kind, Run, Service};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;

use super::Expected::{Dropped, Refused};
use super::Step::{Change, Ingress, Pod};
use super::world::{Addresses, TARGET, backend, cluster_port, ip, node_port, service, v4, v6};
use super::writer::{Endpoint, Writer};
use super::{Case, Step, TCP_AND_UDP, check_all, reaches};
use crate::dataplane::{Dataplane, Range};

#[test]
fn a_load_balancers_address_is_for_clients_in_its_ranges() {
    check_all(cases, &TCP_AND_UDP);
}

#[test]
fn a_flow_that_exists_is_not_asked_again() {
    check_all(existing_flows, &[Protocol::UDP]);
}

/// A load balancer's address, and an external one.
fn addresses(a: Addresses) -> [IpAddr; 2] {
    if a.node.is_ipv4() {
        ["203.0.113.80", "203.0.113.81"].map(ip)
    } else {
        ["2001:db8:113::80", "2001:db8:113::81"].map(ip)
    }
}

/// What the client is in, but neither the router nor a pod.
fn ranges() -> [Range; 2] {
    [(ip("198.51.100.0"), 24), (ip("2001:db8:51::"), 48)]
}

fn cases(w: Writer) -> Vec<Case> {
    let a = w.a;
    let [load_balancer, external] = addresses(a).map(|address| (address, 80));
    let refused = (load_balancer.0, 81);
    let here = (a.here, TARGET);
    let admitted = |from, to| reaches(Ingress, |to| w.open(from, to), to, here);
    let dropped = |from: Endpoint, to| -> Step {
        Ingress(w.open(from, to).bytes(), Dropped(Drop::SourceRange))
    };
    let client = |port| (a.client, port);
    let stranger = |port| (a.router, port);
    let pod = w.open((a.second, 48006), load_balancer);
    vec![
        Case {
            name: "with ranges",
            steps: vec![
                Change(begin),
                admitted(client(48001), load_balancer),
                dropped(stranger(48001), load_balancer),
                admitted(stranger(48002), external),
                admitted(stranger(48003), (a.node, node_port(service::SCRATCH))),
                admitted(
                    stranger(48004),
                    (a.cluster_ip, cluster_port(service::SCRATCH)),
                ),
                Pod(pod.bytes(), Dropped(Drop::SourceRange)),
            ],
        },
        Case {
            name: "a stranger is not even refused",
            steps: vec![
                Change(|d| d.change_service(service::EMPTY, |s| s.flags = Service::SOURCE_RANGES)),
                Ingress(
                    w.open(client(48011), refused).bytes(),
                    Dropped(Drop::SourceRange),
                ),
                Change(|d| {
                    for range in ranges() {
                        d.add_source_range(service::EMPTY, range)?;
                    }
                    Ok(())
                }),
                Ingress(
                    w.open(client(48011), refused).bytes(),
                    Refused(Drop::NoBackend, w.refusal(&w.open(client(48011), refused))),
                ),
                dropped(stranger(48011), refused),
            ],
        },
        Case {
            name: "an existing connection goes on when its client is shut out",
            steps: vec![
                Change(|d| {
                    for range in ranges() {
                        d.remove_source_range(service::SCRATCH, range)?;
                    }
                    Ok(())
                }),
                reaches(Ingress, |to| w.data(client(48001), to), load_balancer, here),
                dropped(client(48021), load_balancer),
            ],
        },
        Case {
            name: "a range of everything, and one address",
            steps: vec![
                Change(|d| {
                    for address in ["0.0.0.0", "::"] {
                        d.add_source_range(service::SCRATCH, (ip(address), 0))?;
                    }
                    Ok(())
                }),
                admitted(client(48031), load_balancer),
                admitted(stranger(48031), load_balancer),
                Change(|d| {
                    for (address, one) in [("0.0.0.0", v4().router), ("::", v6().router)] {
                        d.remove_source_range(service::SCRATCH, (ip(address), 0))?;
                        let length = if one.is_ipv4() { 32 } else { 128 };
                        d.add_source_range(service::SCRATCH, (one, length))?;
                    }
                    Ok(())
                }),
                dropped(client(48032), load_balancer),
                admitted(stranger(48032), load_balancer),
            ],
        },
        Case {
            name: "without ranges",
            steps: vec![
                Change(|d| d.change_service(service::SCRATCH, |s| s.flags = 0)),
                admitted(client(48041), load_balancer),
            ],
        },
    ]
}

fn existing_flows(w: Writer) -> Vec<Case> {
    let a = w.a;
    let [to, _] = addresses(a).map(|address| (address, 80));
    let data = |to| w.data((a.client, 48051), to);
    let reaches = |backend| reaches(Ingress, data, to, (backend, TARGET));
    vec![Case {
        name: "a flow of a client that was shut out keeps its backend, even one that no longer serves",
        steps: vec![
            Change(begin),
            reaches(a.here),
            Change(|d| {
                for range in ranges() {
                    d.remove_source_range(service::SCRATCH, range)?;
                }
                let second = d.add_run(&[backend::SECOND])?;
                d.change_service(service::SCRATCH, |s| s.cluster = second)?;
                d.change_backend(backend::FIRST, |b| b.flags &= !Backend::SERVING)
            }),
            reaches(a.here),
        ],
    }]
}

/// Gives the service with backends and the one without a load balancer's address, the first with ranges.
fn begin(dataplane: &mut Dataplane) -> Result<()> {
    for w in Writer::each(&TCP_AND_UDP) {
        let [load_balancer, external] = addresses(w.a);
        for (id, kind, address) in [
            (service::SCRATCH, Kind::LOAD_BALANCER, (load_balancer, 80)),
            (service::SCRATCH, Kind::EXTERNAL_IP, (external, 80)),
            (service::EMPTY, Kind::LOAD_BALANCER, (load_balancer, 81)),
        ] {
            dataplane.add_frontend(id, kind, address, w.protocol)?;
        }
    }
    for range in ranges() {
        dataplane.add_source_range(service::SCRATCH, range)?;
    }
    let run = dataplane.add_run(&[backend::FIRST])?;
    dataplane.set_service(service::SCRATCH, run, Run::DROP, Service::SOURCE_RANGES)
}
