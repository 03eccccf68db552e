//! A daemon on maps in memory, and objects for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use model::{Event, Node, Service, Slice, Unserved};
use proxy::addresses::{LocalAddress, NodePortAddresses};
use proxy::devices::{Device, Devices};
use proxy::inspect::dump;
use proxy::maps::{Fake, Sizes};
use proxy::node::Settings;
use proxy::reconcile::Reconciler;
use serde::Deserialize;

/// Long enough for any quarantine and any wait after a failure.
pub(crate) const LATER: Duration = Duration::from_secs(120);

/// The objects of a scenario.
#[derive(Default, Clone)]
pub(crate) struct Objects {
    pub(crate) services: Vec<Service>,
    pub(crate) slices: Vec<Slice>,
    pub(crate) node: Option<Node>,
}

/// A daemon on fake maps, with a clock that only moves when told to.
pub(crate) struct Daemon {
    pub(crate) reconciler: Reconciler<Fake>,
    pub(crate) now: Instant,
}

pub(crate) fn parse(text: &str) -> Objects {
    let mut objects = Objects::default();
    for document in serde_norway::Deserializer::from_str(text) {
        let value = serde_json::Value::deserialize(document).unwrap();
        match value["kind"].as_str().unwrap() {
            "Service" => {
                let object: core::Service = serde_json::from_value(value).unwrap();
                objects.services.extend(model::kube::service(&object).value);
            }
            "EndpointSlice" => {
                let object: discovery::EndpointSlice = serde_json::from_value(value).unwrap();
                objects.slices.extend(model::kube::slice(&object).value);
            }
            "Node" => {
                let object: core::Node = serde_json::from_value(value).unwrap();
                objects.node = model::kube::node(&object).value;
            }
            other => panic!("unknown kind {other}"),
        }
    }
    objects
}

pub(crate) fn sizes() -> Sizes {
    Sizes {
        services: 64,
        backends: 64,
        slots: 4096,
    }
}

pub(crate) fn devices() -> Devices {
    let row = |text: &str, device| {
        let ip: IpAddr = text.parse().unwrap();
        LocalAddress {
            ip,
            device,
            global: device != 1,
        }
    };
    Devices {
        uplinks: BTreeSet::from([Device {
            index: 2,
            name: "eth0".to_owned(),
        }]),
        left_out: BTreeSet::new(),
        addresses: vec![
            row("127.0.0.1", 1),
            row("192.168.0.7", 2),
            row("2001:db8::7", 2),
        ],
        ..Devices::default()
    }
}

impl Daemon {
    pub(crate) fn start(maps: Fake) -> Self {
        let settings = Settings {
            node_name: "here".to_owned(),
            node_port_addresses: NodePortAddresses::Primary,
            algorithm: model::Algorithm::Random,
            masquerade_ports: (61_000, 65_535),
            netns_cookie: 1,
        };
        let now = Instant::now();
        let mut reconciler = Reconciler::new(settings, maps).unwrap();
        reconciler.see_devices(devices(), now);
        for reason in [Unserved::OtherProxy, Unserved::Headless] {
            reconciler.see(Event::UnservedAll(reason, Vec::new()), now);
        }
        Self { reconciler, now }
    }

    pub(crate) fn see(&mut self, event: Event) {
        self.reconciler.see(event, self.now);
        self.reconciler.round(self.now);
    }

    pub(crate) fn see_all(&mut self, objects: &Objects) {
        self.see(Event::Services(objects.services.clone()));
        self.see(Event::Slices(objects.slices.clone()));
        self.see(Event::Node(objects.node.clone()));
    }

    /// Lets time pass until nothing is due any more.
    pub(crate) fn settle(&mut self) {
        for _ in 0..20 {
            self.now += LATER;
            self.reconciler.round(self.now);
            if self.reconciler.next_round().is_none() {
                return;
            }
        }
        panic!("there is always something left to do");
    }

    pub(crate) fn fail(&mut self, failing: Option<Box<dyn Fn(u64) -> bool>>) {
        self.reconciler.maps_mut().fail(failing);
    }

    pub(crate) fn dump(&self) -> String {
        dump(self.reconciler.tables().maps()).unwrap()
    }

    pub(crate) fn writes(&self) -> u64 {
        self.reconciler.tables().maps().writes()
    }

    /// The daemon dies; another one starts on the same maps.
    pub(crate) fn restart(self) -> Self {
        Self::start(self.reconciler.into_maps())
    }

    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        let tables = self.reconciler.tables();
        assert!(tables.maps().is_empty(), "{}", self.dump());
        let usage = tables.usage();
        let used = [usage.services, usage.backends, usage.slots, usage.entries];
        assert_eq!(used, [0; 4], "ids leak");
    }
}

pub(crate) fn installed(objects: &Objects) -> Daemon {
    let mut daemon = Daemon::start(Fake::new(sizes()));
    daemon.see_all(objects);
    daemon.settle();
    daemon
}

/// A Service and its slice with `count` endpoints on other nodes.
pub(crate) fn service(number: u8, count: u8) -> String {
    let endpoints: Vec<String> = (1..=count)
        .map(|endpoint| format!("{{addresses: [10.244.{number}.{endpoint}]}}"))
        .collect();
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{namespace: d, name: s{number}}}, \
         spec: {{clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]}}}}\n\
         ---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
         metadata: {{namespace: d, name: s{number}, labels: {{kubernetes.io/service-name: s{number}}}}}, \
         ports: [{{name: '', port: 80}}], endpoints: [{}]}}\n",
        endpoints.join(", ")
    )
}
