//! The default backend of the controller: a Service of the operator's for requests that no Ingress has a route for.

use std::sync::Arc;

use model::service::Kind;
use model::{ObjectName, Protocol, Service, ServicePort, World};

use super::backend::cluster_name;
use super::ingress::Context;
use super::{Route, Target};
use crate::forward::protocol::{Protocol as Spoken, Security};
use crate::problem::IngressRef;
use crate::upstream::Reach;

/// The route to the first port of the Service `name`, if it has one. It belongs to no Ingress.
pub fn route(name: &ObjectName, context: Context<'_>) -> Option<Arc<Route>> {
    let (service, port) = first_port(context.world, name)?;
    let upstream =
        context
            .upstreams
            .get(context.sources(), service.port_name(port), Reach::Endpoints);
    let ingress = IngressRef {
        name: ObjectName::new(name.namespace.clone(), ""),
        uid: "".into(),
    };
    let protocol = Spoken::of_app_protocol(port.app_protocol.as_deref());
    let backend_name = match protocol.security {
        Security::Clear => None,
        _ => cluster_name(&name.name, &name.namespace),
    };
    let series = &context.metrics.series;
    Some(Arc::new(Route {
        series: series.get(&ingress.name, &name.name, "", ""),
        ingress: Arc::new(ingress),
        kind: None,
        path: "".into(),
        pattern: None,
        service: name.name.clone(),
        target: Target::Backend(upstream),
        protocol,
        backend_name,
        canary: None,
        fallback: None,
        policy: context.defaults.policy().cloned(),
    }))
}

/// The first TCP port of the Service `name`, unless that leads out of the cluster.
pub(super) fn first_port<'w>(
    world: &'w World,
    name: &ObjectName,
) -> Option<(&'w Service, &'w ServicePort)> {
    let service = world.service(name)?;
    let mut ports = service.ports.iter();
    let port = ports.find(|port| port.protocol == Protocol::Tcp)?;
    (!matches!(service.kind, Kind::ExternalName(_))).then_some((service, port))
}
