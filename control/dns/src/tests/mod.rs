//! Tests of the whole server but for the API: from objects to answers, from packets to packets, over real sockets.

mod changes;
mod loopback;
mod packets;
mod sockets;
mod specification;

use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use crate::answer::{Answer, Reply, answer};
use crate::cluster::{Cluster, ObjectName};
use crate::records::Records;
use crate::watch::update;
use crate::zone::Zone;

/// A cluster and the records made of it.
pub(crate) struct World {
    cluster: Cluster,
    zone: Zone,
    records: Arc<RwLock<Records>>,
}

impl World {
    /// A cluster that nothing is known of yet.
    pub(crate) fn unknown() -> Self {
        let zone = Zone::new("cluster.local").expect("a zone");
        let own: [IpAddr; 1] = ["169.254.20.10".parse().expect("an address")];
        let records = Records::new(zone.clone(), &own);
        Self {
            cluster: Cluster::default(),
            zone,
            records: Arc::new(RwLock::new(records)),
        }
    }

    /// A cluster with these objects, all listed.
    pub(crate) fn of(services: &[Value], slices: &[Value]) -> Self {
        let mut world = Self::unknown();
        world.list_services(services);
        world.list_slices(slices);
        world
    }

    pub(crate) fn list_services(&mut self, services: &[Value]) {
        for event in listing(services, service) {
            self.service(event);
        }
    }

    pub(crate) fn list_slices(&mut self, slices: &[Value]) {
        for event in listing(slices, slice) {
            self.slice(event);
        }
    }

    pub(crate) fn service(&mut self, event: Event<Service>) {
        let changed = self.cluster.service(event);
        self.update(changed);
    }

    pub(crate) fn slice(&mut self, event: Event<EndpointSlice>) {
        let changed = self.cluster.slice(event);
        self.update(changed);
    }

    fn update(&self, changed: Vec<ObjectName>) {
        update(&self.cluster, changed, &self.zone, &self.records);
    }

    pub(crate) fn records(&self) -> Arc<RwLock<Records>> {
        Arc::clone(&self.records)
    }

    pub(crate) fn ask(&self, name: &str, kind: RecordType) -> Answer {
        self.ask_in_turn(name, kind, 0)
    }

    pub(crate) fn ask_in_turn(&self, name: &str, kind: RecordType, turn: usize) -> Answer {
        let question = Query::query(wire_name(name), kind);
        answer(&self.records.read().expect("a lock"), &question, turn)
    }

    /// Asks, and compares the answer as text with `expected`.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, kind: RecordType, expected: &[&str]) {
        let found = render(&self.ask(name, kind));
        assert_eq!(found, expected, "{name} {kind}");
    }
}

pub(crate) fn wire_name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a name");
    name.set_fqdn(true);
    name
}

/// An answer as text, a line for each record; negative ones as one word, with the SOA's owner if it is not the zone.
pub(crate) fn render(answer: &Answer) -> Vec<String> {
    match answer {
        Answer::Complete(reply) => render_reply(reply),
        Answer::Elsewhere { aliases, target } => {
            let mut lines = render_records("", aliases);
            lines.push(format!("ask {target}"));
            lines
        }
        Answer::Outside => vec!["OUTSIDE".to_owned()],
    }
}

fn render_reply(reply: &Reply) -> Vec<String> {
    let mut lines = render_records("", &reply.answers);
    let empty = lines.is_empty();
    match reply.code {
        ResponseCode::NoError if empty => lines.push("NODATA".to_owned()),
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => lines.push("NXDOMAIN".to_owned()),
        code => lines.push(format!("{code:?}")),
    }
    lines.extend(render_records("+ ", &reply.additionals));
    lines
}

fn render_records(prefix: &str, records: &[Record]) -> Vec<String> {
    let line = |record: &Record| {
        format!(
            "{prefix}{} {} {}",
            record.name,
            record.record_type(),
            record.data
        )
    };
    records.iter().map(line).collect()
}

fn listing<K>(objects: &[Value], parse: fn(&Value) -> K) -> Vec<Event<K>> {
    let objects = objects.iter().map(|object| Event::InitApply(parse(object)));
    [Event::Init]
        .into_iter()
        .chain(objects)
        .chain([Event::InitDone])
        .collect()
}

pub(crate) fn service(object: &Value) -> Service {
    serde_json::from_value(object.clone()).expect("a Service")
}

pub(crate) fn slice(object: &Value) -> EndpointSlice {
    serde_json::from_value(object.clone()).expect("an EndpointSlice")
}

/// A Service in namespace `default`.
pub(crate) fn service_json(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})
}

/// An EndpointSlice of `service`; port `http` is 8080/TCP, and one has no name.
pub(crate) fn slice_json(service: &str, name: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "", "port": 9}],
        "endpoints": endpoints,
    })
}
