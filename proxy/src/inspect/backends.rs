//! `backends`: every backend with an id, whether new connections get it or not.

use std::io::{self, Write};

use clap::Args;
use dataplane_ebpf::abi::Backend;
use dataplane_ebpf::addr::{Addr, Port, Protocol};
use serde::Serialize;

use super::filter::ServiceFilter;
use super::table::Columns;
use super::text::Shown;
use super::{Common, View, filter, text};
use crate::pinned::{Error, Pinned};

/// What to list.
#[derive(Args, Debug, Clone)]
pub struct BackendsArgs {
    /// Only those of this Service, or of this port of it.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service: Option<ServiceFilter>,

    /// Where from, and how.
    #[command(flatten)]
    pub common: Common,
}

/// The backends of a node.
#[derive(Debug, Serialize)]
pub(super) struct Backends {
    backends: Vec<Entry>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    id: u32,
    /// Nothing for a backend that was taken away and whose id waits to be used again.
    service_id: Option<u32>,
    service: Option<String>,
    address: Shown<Addr>,
    port: u16,
    protocol: Shown<Protocol>,
    /// On this node.
    local: bool,
    serving: bool,
    in_cluster_run: bool,
    in_local_run: bool,
    generation: u32,
}

/// Reads the backends that are asked for.
pub(super) fn look(args: &BackendsArgs) -> Result<Backends, Error> {
    let maps = Pinned::open(&args.common.bpf_root)?;
    let names = maps.all_names()?;
    let used = maps.used_backends()?.into_iter();
    let wanted =
        used.filter(|(_, backend)| filter::is_met(args.service.as_ref(), backend.service, &names));
    let entries = wanted.map(|(id, backend)| {
        // One whose service is no id at all was taken away.
        let service = Some(backend.service).filter(|id| *id < maps.services.size());
        entry(id, &backend, service, names.get(&backend.service))
    });
    let mut backends: Vec<Entry> = entries.collect();
    backends.sort_unstable_by(|a, b| {
        let key = |entry: &Entry| (entry.service.is_none(), entry.service_id, entry.id);
        a.service.cmp(&b.service).then(key(a).cmp(&key(b)))
    });
    Ok(Backends { backends })
}

fn entry(id: u32, backend: &Backend, service_id: Option<u32>, name: Option<&String>) -> Entry {
    let has = |flag| backend.flags & flag != 0;
    Entry {
        id,
        service_id,
        service: name.cloned(),
        address: Shown(backend.address),
        port: backend.port.number(),
        protocol: Shown(backend.protocol),
        local: has(Backend::LOCAL),
        serving: has(Backend::SERVING),
        in_cluster_run: has(Backend::IN_CLUSTER_RUN),
        in_local_run: has(Backend::IN_LOCAL_RUN),
        generation: backend.generation,
    }
}

impl View for Backends {
    fn is_in_order(&self) -> bool {
        !self.backends.is_empty()
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut columns = Columns::new(&[
            "ID",
            "SERVICE",
            "ADDRESS",
            "LOCAL",
            "SERVING",
            "CLUSTER",
            "LOCAL-RUN",
            "GENERATION",
        ]);
        for entry in &self.backends {
            columns.row([
                entry.id.to_string(),
                entry.service_text(),
                entry.address_text(),
                text::yes(entry.local),
                text::yes(entry.serving),
                text::yes(entry.in_cluster_run),
                text::yes(entry.in_local_run),
                entry.generation.to_string(),
            ]);
        }
        columns.write(out)
    }
}

impl Entry {
    fn address_text(&self) -> String {
        let socket = text::socket(self.address.0, Port::new(self.port));
        format!("{socket}/{}", self.protocol)
    }

    fn service_text(&self) -> String {
        match self.service_id {
            Some(id) => text::service(self.service.as_deref(), id),
            None => "(none)".to_owned(),
        }
    }
}
