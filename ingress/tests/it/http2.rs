//! HTTP/2 to backends: which are spoken to so, how connections are shared, and what becomes of streams that end early.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::backend::Backend;
use crate::client::{Http, get};
use crate::harness::{Gateway, ingress, service_speaking, slice};

pub(crate) const H2C: &str = "kubernetes.io/h2c";

/// A backend that knows nothing but HTTP/2 and answers every request by `answer`.
pub(crate) async fn backend<F>(
    builder: h2::server::Builder,
    answer: impl Fn(Request<h2::RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
) -> Backend
where
    F: Future<Output = ()> + Send + 'static,
{
    Backend::serve(move |stream, requests| {
        let (builder, answer) = (builder.clone(), answer.clone());
        async move {
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
                return;
            };
            while let Some(Ok((request, respond))) = connection.accept().await {
                requests.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(request, respond));
            }
        }
    })
    .await
}

/// What a backend says of `request`.
fn told(request: &Request<h2::RecvStream>) -> Bytes {
    let fields = |name| {
        let values = request.headers().get_all(name).iter();
        values
            .map(|value| value.to_str().unwrap())
            .collect::<Vec<_>>()
    };
    let told = json!({
        "backend": "two",
        "version": format!("{:?}", request.version()),
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "host": fields("host"),
        "te": fields("te"),
        "connection": fields("connection"),
        "cookie": fields("cookie"),
    });
    told.to_string().into()
}

pub(crate) async fn tell(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(told(&request), true).unwrap();
}

pub(crate) fn objects(protocol: &str, backend: SocketAddr) -> Vec<Value> {
    vec![
        ingress("i", &[("a.org", "/", "s")]),
        service_speaking("s", protocol),
        slice("s", "s-1", backend),
    ]
}

async fn two(gateway: &Gateway) -> Http {
    Http::two_over(TcpStream::connect(gateway.http).await.unwrap()).await
}

fn post(body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::post("http://a.org/x").version(Version::HTTP_2);
    request.body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn backends_are_spoken_to_as_their_app_protocol_says() {
    let backend = backend(h2::server::Builder::new(), tell).await;
    for protocol in [H2C, "grpc"] {
        let gateway = Gateway::start(&objects(protocol, backend.address), &[]);
        for client in [Http::connect(gateway.http).await, two(&gateway).await] {
            let mut client = client;
            let seen = client.get("a.org", "/x/../y?z=1").await.json();
            assert_eq!(seen["version"], "HTTP/2.0");
            assert_eq!(seen["target"], "http://a.org/y?z=1");
            assert_eq!(
                (&seen["host"], &seen["connection"]),
                (&json!([]), &json!([]))
            );
        }
    }
    // Any other name means HTTP/1.1, which this backend does not know.
    let gateway = Gateway::start(&objects("example.com/own", backend.address), &[]);
    assert_eq!(
        get(gateway.http, "a.org", "/").await.status,
        StatusCode::BAD_GATEWAY
    );
}

#[tokio::test]
async fn a_service_that_changes_its_protocol_is_spoken_to_in_the_new_one() {
    let backend = backend(h2::server::Builder::new(), tell).await;
    let mut gateway = Gateway::start(&objects("http", backend.address), &[]);
    assert_eq!(
        get(gateway.http, "a.org", "/").await.status,
        StatusCode::BAD_GATEWAY
    );
    gateway.apply(service_speaking("s", H2C));
    assert_eq!(get(gateway.http, "a.org", "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn hop_by_hop_fields_end_here_except_te_trailers() {
    let backend = backend(h2::server::Builder::new(), tell).await;
    let gateway = Gateway::start(&objects(H2C, backend.address), &[]);
    let request = Request::get("/")
        .header("host", "a.org")
        .header("connection", "te, close, x-hop")
        .header("x-hop", "1")
        .header("te", "deflate;q=0.5, trailers")
        .body(Full::default())
        .unwrap();
    let seen = Http::connect(gateway.http)
        .await
        .send(request)
        .await
        .unwrap()
        .json();
    assert_eq!(
        (&seen["te"], &seen["connection"]),
        (&json!(["trailers"]), &json!([]))
    );
    let request = Request::get("http://a.org/")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::default())
        .unwrap();
    let seen = two(&gateway).await.send(request).await.unwrap().json();
    assert_eq!(
        (&seen["te"], &seen["cookie"]),
        (&json!([]), &json!(["a=1; b=2"]))
    );
}

/// Sends `count` requests at once that are answered only when all have arrived, and returns how many connections that
/// took.
async fn connections_for(
    count: usize,
    mut builder: h2::server::Builder,
    streams: Option<u32>,
) -> usize {
    if let Some(streams) = streams {
        builder.max_concurrent_streams(streams);
    }
    let (arrived, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (told, wait) = (arrived.clone(), release.clone());
    let backend = backend(builder, move |request, respond| {
        let (told, wait) = (told.clone(), wait.clone());
        async move {
            told.add_permits(1);
            wait.acquire().await.unwrap().forget();
            tell(request, respond).await;
        }
    })
    .await;
    let gateway = Gateway::start(&objects(H2C, backend.address), &["--workers=1"]);
    // The first request makes the connection and learns what the backend allows.
    release.add_permits(1);
    assert_eq!(get(gateway.http, "a.org", "/").await.status, StatusCode::OK);
    let address = gateway.http;
    let clients: Vec<_> = (0..count)
        .map(|_| tokio::spawn(async move { get(address, "a.org", "/").await.status }))
        .collect();
    arrived
        .acquire_many(1 + count as u32)
        .await
        .unwrap()
        .forget();
    release.add_permits(count);
    for client in clients {
        assert_eq!(client.await.unwrap(), StatusCode::OK);
    }
    backend.connections()
}

#[tokio::test]
async fn requests_share_a_connection_as_far_as_the_backend_allows() {
    let builder = h2::server::Builder::new();
    assert_eq!(connections_for(40, builder.clone(), None).await, 1);
    assert_eq!(connections_for(12, builder, Some(4)).await, 3);
}

#[tokio::test]
async fn requests_that_come_at_once_open_one_connection() {
    let backend = backend(h2::server::Builder::new(), tell).await;
    let gateway = Gateway::start(&objects(H2C, backend.address), &["--workers=1"]);
    let address = gateway.http;
    let clients: Vec<_> = (0..16)
        .map(|_| tokio::spawn(async move { get(address, "a.org", "/").await.status }))
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_whatever_its_method() {
    let backend = {
        let refused = Arc::new(Semaphore::new(2));
        backend(h2::server::Builder::new(), move |request, mut respond| {
            let refused = refused.clone();
            async move {
                match refused.try_acquire() {
                    Ok(permit) => {
                        permit.forget();
                        respond.send_reset(Reason::REFUSED_STREAM);
                    }
                    Err(_) => tell(request, respond).await,
                }
            }
        })
        .await
    };
    let gateway = Gateway::start(&objects(H2C, backend.address), &[]);
    let answer = two(&gateway).await.send(post("")).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(backend.requests(), 3);
}

#[tokio::test]
async fn a_backend_that_is_closing_costs_no_request() {
    // Announces the end of each connection after its first request.
    let backend = Backend::serve(async |stream, requests| {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            requests.fetch_add(1, Ordering::SeqCst);
            tell(request, respond).await;
            connection.graceful_shutdown();
        }
    })
    .await;
    let gateway = Gateway::start(&objects(H2C, backend.address), &["--workers=1"]);
    let mut client = two(&gateway).await;
    for _ in 0..20 {
        assert_eq!(client.send(post("")).await.unwrap().status, StatusCode::OK);
    }
    assert_eq!(backend.requests(), 20);
}

#[tokio::test]
async fn a_reset_reaches_the_other_side_with_its_reason() {
    let (seen, mut reasons) = tokio::sync::mpsc::unbounded_channel();
    let begun = Arc::new(Semaphore::new(0));
    let wait = begun.clone();
    let backend = backend(h2::server::Builder::new(), move |request, mut respond| {
        let (seen, wait) = (seen.clone(), wait.clone());
        async move {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"some"), false).unwrap();
            if request.method() == Method::POST {
                // Wait for the client to end it.
                let reason = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
                return seen.send(reason.unwrap()).unwrap();
            }
            // A reset overtakes what was not sent yet.
            wait.acquire().await.unwrap().forget();
            body.send_reset(Reason::ENHANCE_YOUR_CALM);
        }
    })
    .await;
    let gateway = Gateway::start(&objects(H2C, backend.address), &[]);
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let request = |method| {
        Request::builder()
            .method(method)
            .uri("http://a.org/")
            .body(())
            .unwrap()
    };
    let (response, _) = client.send_request(request(Method::GET), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let error = loop {
        match body.data().await.expect("an error, not an end") {
            Ok(_) => begun.add_permits(1),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    // And the other way.
    let (response, mut body) = client.send_request(request(Method::POST), false).unwrap();
    let response = response.await.unwrap();
    body.send_reset(Reason::CANCEL);
    drop(response);
    assert_eq!(reasons.recv().await, Some(Reason::CANCEL));
}

#[tokio::test]
async fn trailers_of_grpc_pass_both_ways() {
    let backend = backend(
        h2::server::Builder::new(),
        |request, mut respond| async move {
            let mut sent = request.into_body();
            while let Some(data) = sent.data().await {
                sent.flow_control()
                    .release_capacity(data.unwrap().len())
                    .unwrap();
            }
            let mut trailers = sent.trailers().await.unwrap().unwrap();
            assert!(!trailers.contains_key("x-forwarded-for"), "{trailers:?}");
            trailers.insert("grpc-status", "7".parse().unwrap());
            let response = Response::builder().header("content-type", "application/grpc");
            let mut body = respond
                .send_response(response.body(()).unwrap(), false)
                .unwrap();
            body.send_data(Bytes::from_static(b"x"), false).unwrap();
            body.send_trailers(trailers).unwrap();
        },
    )
    .await;
    let gateway = Gateway::start(&objects("grpc", backend.address), &[]);
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::post("http://a.org/").header("content-type", "application/grpc+proto");
    let (response, mut body) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-own", "1".parse().unwrap());
    trailers.insert("x-forwarded-for", "6.6.6.6".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "x");
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-own"]),
        (&"7".parse().unwrap(), &"1".parse().unwrap())
    );
}
