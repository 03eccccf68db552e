//! Session affinity: which backend a client's next connection gets.
//!
//! The service that is changed here has one backend in its run, which is then replaced by another: only a client that is
//! held to the first still gets it, as long as it is said to be in the run.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use dataplane_ebpf::abi::{AffinityKey, Backend, Service};
use dataplane_ebpf::addr::Protocol;

use super::Expected::Sent;
use super::Step::{Change, Ingress, Pod};
use super::world::{TARGET, World, backend, cluster_port, node_port, service, v4, v6};
use super::writer::{Endpoint, Writer, forwarded};
use super::{Case, Step, TCP_AND_UDP, check_all, reaches};
use crate::dataplane::Dataplane;
use crate::frame::Frame;

/// Kubernetes' default.
const THREE_HOURS: u32 = 10_800;

#[test]
fn a_client_is_held_to_its_backend() {
    check_all(cases, &TCP_AND_UDP);
}

/// Steps that open connections; each has a client's port of its own.
struct Opening {
    w: Writer,
    from: IpAddr,
    to: Endpoint,
}

impl Opening {
    /// A new connection that `backend`, on this node, gets.
    fn reaches(&self, port: u16, backend: IpAddr) -> Step {
        let open = |to| self.w.open((self.from, port), to);
        reaches(Ingress, open, self.to, (backend, TARGET))
    }
}

fn cases(w: Writer) -> Vec<Case> {
    let a = w.a;
    let opening = |from, to| Opening { w, from, to };
    let scratch = (a.node, node_port(service::SCRATCH));
    let client = opening(a.client, scratch);
    let stranger = opening(a.router, scratch);
    let cluster_ip = opening(a.client, (a.cluster_ip, cluster_port(service::SCRATCH)));
    let other_ip = opening(a.client, (a.other_ip, cluster_port(service::SCRATCH)));
    let policy = opening(a.client, (a.node, node_port(service::POLICY_LOCAL)));
    let remote = (a.node, node_port(service::REMOTE));
    let other_service = opening(a.client, (a.node, node_port(service::LOCAL)));
    let pod = |port, backend| {
        let open = |to| w.open((a.elsewhere, port), to);
        reaches(Pod, open, cluster_ip.to, (backend, TARGET))
    };
    vec![
        Case {
            name: "a client keeps its backend at every address of the service, another client gets its own",
            steps: vec![
                Change(begin),
                client.reaches(47001, a.here),
                Change(replace),
                client.reaches(47002, a.here),
                cluster_ip.reaches(47003, a.here),
                other_ip.reaches(47004, a.here),
                stranger.reaches(47005, a.second),
                client.reaches(47006, a.here),
            ],
        },
        Case {
            name: "each service holds its clients by itself",
            steps: vec![
                Change(begin),
                client.reaches(47_101, a.here),
                Change(give_the_other_service_the_second_backend),
                other_service.reaches(47_102, a.second),
                client.reaches(47_103, a.here),
                other_service.reaches(47_104, a.second),
            ],
        },
        Case {
            name: "a pod whose packets had no socket hook is a client as well",
            steps: vec![
                Change(begin),
                pod(47_111, a.here),
                Change(replace),
                pod(47_112, a.here),
                client.reaches(47_113, a.second),
            ],
        },
        Case {
            name: "a backend that leaves the run is a miss",
            steps: vec![
                Change(begin),
                client.reaches(47011, a.here),
                Change(replace),
                Change(|d| {
                    d.change_backend(backend::FIRST, |b| b.flags &= !Backend::IN_CLUSTER_RUN)
                }),
                client.reaches(47012, a.second),
                Change(|d| {
                    d.change_backend(backend::FIRST, |b| b.flags |= Backend::IN_CLUSTER_RUN)
                }),
                client.reaches(47013, a.second),
            ],
        },
        Case {
            name: "a backend whose id is another's is a miss",
            steps: vec![
                Change(begin),
                client.reaches(47021, a.here),
                Change(replace),
                Change(|d| d.change_backend(backend::FIRST, |b| b.generation += 1)),
                client.reaches(47022, a.second),
            ],
        },
        Case {
            name: "affinity that is switched off holds nobody, and nothing is left of it when it is switched on",
            steps: vec![
                Change(begin),
                client.reaches(47031, a.here),
                Change(replace),
                Change(|d| d.change_service(service::SCRATCH, |s| s.affinity_seconds = 0)),
                client.reaches(47032, a.second),
                Change(switch_on),
                client.reaches(47033, a.second),
                Change(|d| point_to(d, backend::FIRST)),
                client.reaches(47034, a.second),
            ],
        },
        Case {
            name: "a client is not held to a backend that the policy forbids it",
            steps: vec![
                Change(|d| {
                    let elsewhere = d.add_run(&[backend::ELSEWHERE])?;
                    d.change_service(service::POLICY_LOCAL, |s| {
                        s.cluster = elsewhere;
                        s.flags &= !Service::EXTERNAL_LOCAL;
                        s.affinity_seconds = THREE_HOURS;
                    })
                }),
                Ingress(
                    w.open((a.client, 47041), policy.to).bytes(),
                    Sent(forwarded(w.open((a.node, 47041), (a.elsewhere, TARGET)))),
                ),
                Change(|d| {
                    d.change_service(service::POLICY_LOCAL, |s| {
                        s.flags |= Service::EXTERNAL_LOCAL;
                    })
                }),
                policy.reaches(47042, a.here),
            ],
        },
        Case {
            name: "a client is known by its own address, though the backend sees the node's",
            steps: vec![
                Change(|d| d.change_service(service::REMOTE, |s| s.affinity_seconds = THREE_HOURS)),
                Ingress(
                    w.open((a.client, 47051), remote).bytes(),
                    Sent(forwarded(w.open((a.node, 47051), (a.elsewhere, TARGET)))),
                ),
                Change(|d| {
                    let here = d.add_run(&[backend::HERE])?;
                    d.change_service(service::REMOTE, |s| s.cluster = here)
                }),
                Ingress(
                    w.open((a.client, 47052), remote).bytes(),
                    Sent(forwarded(w.open((a.node, 47052), (a.elsewhere, TARGET)))),
                ),
                opening(a.router, remote).reaches(47053, a.here),
            ],
        },
    ]
}

/// On the same terms, and with the same generation.
fn give_the_other_service_the_second_backend(dataplane: &mut Dataplane) -> Result<()> {
    let run = dataplane.add_run(&[backend::SECOND])?;
    let mut generation = 0;
    dataplane.change_service(service::SCRATCH, |s| generation = s.affinity_generation)?;
    dataplane.change_service(service::LOCAL, |s| {
        s.cluster = run;
        s.affinity_seconds = THREE_HOURS;
        s.affinity_generation = generation;
    })
}

/// Gives the service affinity, and the first backend.
fn begin(dataplane: &mut Dataplane) -> Result<()> {
    dataplane.change_backend(backend::FIRST, |b| b.flags |= Backend::IN_CLUSTER_RUN)?;
    point_to(dataplane, backend::FIRST)?;
    switch_on(dataplane)
}

fn replace(dataplane: &mut Dataplane) -> Result<()> {
    point_to(dataplane, backend::SECOND)
}

fn point_to(dataplane: &mut Dataplane, id: u32) -> Result<()> {
    let run = dataplane.add_run(&[id])?;
    dataplane.change_service(service::SCRATCH, |s| s.cluster = run)
}

fn switch_on(dataplane: &mut Dataplane) -> Result<()> {
    dataplane.change_service(service::SCRATCH, |s| {
        s.affinity_seconds = THREE_HOURS;
        s.affinity_generation += 1;
    })
}

/// The time runs from the last new connection, and packets of one that exists do not count.
#[test]
fn affinity_ends_some_time_after_the_last_new_connection() {
    for (mut world, w) in World::each(&TCP_AND_UDP) {
        let a = w.a;
        let key = AffinityKey::address(service::SCRATCH, a.client.into());
        let to = (a.node, node_port(service::SCRATCH));
        let mut run = |step| {
            let case = Case {
                name: "affinity's time",
                steps: vec![step],
            };
            super::check(&mut world, &case).unwrap_or_else(|error| panic!("{error:?}"));
            world.dataplane.affinity(&key).expect("the map can be read")
        };
        let client = Opening {
            w,
            from: a.client,
            to,
        };
        assert_eq!(run(client.reaches(47060, a.here)), None, "it costs nothing");
        run(Change(begin));
        let start = run(client.reaches(47061, a.here)).expect("it is held");
        run(Change(replace));
        let aged = run(Change(|d| age(d, 2))).expect("it is held");
        let data = |to| w.data((a.client, 47061), to);
        let after_data = run(reaches(Ingress, data, to, (a.here, TARGET)));
        assert_eq!(after_data, Some(aged));
        let refreshed = run(client.reaches(47062, a.here)).expect("it is held");
        assert!(refreshed.since >= start.since);
        run(Change(|d| {
            d.change_service(service::SCRATCH, |s| s.affinity_seconds = 1)?;
            age(d, 2)
        }));
        let fresh = run(client.reaches(47063, a.second)).expect("it is held");
        assert_eq!(fresh.backend, backend::SECOND);
    }
}

fn age(dataplane: &mut Dataplane, seconds: u32) -> Result<()> {
    for a in [v4(), v6()] {
        let key = AffinityKey::address(service::SCRATCH, a.client.into());
        if dataplane.affinity(&key)?.is_some() {
            dataplane.age_affinity(&key, seconds)?;
        }
    }
    Ok(())
}

/// A browser opens several connections at once, and two CPUs get them: both must choose the same backend.
#[test]
fn first_connections_at_the_same_time_reach_one_backend() {
    const ROUNDS: u16 = 5000;
    const PATIENCE: Duration = Duration::from_secs(120);
    let a = v4();
    let mut world = World::create(a, Protocol::TCP).expect("a node can be made");
    let run = world.dataplane.add_run(&[backend::FIRST, backend::SECOND]);
    let run = run.expect("maps can be written");
    let changed = switch_on(&mut world.dataplane).and_then(|()| {
        world
            .dataplane
            .change_service(service::SCRATCH, |s| s.cluster = run)
    });
    changed.expect("maps can be written");
    let w = Writer {
        a,
        protocol: Protocol::TCP,
    };
    let to = (a.node, node_port(service::SCRATCH));
    // Spinning, since being woken takes longer than a packet.
    let (arrived, start) = (AtomicU32::new(0), Instant::now());
    let wait_for_the_other = |round: u16| {
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < 2 * (u32::from(round) + 1) {
            assert!(start.elapsed() < PATIENCE, "the other thread failed");
            thread::yield_now();
        }
    };
    let open = |port| {
        world.namespace.run(|| {
            let reached = |round: u16| {
                let [high, low] = round.to_be_bytes();
                let client = IpAddr::from([198, 18, high, low]);
                let packet = w.open((client, port), to).bytes();
                wait_for_the_other(round);
                let run = world.dataplane.run("ingress", world.uplink, &packet, 1);
                let (_, out, _) = run.expect("the program runs");
                Frame::decode(&out).expect("a packet").destination
            };
            (0..ROUNDS).map(reached).collect::<Vec<_>>()
        })
    };
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| open(47_070));
        let other = open(47_071);
        (one.join().expect("no round fails"), other)
    });
    assert_eq!(one, other);
    assert!(one.contains(&a.here) && one.contains(&a.second));
}
