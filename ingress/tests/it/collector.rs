//! A stand-in for a collector of traces: takes OTLP over gRPC and keeps the spans.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::backend::Backend;
use crate::harness::eventually;

/// A collector. Dropping it closes its socket.
pub(crate) struct Collector {
    backend: Backend,
    requests: Requests,
}

type Requests = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

impl Collector {
    pub(crate) async fn start() -> Self {
        let requests = Requests::default();
        let kept = requests.clone();
        let backend = Backend::serve(move |stream, _| serve(stream, kept.clone()));
        Self {
            backend: backend.await,
            requests,
        }
    }

    /// One that ends TLS by `acceptor`.
    pub(crate) async fn over_tls(acceptor: TlsAcceptor) -> Self {
        let requests = Requests::default();
        let kept = requests.clone();
        let backend = Backend::serve(move |stream, _| {
            let (acceptor, kept) = (acceptor.clone(), kept.clone());
            async move {
                // A client that does not trust it goes away.
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, kept).await;
                }
            }
        });
        Self {
            backend: backend.await,
            requests,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.backend.address
    }

    /// How many spans came in each request.
    pub(crate) fn batches(&self) -> Vec<usize> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .map(|request| spans(request).len())
            .collect()
    }

    /// What it was told about who sends the spans.
    pub(crate) fn resource(&self) -> Vec<KeyValue> {
        let requests = self.requests.lock().unwrap();
        let resource = requests[0].resource_spans[0].resource.clone();
        resource.unwrap().attributes
    }

    /// The spans of the request whose span `wanted` accepts, that one first and the others by their time.
    pub(crate) async fn request(&self, wanted: impl Fn(&Span) -> bool) -> Vec<Span> {
        let is_server = |span: &Span| span.kind == i32::from(SpanKind::Server);
        eventually("spans", async || {
            let requests = self.requests.lock().unwrap();
            let mut spans: Vec<Span> = requests.iter().flat_map(spans).collect();
            let server = spans.iter().find(|span| is_server(span) && wanted(span))?;
            let (trace, id) = (server.trace_id.clone(), server.span_id.clone());
            spans.retain(|span| {
                span.trace_id == trace && (span.span_id == id || span.parent_span_id == id)
            });
            spans.sort_by_key(|span| (!is_server(span), span.start_time_unix_nano));
            Some(spans)
        })
        .await
    }

    /// The same for the path that the client asked for.
    pub(crate) async fn path(&self, path: &str) -> Vec<Span> {
        let wanted = |span: &Span| text(span, "url.path").as_deref() == Some(path);
        self.request(wanted).await
    }
}

fn spans(request: &ExportTraceServiceRequest) -> Vec<Span> {
    let scopes = request.resource_spans.iter();
    let scopes = scopes.flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| scope.spans.clone()).collect()
}

/// An attribute of `span`, as text.
pub(crate) fn text(span: &Span, key: &str) -> Option<String> {
    attribute(&span.attributes, key)
}

/// One of `attributes`, as text.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.clone()?.value? {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, kept: Requests) {
    let service = service_fn(move |request| take(kept.clone(), request));
    let server = http2::Builder::new(TokioExecutor::new());
    drop(server.serve_connection(TokioIo::new(stream), service).await);
}

/// Takes a request as a gRPC server does.
async fn take(
    requests: Requests,
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    assert_eq!(request.uri().path(), path);
    let body = request.into_body().collect().await.unwrap().to_bytes();
    // A byte for compression and four for the length come first.
    assert_eq!(body[0], 0, "compressed");
    let message = ExportTraceServiceRequest::decode(&body[5..]).unwrap();
    requests.lock().unwrap().push(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let empty = Frame::data(Bytes::from_static(&[0; 5]));
    let frames = [empty, Frame::trailers(trailers)].map(Ok);
    let answer = Response::builder().header("content-type", "application/grpc");
    Ok(answer.body(StreamBody::new(stream::iter(frames))).unwrap())
}
