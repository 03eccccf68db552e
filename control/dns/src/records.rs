//! The records of the zone: a map from names to what is there, and one from addresses to names.
//!
//! All names of a Service are computed together and replaced together, so a change costs what the one Service has, and
//! nobody reads half of it. Names that exist only because others exist below them (`_tcp.web.default.svc...`) have an entry
//! without data: that is how "no such data" is told from "no such name".

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use hickory_proto::rr::rdata::{CNAME, NS, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData};

use crate::cluster::{Endpoint, ObjectName, Port, Service, Slice};
use crate::zone::{Zone, child};

/// Seconds a record may be kept, and so the longest a client may see a Service's past.
pub(crate) const TTL: u32 = 5;
/// The version of the Kubernetes DNS specification that is served.
const SCHEMA_VERSION: &str = "1.1.0";
/// Every target of a SRV record is as good as any other.
const PRIORITY: u16 = 0;
const WEIGHT: u16 = 100;

/// Everything the zone says.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) zone: Zone,
    names: HashMap<Name, Entry>,
    pointers: HashMap<IpAddr, BTreeSet<Pointer>>,
    /// How many Services with records a namespace has.
    namespaces: HashMap<Name, usize>,
    /// What to take away when a Service changes.
    owned: HashMap<ObjectName, Owned>,
    /// Counts changes.
    serial: u32,
    complete: bool,
}

/// What is known at a name. Empty if there are only names below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Of both families.
    pub(crate) addresses: Vec<IpAddr>,
    /// Everything but addresses.
    pub(crate) other: Vec<RData>,
}

/// A name an address stands for. Those given by people come before those made up from the address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pointer {
    generated: bool,
    name: Name,
}

#[derive(Debug)]
struct Owned {
    namespace: Name,
    names: Vec<Name>,
    pointers: Vec<(IpAddr, Pointer)>,
}

impl Records {
    /// The records of a cluster without Services, served on `addresses`.
    pub(crate) fn new(zone: Zone, addresses: &[IpAddr]) -> Self {
        let fixed = [
            (&zone.apex, Entry::of(RData::NS(NS(zone.server.clone())))),
            (&zone.version, Entry::of(schema_version())),
            (&zone.services, Entry::default()),
            (&zone.pods, Entry::default()),
            (&zone.dns, Entry::default()),
            (&zone.server, Entry::at(addresses.to_vec())),
        ];
        Self {
            names: fixed
                .into_iter()
                .map(|(name, entry)| (name.clone(), entry))
                .collect(),
            zone,
            pointers: HashMap::new(),
            namespaces: HashMap::new(),
            owned: HashMap::new(),
            serial: 1,
            complete: false,
        }
    }

    /// Replaces all records of a Service.
    pub(crate) fn replace(&mut self, service: &ObjectName, records: Option<ServiceRecords>) {
        self.serial = self.serial.wrapping_add(1);
        if let Some(old) = self.owned.remove(service) {
            self.take_away(old);
        }
        if let Some(records) = records {
            let owned = self.put(records);
            self.owned.insert(service.clone(), owned);
        }
    }

    /// Notes that everything has been listed: from now on, what is not here does not exist.
    pub(crate) fn set_complete(&mut self) {
        self.complete = true;
    }

    /// True if what is not here does not exist.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// What is at a name of the zone, apart from the pods' names. Nothing: there is no such name.
    pub(crate) fn get(&self, name: &Name) -> Option<&Entry> {
        static NAMESPACE: Entry = Entry {
            addresses: Vec::new(),
            other: Vec::new(),
        };
        let namespace = || self.namespaces.contains_key(name).then_some(&NAMESPACE);
        self.names.get(name).or_else(namespace)
    }

    /// The names an address stands for.
    pub(crate) fn pointers(&self, address: IpAddr) -> impl Iterator<Item = &Name> {
        let pointers = self.pointers.get(&address).into_iter().flatten();
        pointers.map(|pointer| &pointer.name)
    }

    /// The zone's start of authority.
    pub(crate) fn soa(&self) -> SOA {
        SOA::new(
            self.zone.server.clone(),
            self.zone.mailbox.clone(),
            self.serial,
            7200,
            1800,
            86_400,
            TTL,
        )
    }

    fn put(&mut self, records: ServiceRecords) -> Owned {
        *self
            .namespaces
            .entry(records.namespace.clone())
            .or_default() += 1;
        for (address, pointer) in &records.pointers {
            let pointers = self.pointers.entry(*address).or_default();
            pointers.insert(pointer.clone());
        }
        let names = records.names.keys().cloned().collect();
        self.names.extend(records.names);
        Owned {
            namespace: records.namespace,
            names,
            pointers: records.pointers,
        }
    }

    fn take_away(&mut self, old: Owned) {
        for name in &old.names {
            self.names.remove(name);
        }
        for (address, pointer) in &old.pointers {
            if let Some(pointers) = self.pointers.get_mut(address) {
                pointers.remove(pointer);
                if pointers.is_empty() {
                    self.pointers.remove(address);
                }
            }
        }
        if let Some(count) = self.namespaces.get_mut(&old.namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&old.namespace);
            }
        }
    }
}

impl Entry {
    /// An entry with addresses only.
    pub(crate) fn at(addresses: Vec<IpAddr>) -> Self {
        Self {
            addresses,
            other: Vec::new(),
        }
    }

    fn of(data: RData) -> Self {
        Self {
            addresses: Vec::new(),
            other: vec![data],
        }
    }

    /// The name this one is only another name for.
    pub(crate) fn alias(&self) -> Option<&Name> {
        match self.other.as_slice() {
            [RData::CNAME(target)] => Some(&target.0),
            _ => None,
        }
    }
}

/// All records of one Service.
#[derive(Debug)]
pub(crate) struct ServiceRecords {
    namespace: Name,
    names: BTreeMap<Name, Entry>,
    pointers: Vec<(IpAddr, Pointer)>,
}

impl ServiceRecords {
    /// The records of `service`, or nothing if it has none: a headless Service without a ready endpoint is not there.
    pub(crate) fn new<'a>(
        zone: &Zone,
        name: &ObjectName,
        service: &Service,
        slices: impl Iterator<Item = &'a Slice>,
    ) -> Option<Self> {
        let namespace = zone.namespace(&name.namespace)?;
        let own = child(&namespace, &name.name)?;
        let mut records = Self {
            namespace,
            names: BTreeMap::new(),
            pointers: Vec::new(),
        };
        match service {
            Service::Virtual { addresses, ports } => records.add_virtual(&own, addresses, ports),
            Service::Headless => slices.for_each(|slice| records.add_slice(&own, slice)),
            Service::External(target) => records.add_alias(&own, target),
        }
        records.tidy();
        (!records.names.is_empty()).then_some(records)
    }

    fn add_virtual(&mut self, own: &Name, addresses: &[IpAddr], ports: &[Port]) {
        if addresses.is_empty() {
            return;
        }
        self.entry(own).addresses.extend(addresses);
        for port in ports {
            self.add_port(own, port, own);
        }
        let pointer = Pointer {
            generated: false,
            name: own.clone(),
        };
        self.pointers
            .extend(addresses.iter().map(|address| (*address, pointer.clone())));
    }

    fn add_slice(&mut self, own: &Name, slice: &Slice) {
        for endpoint in &slice.endpoints {
            let Some(pointer) = endpoint_name(own, endpoint) else {
                continue;
            };
            self.entry(own).addresses.push(endpoint.address);
            self.entry(&pointer.name).addresses.push(endpoint.address);
            for port in &slice.ports {
                self.add_port(own, port, &pointer.name);
            }
            self.pointers.push((endpoint.address, pointer));
        }
    }

    /// An external name that looks like an IPv4 address resolves to nothing, as the API's documentation says.
    fn add_alias(&mut self, own: &Name, target: &str) {
        let Ok(mut name) = Name::from_ascii(target) else {
            return;
        };
        if target.parse::<IpAddr>().is_err() && !target.is_empty() {
            name.set_fqdn(true);
            self.entry(own).other.push(RData::CNAME(CNAME(name)));
        }
    }

    /// Adds `_port._protocol.own`, and `_protocol.own` above it.
    fn add_port(&mut self, own: &Name, port: &Port, target: &Name) {
        let Some(above) = child(own, port.protocol) else {
            return;
        };
        let Some(name) = child(&above, &format!("_{}", port.name)) else {
            return;
        };
        let srv = SRV::new(PRIORITY, WEIGHT, port.number, target.clone());
        self.entry(&above);
        self.entry(&name).other.push(RData::SRV(srv));
    }

    fn entry(&mut self, name: &Name) -> &mut Entry {
        self.names.entry(name.clone()).or_default()
    }

    /// Puts addresses and targets into one order whatever order they came in, and drops those that came twice: an
    /// endpoint may be in two slices while it moves, and one host name may have an address of each family.
    fn tidy(&mut self) {
        for entry in self.names.values_mut() {
            entry.addresses.sort_unstable();
            entry.addresses.dedup();
            entry.other.sort_by_cached_key(RData::to_string);
            entry.other.dedup();
        }
    }
}

/// The name of an endpoint of a headless Service: its host name, or its address with dashes.
fn endpoint_name(own: &Name, endpoint: &Endpoint) -> Option<Pointer> {
    let name = match &endpoint.hostname {
        Some(hostname) => child(own, hostname)?,
        None => child(own, &endpoint.address.to_string().replace(['.', ':'], "-"))?,
    };
    Some(Pointer {
        generated: endpoint.hostname.is_none(),
        name,
    })
}

fn schema_version() -> RData {
    RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]))
}
