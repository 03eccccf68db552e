//! The addresses at which clients reach the gateway, where they are those of a Service.

use k8s_openapi::api::core::v1::Service;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use model::ObjectName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use futures::StreamExt;

/// Keeps `addresses` at those of the Service `name` until `shutdown`.
pub async fn run(
    client: Client,
    name: ObjectName,
    addresses: watch::Sender<Vec<String>>,
    shutdown: CancellationToken,
) {
    let api = Api::<Service>::namespaced(client, &name.namespace);
    let states = watch_object(api, &name.name).default_backoff();
    let mut states = std::pin::pin!(states.take_until(shutdown.cancelled_owned()));
    while let Some(state) = states.next().await {
        match state {
            Ok(service) => {
                let new = service.as_ref().map(of_service).unwrap_or_default();
                if new.is_empty() {
                    tracing::warn!(service = %name, "the Service to publish has no address yet");
                }
                addresses.send_if_modified(|known| {
                    let is_other = *known != new;
                    *known = new;
                    is_other
                });
            }
            Err(error) => tracing::warn!(service = %name, %error, "watch failed, trying again"),
        }
    }
}

/// What a load balancer gave to `service`, then its external IPs.
fn of_service(service: &Service) -> Vec<String> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let points = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let points = points.into_iter().flatten();
    let given = points.filter_map(|point| point.ip.clone().or_else(|| point.hostname.clone()));
    let spec = service.spec.as_ref();
    let external = spec.and_then(|spec| spec.external_ips.clone());
    given.chain(external.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_those_of_the_load_balancer_and_external_ips() {
        let service = json!({
            "spec": {"externalIPs": ["192.0.2.9"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]}},
        });
        let service: Service = serde_json::from_value(service).expect("a Service");
        assert_eq!(
            of_service(&service),
            ["192.0.2.1", "lb.example", "192.0.2.9"]
        );
        assert!(of_service(&Service::default()).is_empty());
    }
}
