//! The maps, declared. Their layouts and rules are in [`dataplane_ebpf::abi`].

use super::work::Work;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use dataplane_ebpf::abi::{
    Affinity, AffinityKey, Backend, BackendKey, Connection, DropRecord, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, Mac, Name, Node, NodeAddress, NodePortKey, Peer, Service, SocketKey,
    Stats, maps,
};
use dataplane_ebpf::addr::Addr;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

#[map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(maps::FRONTENDS_SIZE, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static NODEPORTS: HashMap<NodePortKey, Frontend> =
    HashMap::with_max_entries(maps::NODEPORTS_SIZE, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static NODE_ADDRESSES: HashMap<Addr, NodeAddress> =
    HashMap::with_max_entries(maps::NODE_ADDRESSES_SIZE, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static SERVICES: Array<Service> =
    Array::with_max_entries(maps::SERVICES_SIZE, BPF_F_MMAPABLE);

#[map]
pub(crate) static SLOTS: Array<u32> = Array::with_max_entries(maps::SLOTS_SIZE, BPF_F_MMAPABLE);

#[map]
pub(crate) static BACKENDS: Array<Backend> =
    Array::with_max_entries(maps::BACKENDS_SIZE, BPF_F_MMAPABLE);

#[map]
pub(crate) static NODE: Array<Node> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static CONNTRACK: LruHashMap<Flow, Connection> =
    LruHashMap::with_max_entries(maps::CONNTRACK_SIZE, 0);

#[map]
pub(crate) static SOCKETS: LruHashMap<SocketKey, Peer> =
    LruHashMap::with_max_entries(maps::SOCKETS_SIZE, 0);

#[btf_map]
pub(crate) static CONNECTED: SkStorage<Peer> = SkStorage::new();

#[map]
pub(crate) static STATS: PerCpuArray<Stats> = PerCpuArray::with_max_entries(maps::SERVICES_SIZE, 0);

#[map]
pub(crate) static DROPS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Drop::ALL.len() as u32, 0);

#[map]
pub(crate) static RECENT_DROPS: PerCpuArray<DropRecord> =
    PerCpuArray::with_max_entries(maps::RECENT_DROPS_SIZE, 0);

/// The number of this CPU's next record. Not part of what kernel and daemon agree on: records have times.
#[map]
pub(crate) static NEXT_DROP: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// When this CPU's next ICMP error is due. Not part of what kernel and daemon agree on, either.
#[map]
pub(crate) static NEXT_ANSWER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The key's data is [`SourceRange`](dataplane_ebpf::abi::SourceRange) without its `bits`.
#[map]
pub(crate) static SOURCE_RANGES: LpmTrie<(u32, Addr), u32> =
    LpmTrie::with_max_entries(maps::SOURCE_RANGES_SIZE, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity> =
    LruHashMap::with_max_entries(maps::AFFINITY_SIZE, 0);

#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(maps::FRAGMENTS_SIZE, 0);

#[map]
pub(crate) static UDP_CONNECTED: Array<u32> =
    Array::with_max_entries(maps::BACKENDS_SIZE, BPF_F_MMAPABLE);

#[map]
pub(crate) static LOCAL_BACKENDS: HashMap<BackendKey, u32> =
    HashMap::with_max_entries(maps::LOCAL_BACKENDS_SIZE, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static XDP_DEVICES: HashMap<u32, Mac> =
    HashMap::with_max_entries(maps::XDP_DEVICES_SIZE, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static ADDRESS_FILTER: Array<[u8; 8]> =
    Array::with_max_entries(maps::ADDRESS_FILTER_SIZE, BPF_F_MMAPABLE);

#[map]
pub(crate) static NAMES: HashMap<u32, Name> =
    HashMap::with_max_entries(maps::SERVICES_SIZE, BPF_F_NO_PREALLOC);

/// Not part of what kernel and daemon agree on: it means nothing between two packets.
#[map]
pub(crate) static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);
