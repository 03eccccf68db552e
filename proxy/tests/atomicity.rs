//! Invariant 7: a reader in the kernel sees a Service's old backends or its new ones, never a mix, never none in between.
//!
//! One thread changes three Services as fast as the daemon can, by events as they come from the API: one whose endpoints
//! are all replaced, one whose endpoints take turns in being ready, and one whose port changes its name, so that its
//! address passes to another service id. Meanwhile other threads send packets through the program of the uplinks, and
//! connect sockets under the hooks. A server's address tells in which change it was made, so each reader knows exactly
//! whom it may have reached. Needs root; runs in a network namespace and a cgroup of its own.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod node;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use model::{
    Endpoint, Event, Family, ObjectName, Protocol, Service, ServicePort, Slice, SlicePort,
};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use node::{Daemon, Place};
use proxy::devices::Devices;
use proxy::features::Features;
use proxy::maps::KernelMaps;
use proxy::reconcile::Reconciler;

/// How long readers and writer run against each other, if that is enough for them to have met often.
const DURATION: Duration = Duration::from_secs(3);
const LEAST_CHANGES: u32 = 500;
const LEAST_READS: u64 = 1000;
/// No machine is that slow.
const PATIENCE: Duration = Duration::from_secs(300);

/// Each of these ports is served at all addresses of 10.128.0.0/9, which are this machine's.
const FIRST_PORT: u16 = 8000;
const PORTS: u32 = 8;

/// Endpoints of the Service that changes their readiness; half of them are ready after each change.
const STEADY: u32 = 8;
/// Connections to it that stay open meanwhile.
const KEPT: u16 = 64;

/// A Service, by what changes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changed {
    Endpoints,
    Readiness,
    Name,
}

const ALL: [Changed; 3] = [Changed::Endpoints, Changed::Readiness, Changed::Name];

impl Changed {
    fn address(self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10 + self as u8), 80)
    }

    /// The servers of the ready endpoints after `change`.
    fn servers(self, change: u32) -> Vec<SocketAddrV4> {
        match self {
            Self::Endpoints => (0..1 + change % 4).map(|m| server(change, m)).collect(),
            Self::Readiness => (0..STEADY)
                .filter(|member| is_ready(change, *member))
                .map(|member| server(0, member))
                .collect(),
            Self::Name => vec![server(0, 0)],
        }
    }

    /// What the API says after `change`.
    fn events(self, change: u32) -> [Event; 2] {
        let even = change.is_multiple_of(2);
        let port = if self == Self::Name && even {
            "even"
        } else {
            "odd"
        };
        let endpoints = match self {
            Self::Readiness => (0..STEADY)
                .map(|member| endpoint(server(0, member), is_ready(change, member)))
                .collect(),
            _ => self
                .servers(change)
                .into_iter()
                .map(|s| endpoint(s, true))
                .collect(),
        };
        let target = self.servers(change)[0].port();
        let name = ObjectName::new("default", format!("{self:?}").to_lowercase());
        [
            Event::Service(service(name.clone(), self.address(), port)),
            Event::Slice(Slice {
                triggered: None,
                name: name.clone(),
                service: name,
                family: Family::V4,
                ports: vec![SlicePort {
                    name: port.into(),
                    protocol: Protocol::Tcp,
                    port: target.try_into().unwrap(),
                }],
                endpoints,
            }),
        ]
    }
}

/// A server that came with `change`. All of one change have one port, which does not follow from the address: half a
/// server of one change and half of another make none.
fn server(change: u32, member: u32) -> SocketAddrV4 {
    let port = (change.wrapping_mul(0x9e37_79b9) >> 16) % PORTS;
    SocketAddrV4::new(
        Ipv4Addr::from_bits(0x0a80_0000 + change * STEADY + member),
        FIRST_PORT + port as u16,
    )
}

fn is_ready(change: u32, member: u32) -> bool {
    (member < STEADY / 2) == change.is_multiple_of(2)
}

fn endpoint(server: SocketAddrV4, ready: bool) -> Endpoint {
    Endpoint {
        ip: (*server.ip()).into(),
        ready,
        serving: ready,
        terminating: false,
        node: Some("here".into()),
        hints: None,
    }
}

fn service(name: ObjectName, address: SocketAddrV4, port: &str) -> Service {
    Service {
        cluster_ips: vec![(*address.ip()).into()],
        ports: vec![ServicePort {
            name: port.into(),
            protocol: Protocol::Tcp,
            port: address.port().try_into().unwrap(),
            node_port: None,
            app_protocol: None,
        }],
        ..Service::new(name)
    }
}

/// How far the writer is, for readers to tell what they may see.
#[derive(Default)]
struct Progress {
    begun: AtomicU32,
    done: AtomicU32,
    packets: AtomicU64,
    connections: AtomicU64,
    over: AtomicBool,
}

impl Progress {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Runs `read`, which says whom it reached by `changed`. It must have been one of the servers of some change
    /// between the last that was done before and the last that was begun after.
    fn check(&self, changed: Changed, read: impl FnOnce() -> Result<SocketAddrV4, String>) {
        let done = self.done.load(Ordering::SeqCst);
        let reached = read();
        let begun = self.begun.load(Ordering::SeqCst);
        let allowed = reached.as_ref().is_ok_and(|reached| {
            (done..=begun).any(|change| changed.servers(change).contains(reached))
        });
        assert!(
            allowed,
            "{changed:?}: reached {reached:?} between changes {done} and {begun}; the first has {:?}",
            changed.servers(done)
        );
    }
}

/// Ends the others' loops however this thread's ends.
struct End<'a>(&'a Progress);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// Changes everything again and again.
fn write(reconciler: &mut Reconciler<KernelMaps>, progress: &Progress) {
    let _end = End(progress);
    let start = Instant::now();
    let goes_on = || {
        let met = progress.done.load(Ordering::Relaxed) >= LEAST_CHANGES
            && progress.packets.load(Ordering::Relaxed) >= LEAST_READS
            && progress.connections.load(Ordering::Relaxed) >= LEAST_READS;
        assert!(
            met || start.elapsed() < PATIENCE,
            "too slow to tell anything"
        );
        progress.goes_on() && !(met && start.elapsed() > DURATION)
    };
    for change in (1..).take_while(|_| goes_on()) {
        progress.begun.store(change, Ordering::SeqCst);
        let now = Instant::now();
        for event in ALL.into_iter().flat_map(|changed| changed.events(change)) {
            reconciler.see(event, now);
        }
        assert_eq!(reconciler.round(now).failed, 0);
        progress.done.store(change, Ordering::SeqCst);
    }
    let (changes, took) = (progress.done.load(Ordering::Relaxed), start.elapsed());
    println!(
        "{changes} changes of {} Services in {took:.1?}, read by {} packets and {} connections",
        ALL.len(),
        progress.packets.load(Ordering::Relaxed),
        progress.connections.load(Ordering::Relaxed),
    );
}

// Packets.

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A TCP packet of the client `(host, port)` as it comes by wire. Nobody looks at its checksums here.
fn packet(service: SocketAddrV4, (host, port): (u8, u16), flags: u8) -> [u8; 54] {
    let mut packet = [0; 54];
    packet[12..14].copy_from_slice(&[0x08, 0x00]);
    packet[14..26].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    packet[26..30].copy_from_slice(&[198, 51, 100, host]);
    packet[30..34].copy_from_slice(&service.ip().octets());
    packet[34..36].copy_from_slice(&port.to_be_bytes());
    packet[36..38].copy_from_slice(&service.port().to_be_bytes());
    packet[46..48].copy_from_slice(&[0x50, flags]);
    packet
}

/// Where the program of the uplinks sends `packet`.
fn send(ingress: &SchedClassifier, packet: &[u8; 54]) -> Result<SocketAddrV4, String> {
    let mut out = [0; 128];
    let result = ingress
        .test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })
        .map_err(|error| error.to_string())?;
    // TCX_NEXT and TC_ACT_REDIRECT: the backend is on this node, be it behind the stack or not.
    let verdict = result.return_value as i32;
    if ![-1, 7].contains(&verdict) || out[46..48] != packet[46..48] {
        return Err(format!("verdict {verdict} on {:02x?}", &out[..54]));
    }
    let address: [u8; 4] = out[30..34].try_into().unwrap();
    let port = u16::from_be_bytes([out[36], out[37]]);
    Ok(SocketAddrV4::new(address.into(), port))
}

/// Opens connection after connection by packets of the client `host`, and goes on using some older ones.
fn send_packets(ingress: &SchedClassifier, host: u8, progress: &Progress) {
    let _end = End(progress);
    let steady = Changed::Readiness.address();
    let kept: Vec<SocketAddrV4> = (1..=KEPT)
        .map(|port| send(ingress, &packet(steady, (host, port), SYN)).unwrap())
        .collect();
    let clients = (1024..u16::MAX).cycle().map(|port| (host, port));
    for (client, changed) in clients.zip(ALL.into_iter().cycle()) {
        if !progress.goes_on() {
            break;
        }
        progress.check(changed, || {
            send(ingress, &packet(changed.address(), client, SYN))
        });
        // So that the same client can begin anew, and the table of connections does not overflow.
        send(ingress, &packet(changed.address(), client, RST)).ok();
        let old = 1 + client.1 % KEPT;
        let reached = send(ingress, &packet(steady, (host, old), ACK));
        assert_eq!(reached.as_ref(), Ok(&kept[usize::from(old - 1)]));
        progress.packets.fetch_add(1, Ordering::Relaxed);
    }
}

// Sockets.

/// Answers each connection with the address and port it reached.
fn serve(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let SocketAddr::V4(own) = stream.local_addr().unwrap() else {
                unreachable!("an IPv4 listener")
            };
            // A client that has failed its test is gone.
            stream.write_all(own.to_string().as_bytes()).ok();
        }
    });
}

/// Who answers at `service`.
fn ask(service: SocketAddrV4) -> Result<SocketAddrV4, String> {
    let mut answer = String::new();
    TcpStream::connect_timeout(&service.into(), PATIENCE)
        .and_then(|mut stream| stream.read_to_string(&mut answer))
        .map_err(|error| error.to_string())?;
    answer.parse().map_err(|_| format!("answered {answer:?}"))
}

fn connect(progress: &Progress) {
    let _end = End(progress);
    for changed in ALL.into_iter().cycle().take_while(|_| progress.goes_on()) {
        progress.check(changed, || ask(changed.address()));
        progress.connections.fetch_add(1, Ordering::Relaxed);
    }
}

fn scenario() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    for command in ["link set lo up", "route add local 10.128.0.0/9 dev lo"] {
        let status = Command::new("ip")
            .args(command.split(' '))
            .status()
            .unwrap();
        assert!(status.success(), "ip {command}");
    }
    let place = Place::new(Features::probe());
    (FIRST_PORT..).take(PORTS as usize).for_each(serve);
    let mut daemon = Daemon::start(&place, &Devices::default());
    let lists = [
        Event::Services(Vec::new()),
        Event::Slices(Vec::new()),
        Event::Node(None),
    ];
    let first = ALL.into_iter().flat_map(|changed| changed.events(0));
    daemon.see(lists.into_iter().chain(first));

    let progress = Progress::default();
    let ingress = daemon.dataplane.programs().program("ingress").unwrap();
    let ingress: &SchedClassifier = ingress.try_into().unwrap();
    let reconciler = &mut daemon.reconciler;
    thread::scope(|scope| {
        for host in 1..=2 {
            let progress = &progress;
            scope.spawn(move || send_packets(ingress, host, progress));
            scope.spawn(move || connect(progress));
        }
        write(reconciler, &progress);
    });
}

#[test]
fn readers_see_the_old_backends_or_the_new() {
    if !Uid::effective().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!(
            "skipped: this test needs root, for BPF programs, a network namespace and a cgroup"
        );
        return;
    }
    // The namespace belongs to a thread, and ends with it.
    if let Err(panic) = thread::spawn(scenario).join() {
        std::panic::resume_unwind(panic);
    }
}
