//! The dataplane under test: the real object file in the real kernel, with maps of its own.

use std::io::ErrorKind;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use aya::programs::{
    CgroupSock, CgroupSockAddr, Program, ProgramError, ProgramInfo, SchedClassifier, TcAttachType,
    TestRun as _, TestRunOptions, Xdp, XdpMode, tc,
};
use aya::{Ebpf, EbpfLoader, Pod};
use dataplane_ebpf::abi::{
    Affinity, AffinityKey, Backend, BackendKey, Connection, DropRecord, FilterPlace, Frontend,
    FrontendKey, Kind, Mac, Node, NodeAddress, NodePortKey, Peer, Run, Service, SocketKey,
    SourceRange, Stats, maps,
};
use dataplane_ebpf::addr::{Addr, Family, Port, Protocol};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;
use dataplane_ebpf::{Hook, OBJECT, PROGRAMS};

/// `struct __sk_buff` of a packet by `device`, its eleventh word.
fn context(device: u32) -> [u8; 192] {
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&device.to_ne_bytes());
    context
}

/// A driver program's context: `struct xdp_md` with where the packet begins and ends, and the device's index in its fourth
/// word.
fn driver_context(device: u32, end: u32) -> Vec<u8> {
    [0, end, 0, device, 0, 0].map(u32::to_ne_bytes).concat()
}

/// Every program loaded, nothing attached.
pub(crate) struct Dataplane {
    pub(crate) ebpf: Ebpf,
    slots: u32,
}

/// A prefix of addresses: one of them, and how many bits count.
pub(crate) type Range = (IpAddr, u32);

/// What the trie compares of a [`SourceRange`].
#[repr(C)]
#[derive(Clone, Copy)]
struct RangeData(u32, Addr);

#[expect(unsafe_code, reason = "a trie's key is made of two parts by aya")]
// SAFETY: integers without padding between them.
unsafe impl Pod for RangeData {}

fn range_key(service: u32, (address, length): Range) -> Key<RangeData> {
    let mapped = if address.is_ipv4() { 96 } else { 0 };
    let range = SourceRange::new(service, address.into(), mapped + length);
    Key::new(range.bits, RangeData(range.service, range.address))
}

/// Where a backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Here,
    Elsewhere,
}

/// The generation that every backend of a test begins with.
pub(crate) const GENERATION: u32 = 7;

impl Dataplane {
    /// Loads the programs, with small maps.
    pub(crate) fn load() -> Result<Self> {
        Self::load_with_room_for(16384)
    }

    /// Loads the programs, with small maps, and one of so many entries for connections.
    pub(crate) fn load_with_room_for(connections: u32) -> Result<Self> {
        Self::load_some(connections, |_| true)
    }

    /// Loads the programs for sockets only, which the verifier is done with soon.
    pub(crate) fn load_for_sockets() -> Result<Self> {
        Self::load_some(16384, |hook| {
            matches!(hook, Hook::SocketAddress | Hook::Socket)
        })
    }

    fn load_some(connections: u32, is_wanted: fn(Hook) -> bool) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for (name, size) in [
            (maps::FRONTENDS, 256),
            (maps::SERVICES, 256),
            (maps::STATS, 256),
            (maps::SLOTS, 1024),
            (maps::BACKENDS, 256),
            (maps::CONNTRACK, connections),
            (maps::SOCKETS, 4096),
            (maps::AFFINITY, 4096),
        ] {
            loader.map_max_entries(name, size);
        }
        let ebpf = loader
            .load(OBJECT)
            .context("loading the object file: this test needs CAP_BPF and BTF")?;
        let mut dataplane = Self { ebpf, slots: 0 };
        for program in PROGRAMS {
            if is_wanted(program.hook) {
                dataplane.load_program(program.name, program.hook)?;
            }
        }
        Ok(dataplane)
    }

    fn load_program(&mut self, name: &str, hook: Hook) -> Result<()> {
        let program = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("no program {name}"))?;
        let mut load = || match hook {
            Hook::SocketAddress => Ok(<&mut CgroupSockAddr>::try_from(&mut *program)?.load()?),
            Hook::Socket => Ok(<&mut CgroupSock>::try_from(&mut *program)?.load()?),
            Hook::Ingress | Hook::Egress | Hook::Pod => {
                Ok(<&mut SchedClassifier>::try_from(&mut *program)?.load()?)
            }
            Hook::Xdp => Ok(<&mut Xdp>::try_from(&mut *program)?.load()?),
        };
        let mut loaded: Result<(), ProgramError> = load();
        // A signal, such as a child's end, interrupts the verifier with EAGAIN; on a busy machine one follows
        // the other.
        for _ in 0..50 {
            match loaded {
                Err(ProgramError::LoadError { ref io_error, .. })
                    if io_error.kind() == ErrorKind::WouldBlock =>
                {
                    loaded = load()
                }
                _ => break,
            }
        }
        loaded.with_context(|| format!("the kernel does not accept {name}"))
    }

    /// What the kernel knows about a program.
    pub(crate) fn info(&self, name: &str) -> Result<ProgramInfo> {
        let program = self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))?;
        Ok(program.info()?)
    }

    /// Runs a packet program `repeat` times on `packet` as if it came through the device with index `device`; returns
    /// the verdict, the packet afterwards and the mean time of one run. A driver's program must be attached to the device.
    pub(crate) fn run(
        &self,
        program: &str,
        device: u32,
        packet: &[u8],
        repeat: u32,
    ) -> Result<(i32, Vec<u8>, std::time::Duration)> {
        let end = u32::try_from(packet.len())?;
        let context = match self.ebpf.program(program) {
            Some(Program::Xdp(_)) => driver_context(device, end),
            _ => context(device).to_vec(),
        };
        self.run_in(program, &context, packet, repeat)
    }

    /// The same for a packet that stands for several with as many bytes of data as `segment` says.
    pub(crate) fn run_segmented(
        &self,
        program: &str,
        device: u32,
        packet: &[u8],
        segment: u32,
    ) -> Result<(i32, Vec<u8>)> {
        let mut context = context(device);
        // `gso_segs` and `gso_size`.
        context[164..168].copy_from_slice(&3u32.to_ne_bytes());
        context[176..180].copy_from_slice(&segment.to_ne_bytes());
        let (verdict, out, _) = self.run_in(program, &context, packet, 1)?;
        Ok((verdict, out))
    }

    fn run_in(
        &self,
        program: &str,
        context: &[u8],
        packet: &[u8],
        repeat: u32,
    ) -> Result<(i32, Vec<u8>, std::time::Duration)> {
        let program = self.ebpf.program(program).context("no such program")?;
        let mut out = vec![0; packet.len() + 256];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(context),
            repeat,
            ..TestRunOptions::new()
        };
        let result = match program {
            Program::Xdp(program) => program.test_run(options)?,
            Program::SchedClassifier(program) => program.test_run(options)?,
            _ => anyhow::bail!("no program for packets"),
        };
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value as i32, out, result.duration))
    }

    /// Attaches a program to one side of a device of the calling thread's namespace.
    pub(crate) fn attach(&mut self, name: &str, side: TcAttachType, device: &str) -> Result<()> {
        if SchedClassifier::query_tcx(device, side).is_err() {
            // Before 6.6, programs hang on a queueing discipline. The program of the other side may have brought it.
            tc::qdisc_add_clsact(device).ok();
        }
        let program = self.ebpf.program_mut(name).context("no such program")?;
        <&mut SchedClassifier>::try_from(program)?.attach(device, side)?;
        Ok(())
    }

    /// Attaches the driver's program to a device of the calling thread's namespace, which has the given address.
    pub(crate) fn attach_driver(&mut self, device: &str, mac: [u8; 6]) -> Result<()> {
        let program = self.ebpf.program_mut("driver").context("no such program")?;
        <&mut Xdp>::try_from(program)?.attach(device, XdpMode::Driver)?;
        let index = nix::net::if_::if_nametoindex(device)?;
        self.hash(maps::XDP_DEVICES)?
            .insert(index, Mac::new(mac), 0)?;
        Ok(())
    }

    /// The settings of the node.
    pub(crate) fn set_node(&mut self, node: Node) -> Result<()> {
        self.array(maps::NODE)?.set(0, node, 0)?;
        Ok(())
    }

    /// Lets the programs look at packets to `address`.
    fn let_through(&mut self, address: IpAddr) -> Result<()> {
        let place = FilterPlace::of(address.into());
        let mut filter = self.array::<[u8; 8]>(maps::ADDRESS_FILTER)?;
        let mut entry = filter.get(&place.entry, 0)?;
        entry[place.byte as usize] = 1;
        Ok(filter.set(place.entry, entry, 0)?)
    }

    /// Makes node ports answer at `address`.
    pub(crate) fn add_node_address(&mut self, address: IpAddr, flags: u32) -> Result<()> {
        self.let_through(address)?;
        self.hash(maps::NODE_ADDRESSES)?
            .insert(Addr::from(address), NodeAddress { flags }, 0)?;
        Ok(())
    }

    /// Makes service `id` answer at a cluster IP.
    pub(crate) fn add_cluster_ip(
        &mut self,
        id: u32,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Result<()> {
        self.let_through(address)?;
        let mut frontends = self.hash(maps::FRONTENDS)?;
        let address = Addr::from(address);
        let key = FrontendKey::new(address, Port::new(port), protocol);
        frontends.insert(key, Frontend::new(id, Kind::CLUSTER_IP), 0)?;
        frontends.insert(
            FrontendKey::whole_address(address),
            Frontend::new(0, Kind::ADDRESS),
            0,
        )?;
        Ok(())
    }

    /// Makes service `id` answer at an address that is not a cluster IP.
    pub(crate) fn add_frontend(
        &mut self,
        id: u32,
        kind: Kind,
        (address, port): (IpAddr, u16),
        protocol: Protocol,
    ) -> Result<()> {
        self.let_through(address)?;
        let key = FrontendKey::new(address.into(), Port::new(port), protocol);
        self.hash(maps::FRONTENDS)?
            .insert(key, Frontend::new(id, kind), 0)?;
        Ok(())
    }

    /// Lets the clients of a prefix use a service's load balancer addresses.
    pub(crate) fn add_source_range(&mut self, id: u32, range: Range) -> Result<()> {
        Ok(self.source_ranges()?.insert(&range_key(id, range), 0, 0)?)
    }

    /// Takes a prefix away again.
    pub(crate) fn remove_source_range(&mut self, id: u32, range: Range) -> Result<()> {
        Ok(self.source_ranges()?.remove(&range_key(id, range))?)
    }

    fn source_ranges(&mut self) -> Result<LpmTrie<&mut MapData, RangeData, u32>> {
        let map = self.ebpf.map_mut(maps::SOURCE_RANGES);
        Ok(LpmTrie::try_from(map.context("no such map")?)?)
    }

    /// Makes service `id` answer at a node port of one family.
    pub(crate) fn add_node_port(
        &mut self,
        id: u32,
        family: Family,
        port: u16,
        protocol: Protocol,
    ) -> Result<()> {
        let key = NodePortKey::new(Port::new(port), protocol, family);
        self.hash(maps::NODEPORTS)?
            .insert(key, Frontend::new(id, Kind::NODE_PORT), 0)?;
        Ok(())
    }

    /// Takes a node port of one family away.
    pub(crate) fn remove_node_port(
        &mut self,
        family: Family,
        port: u16,
        protocol: Protocol,
    ) -> Result<()> {
        let mut ports = self.hash::<NodePortKey, Frontend>(maps::NODEPORTS)?;
        ports.remove(&NodePortKey::new(Port::new(port), protocol, family))?;
        Ok(())
    }

    /// Publishes a service.
    pub(crate) fn set_service(
        &mut self,
        id: u32,
        cluster: Run,
        local: Run,
        flags: u32,
    ) -> Result<()> {
        let service = Service {
            cluster,
            local,
            generation: 1,
            flags,
            ..Service::default()
        };
        self.array(maps::SERVICES)?.set(id, service, 0)?;
        Ok(())
    }

    /// Changes a service in place.
    pub(crate) fn change_service(
        &mut self,
        id: u32,
        change: impl FnOnce(&mut Service),
    ) -> Result<()> {
        let mut services = self.array::<Service>(maps::SERVICES)?;
        let mut service = services.get(&id, 0)?;
        change(&mut service);
        services.set(id, service, 0)?;
        Ok(())
    }

    /// Writes a run of backend ids into free slots.
    pub(crate) fn add_run(&mut self, backends: &[u32]) -> Result<Run> {
        let base = self.slots;
        for id in backends {
            let slot = self.slots;
            self.array(maps::SLOTS)?.set(slot, *id, 0)?;
            self.slots += 1;
        }
        Ok(Run::new(base, u32::try_from(backends.len())?))
    }

    /// Writes a serving backend.
    pub(crate) fn set_backend(
        &mut self,
        id: u32,
        (address, port): (IpAddr, u16),
        protocol: Protocol,
        place: Place,
    ) -> Result<()> {
        let local = if place == Place::Here {
            Backend::LOCAL | Backend::IN_LOCAL_RUN
        } else {
            0
        };
        let backend = Backend {
            address: address.into(),
            port: Port::new(port),
            protocol,
            flags: Backend::SERVING | Backend::IN_CLUSTER_RUN | local,
            generation: GENERATION,
            ..Backend::default()
        };
        self.array(maps::BACKENDS)?.set(id, backend, 0)?;
        Ok(())
    }

    /// Makes a backend on this node one that service `id`, to which it belongs from now on, may be told of by other nodes.
    pub(crate) fn add_local_backend(&mut self, id: u32, backend: u32) -> Result<()> {
        self.change_backend(backend, |backend| backend.service = id)?;
        let line = self.array::<Backend>(maps::BACKENDS)?.get(&backend, 0)?;
        self.let_through(line.address.ip())?;
        let key = BackendKey::new(id, line.address, line.port, line.protocol);
        Ok(self.hash(maps::LOCAL_BACKENDS)?.insert(key, backend, 0)?)
    }

    /// The entry of one direction of a connection.
    pub(crate) fn connection(&mut self, flow: &Flow) -> Result<Option<Connection>> {
        match self.hash(maps::CONNTRACK)?.get(flow, 0) {
            Ok(connection) => Ok(Some(connection)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes one direction of a connection look unused for so many moments.
    pub(crate) fn age(&mut self, flow: &Flow, moments: u32) -> Result<()> {
        let mut connections = self.hash::<Flow, Connection>(maps::CONNTRACK)?;
        let mut connection = connections.get(flow, 0)?;
        connection.seen -= moments;
        Ok(connections.insert(flow, connection, 0)?)
    }

    /// Makes one direction of a connection look used by another CPU, whose clock is so many moments ahead.
    pub(crate) fn advance(&mut self, flow: &Flow, moments: u32) -> Result<()> {
        let mut connections = self.hash::<Flow, Connection>(maps::CONNTRACK)?;
        let mut connection = connections.get(flow, 0)?;
        connection.seen += moments;
        Ok(connections.insert(flow, connection, 0)?)
    }

    /// Takes away one direction of a connection, as the kernel does when the table is full.
    pub(crate) fn evict(&mut self, flow: &Flow) -> Result<()> {
        let mut connections = self.hash::<Flow, Connection>(maps::CONNTRACK)?;
        Ok(connections.remove(flow)?)
    }

    /// Takes away one side of a socket's traffic, as the kernel does when the table is full.
    pub(crate) fn evict_peer(&mut self, key: &SocketKey) -> Result<()> {
        let mut sockets = self.hash::<SocketKey, Peer>(maps::SOCKETS)?;
        Ok(sockets.remove(key)?)
    }

    /// The backend that a client is held to.
    pub(crate) fn affinity(&mut self, key: &AffinityKey) -> Result<Option<Affinity>> {
        match self.hash(maps::AFFINITY)?.get(key, 0) {
            Ok(affinity) => Ok(Some(affinity)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a client's last new connection look a number of seconds older.
    pub(crate) fn age_affinity(&mut self, key: &AffinityKey, seconds: u32) -> Result<()> {
        let mut affinities = self.hash::<AffinityKey, Affinity>(maps::AFFINITY)?;
        let mut affinity = affinities.get(key, 0)?;
        affinity.since -= seconds;
        Ok(affinities.insert(key, affinity, 0)?)
    }

    /// Changes a backend in place.
    pub(crate) fn change_backend(
        &mut self,
        id: u32,
        change: impl FnOnce(&mut Backend),
    ) -> Result<()> {
        let mut backends = self.array::<Backend>(maps::BACKENDS)?;
        let mut backend = backends.get(&id, 0)?;
        change(&mut backend);
        backends.set(id, backend, 0)?;
        Ok(())
    }

    /// How often something was dropped, by reason; reasons that never occurred are left out.
    pub(crate) fn drops(&self) -> Result<Vec<(Drop, u64)>> {
        let map = self.ebpf.map(maps::DROPS).context("no such map")?;
        let counts = PerCpuArray::<_, u64>::try_from(map)?;
        let mut found = Vec::new();
        for reason in Drop::ALL {
            let count = counts.get(&(reason as u32), 0)?.iter().sum();
            if count > 0 {
                found.push((reason, count));
            }
        }
        Ok(found)
    }

    /// The records of drops, the oldest first.
    pub(crate) fn recent_drops(&self) -> Result<Vec<DropRecord>> {
        let map = self.ebpf.map(maps::RECENT_DROPS).context("no such map")?;
        let records = PerCpuArray::<_, DropRecord>::try_from(map)?;
        let mut found = Vec::new();
        for index in 0..maps::RECENT_DROPS_SIZE {
            let written = |record: &&DropRecord| record.time != 0;
            found.extend(records.get(&index, 0)?.iter().filter(written));
        }
        found.sort_by_key(|record: &DropRecord| record.time);
        Ok(found)
    }

    /// Whether a UDP socket was connected to a backend.
    pub(crate) fn is_udp_connected(&mut self, id: u32) -> Result<bool> {
        Ok(self.array::<u32>(maps::UDP_CONNECTED)?.get(&id, 0)? != 0)
    }

    /// What a service did.
    pub(crate) fn stats(&self, id: u32) -> Result<Stats> {
        let map = self.ebpf.map(maps::STATS).context("no such map")?;
        let mut total = Stats::default();
        for stats in PerCpuArray::<_, Stats>::try_from(map)?.get(&id, 0)?.iter() {
            total.connections += stats.connections;
            total.packets += stats.packets;
            total.bytes += stats.bytes;
            total.drops += stats.drops;
        }
        Ok(total)
    }

    fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        Ok(Array::try_from(
            self.ebpf
                .map_mut(name)
                .with_context(|| format!("no map {name}"))?,
        )?)
    }

    fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        Ok(HashMap::try_from(
            self.ebpf
                .map_mut(name)
                .with_context(|| format!("no map {name}"))?,
        )?)
    }
}
