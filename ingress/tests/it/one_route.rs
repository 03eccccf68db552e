//! The gateway that most tests need: one route, to one Service, as annotations ask.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use crate::backend::Backend;
use crate::client::{Answer, Http};
use crate::harness::{Gateway, annotated, ingress, service_of};

/// A gateway where `a.org` leads to `backend` as `annotations` ask, with `more` objects and arguments.
pub(crate) fn gateway(
    backend: &Backend,
    annotations: &[(&str, &str)],
    more: &[Value],
    arguments: &[&str],
) -> Gateway {
    let mut objects = vec![annotated(ingress("i", &[("a.org", "/", "s")]), annotations)];
    objects.extend(service_of("s", &[backend.address]));
    objects.extend(more.iter().cloned());
    Gateway::start(&objects, arguments)
}

pub(crate) async fn send(
    gateway: &Gateway,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "a.org");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    Http::connect(gateway.http)
        .await
        .send(request)
        .await
        .unwrap()
}

pub(crate) async fn get(gateway: &Gateway, fields: &[(&str, &str)]) -> Answer {
    send(gateway, "GET", "/", fields).await
}
