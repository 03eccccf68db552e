//! Where the backend of a path or of an Ingress leads.

use model::service::Kind;
use model::{ObjectName, Protocol, Service, ServiceName, ServicePort, ServicePortName};

use k8s_openapi::api::networking::v1::{IngressBackend, IngressServiceBackend};
use rustls_pki_types::ServerName;

use super::Target;
use super::ingress::{Context, Reader};
use super::validate::{self, PortRef};
use crate::annotations::Reference;
use crate::forward::protocol::Protocol as Spoken;
use crate::problem::{Fault, Reached};
use crate::upstream::Reach;
use crate::upstream::external::Doubt;

/// Where a backend leads.
pub(super) struct Found {
    /// The Service's port, or nothing.
    pub(super) target: Target,
    /// What is spoken there.
    pub(super) protocol: Spoken,
    /// The name outside the cluster for which its Service stands, if it does.
    pub(super) external: Option<Box<str>>,
}

impl Found {
    /// Nowhere.
    pub(super) fn nothing() -> Self {
        Self {
            target: Target::Nowhere,
            protocol: Spoken::default(),
            external: None,
        }
    }
}

impl Reader<'_> {
    /// Where `backend`, which stands in `field`, leads, or the field below at fault and why.
    pub(super) fn backend(
        &mut self,
        field: &str,
        backend: &IngressBackend,
    ) -> Result<Found, (&'static str, Fault)> {
        match (&backend.service, &backend.resource) {
            (Some(service), None) => self.service_backend(field, service),
            (None, Some(resource)) => {
                let named = format!("{} {}", resource.kind, resource.name);
                Err(("resource", Fault::ResourceBackend(named)))
            }
            _ => {
                let message = "must name a Service or a resource, and not both";
                Err(("service", Fault::Invalid(message.to_owned())))
            }
        }
    }

    fn service_backend(
        &mut self,
        field: &str,
        backend: &IngressServiceBackend,
    ) -> Result<Found, (&'static str, Fault)> {
        let Context {
            world, upstreams, ..
        } = self.context;
        let namespace = self.reading.ingress.name.namespace.clone();
        let name = ObjectName::new(namespace, backend.name.as_str());
        self.reading.services.insert(name.clone());
        let invalid = |message: &str| ("service.port", Fault::Invalid(message.to_owned()));
        let port = validate::port(backend).map_err(invalid)?;
        let Some(service) = world.service(&name) else {
            return Err(("service.name", Fault::ServiceMissing(name)));
        };
        let missing = |port: PortRef<'_>| {
            let (service, port) = (name.clone(), port.to_string());
            ("service.port", Fault::PortMissing { service, port })
        };
        if let Kind::ExternalName(external) = &service.kind {
            if !self.context.names.are_allowed() {
                return Err(("service.name", Fault::ExternalName(name)));
            }
            let found = self.external_backend(field, service, external, port);
            return found.ok_or_else(|| missing(port));
        }
        let port = find_port(service, port).ok_or_else(|| missing(port))?;
        let balancing = self.asks(|policy| &policy.balancing);
        let reach = balancing.map_or(Reach::Endpoints, |balancing| balancing.reach);
        let upstream = upstreams.get(self.context.sources(), service.port_name(port), reach);
        Ok(Found {
            target: Target::Backend(upstream),
            protocol: Spoken::of_app_protocol(port.app_protocol.as_deref()),
            external: None,
        })
    }

    /// Where the name leads for which `service` stands; nothing if it has no port of that name. A number that the Service does
    /// not list is the port there, as it need not list any; one that it lists leads to its `targetPort`, as in ingress-nginx.
    fn external_backend(
        &mut self,
        field: &str,
        service: &Service,
        external: &str,
        port: PortRef<'_>,
    ) -> Option<Found> {
        let listed = find_port(service, port);
        let number = match (listed, port) {
            (Some(listed), _) => self.context.names.target(&service.name, listed.port),
            (None, PortRef::Number(number)) => u16::try_from(number).ok()?.try_into().ok()?,
            (None, PortRef::Name(_)) => return None,
        };
        self.reading
            .references
            .insert(Reference::ExternalName(external.into()));
        self.doubt(format!("{field}.service.name"), &service.name, external);
        let name = ServicePortName {
            service: service.name.clone(),
            port: listed.map_or_else(|| "".into(), |listed| listed.name.clone()),
            protocol: Protocol::Tcp,
        };
        let reach = Reach::ExternalName(number);
        let upstreams = self.context.upstreams;
        let upstream = upstreams.get(self.context.sources(), name, reach);
        let app_protocol = listed.and_then(|listed| listed.app_protocol.as_deref());
        Some(Found {
            target: Target::Backend(upstream),
            protocol: Spoken::of_app_protocol(app_protocol),
            external: Some(external.into()),
        })
    }

    /// Tells what is wrong with where the name leads for which `service` stands.
    fn doubt(&mut self, field: String, service: &ServiceName, external: &str) {
        let Context { world, names, .. } = self.context;
        let Some(doubt) = names.doubt(world, external) else {
            return;
        };
        let (service, name) = (service.clone(), external.to_owned());
        let instead = match names.addresses(world, external).is_empty() {
            true => Reached::Nothing,
            false => Reached::Others,
        };
        let fault = match doubt {
            Doubt::Unresolved(why) => Fault::NameUnresolved {
                service,
                name,
                why,
                instead,
            },
            Doubt::Refused(addresses) => Fault::NameRefused {
                service,
                name,
                addresses: addresses
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
                instead,
            },
        };
        self.problem(field, fault);
    }
}

/// The name of a Service in the cluster's DNS, which is what certificates are issued for there.
pub(super) fn cluster_name(service: &str, namespace: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(format!("{service}.{namespace}.svc")).ok()
}

/// A name outside the cluster as certificates have it, without the dot that marks it as complete.
pub(super) fn outside_name(external: &str) -> Option<ServerName<'static>> {
    let name = external.strip_suffix('.').unwrap_or(external);
    ServerName::try_from(name.to_owned()).ok()
}

fn find_port<'s>(service: &'s Service, port: PortRef<'_>) -> Option<&'s ServicePort> {
    let mut tcp = service
        .ports
        .iter()
        .filter(|port| port.protocol == Protocol::Tcp);
    tcp.find(|candidate| match port {
        PortRef::Name(name) => *candidate.name == *name,
        PortRef::Number(number) => i32::from(candidate.port.get()) == number,
    })
}
