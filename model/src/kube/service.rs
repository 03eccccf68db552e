//! The fields of a Service.

use std::fmt::Display;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1 as core;

use super::report::{Report, boxed, tight};
use super::{ALGORITHM_ANNOTATION, FORWARDING_ANNOTATION};
use crate::service::{Algorithm, Forwarding, Kind, Service, ServicePort, TrafficPolicy};

/// How long a client sticks to its backend unless the Service says otherwise: three hours.
const DEFAULT_AFFINITY: i32 = 10_800;
const MAX_AFFINITY: i32 = 86_400;

impl Report<'_> {
    pub(super) fn read_service(&mut self, object: &core::Service) -> Option<Service> {
        let name = self.name(&object.metadata)?;
        let Some(spec) = &object.spec else {
            self.add("spec", "is missing");
            return None;
        };
        let kind = kind(spec);
        let cluster_ips = match kind {
            Kind::Virtual => self.cluster_ips(spec),
            Kind::Headless | Kind::ExternalName(_) => Vec::new(),
        };
        let external_policy = self.policy(
            "spec.externalTrafficPolicy",
            spec.external_traffic_policy.as_deref(),
        );
        Some(Service {
            name,
            uid: boxed(object.metadata.uid.as_deref()),
            kind,
            cluster_ips,
            external_ips: self.addresses("spec.externalIPs", spec.external_ips.as_deref()),
            load_balancer_ips: self.load_balancer_ips(object),
            source_ranges: self.source_ranges(spec),
            internal_policy: self.policy(
                "spec.internalTrafficPolicy",
                spec.internal_traffic_policy.as_deref(),
            ),
            external_policy,
            affinity: self.affinity(spec),
            algorithm: self.annotation(
                object,
                ALGORITHM_ANNOTATION,
                &[("random", Algorithm::Random), ("maglev", Algorithm::Maglev)],
            ),
            forwarding: self.annotation(
                object,
                FORWARDING_ANNOTATION,
                &[("snat", Forwarding::Snat), ("dsr", Forwarding::Dsr)],
            ),
            health_check_node_port: self.health_check_node_port(spec, external_policy),
            ports: self.service_ports(spec),
        })
    }

    fn cluster_ips(&mut self, spec: &core::ServiceSpec) -> Vec<IpAddr> {
        let all = spec.cluster_ips.as_deref().unwrap_or_default();
        if !all.is_empty() {
            return self.addresses("spec.clusterIPs", Some(all));
        }
        let only = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
        let only = only.and_then(|ip| self.address("spec.clusterIP", ip));
        tight(only.into_iter())
    }

    fn load_balancer_ips(&mut self, object: &core::Service) -> Vec<IpAddr> {
        let status = object.status.as_ref();
        let balancer = status.and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref());
        let captured = ingress.unwrap_or_default().iter().enumerate();
        tight(
            captured
                .filter(|(_, ingress)| matches!(ingress.ip_mode.as_deref(), None | Some("VIP")))
                .filter_map(|(i, ingress)| {
                    let ip = ingress.ip.as_deref().filter(|ip| !ip.is_empty())?;
                    self.address(format_args!("status.loadBalancer.ingress[{i}].ip"), ip)
                }),
        )
    }

    fn source_ranges(&mut self, spec: &core::ServiceSpec) -> Vec<IpNetwork> {
        self.ranges(
            "spec.loadBalancerSourceRanges",
            spec.load_balancer_source_ranges.as_deref(),
        )
    }

    fn policy(&mut self, field: &str, text: Option<&str>) -> TrafficPolicy {
        match text {
            None | Some("" | "Cluster") => TrafficPolicy::Cluster,
            Some("Local") => TrafficPolicy::Local,
            Some(other) => {
                self.add(field, format!("{other:?} is not known, taken as Cluster"));
                TrafficPolicy::Cluster
            }
        }
    }

    fn affinity(&mut self, spec: &core::ServiceSpec) -> Option<Duration> {
        match spec.session_affinity.as_deref() {
            None | Some("" | "None") => return None,
            Some("ClientIP") => {}
            Some(other) => {
                let reason = format!("{other:?} is not known, taken as None");
                self.add("spec.sessionAffinity", reason);
                return None;
            }
        }
        let config = spec.session_affinity_config.as_ref();
        let client_ip = config.and_then(|config| config.client_ip.as_ref());
        let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
        let seconds = seconds.unwrap_or(DEFAULT_AFFINITY);
        let legal = seconds.clamp(1, MAX_AFFINITY);
        if seconds != legal {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            self.add(
                field,
                format!("{seconds} is out of range, taken as {legal}"),
            );
        }
        Some(Duration::from_secs(u64::from(legal.unsigned_abs())))
    }

    fn annotation<T: Copy>(
        &mut self,
        object: &core::Service,
        key: &str,
        values: &[(&str, T)],
    ) -> Option<T> {
        let text = object.metadata.annotations.as_ref()?.get(key)?;
        let known = values.iter().find(|(value, _)| value == text);
        if known.is_none() {
            let field = format_args!("metadata.annotations[{key}]");
            self.add(field, format!("{text:?} is not known, the default holds"));
        }
        known.map(|(_, value)| *value)
    }

    fn health_check_node_port(
        &mut self,
        spec: &core::ServiceSpec,
        external_policy: TrafficPolicy,
    ) -> Option<NonZeroU16> {
        let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
        if !is_balanced || external_policy != TrafficPolicy::Local {
            return None;
        }
        let number = spec.health_check_node_port.filter(|port| *port != 0)?;
        self.port("spec.healthCheckNodePort", number)
    }

    fn service_ports(&mut self, spec: &core::ServiceSpec) -> Vec<ServicePort> {
        let ports = spec.ports.as_deref().unwrap_or_default().iter().enumerate();
        tight(
            ports.filter_map(|(i, port)| self.service_port(format_args!("spec.ports[{i}]"), port)),
        )
    }

    fn service_port(
        &mut self,
        field: impl Display + Copy,
        port: &core::ServicePort,
    ) -> Option<ServicePort> {
        let protocol = self.protocol(field, port.protocol.as_deref())?;
        let number = self.port(format_args!("{field}.port"), port.port)?;
        let node_port = port.node_port.filter(|port| *port != 0);
        Some(ServicePort {
            name: self.names.share(port.name.as_deref().unwrap_or_default()),
            protocol,
            port: number,
            node_port: node_port.and_then(|port| self.port(format_args!("{field}.nodePort"), port)),
            app_protocol: port
                .app_protocol
                .as_deref()
                .map(|name| self.names.share(name)),
        })
    }
}

/// A Service that was turned into an ExternalName may still show the address it had before.
fn kind(spec: &core::ServiceSpec) -> Kind {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Kind::ExternalName(spec.external_name.as_deref().unwrap_or_default().into());
    }
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first());
    match spec.cluster_ip.as_ref().or(first).map(String::as_str) {
        Some("None") => Kind::Headless,
        _ => Kind::Virtual,
    }
}
