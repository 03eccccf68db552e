//! TLS that ends at the backend.

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backend::Backend;
use crate::client::{Http, tls};
use crate::harness::{Gateway, annotated, ingress, secure_ingress, service_of};
use crate::tls::authority;

#[tokio::test]
async fn a_backend_that_ends_tls_is_chosen_by_the_host_asked_for() {
    let (ours, theirs) = (authority(), authority());
    let acceptor = theirs.acceptor("pass.org", b"x");
    let backend = Backend::serve(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            while let Ok(byte) = stream.read_u8().await {
                stream.write_u8(byte.to_ascii_uppercase()).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    })
    .await;
    let plain = Backend::echo("plain").await;
    let pass = ingress("pass", &[("pass.org", "/", "inside")]);
    let mut objects = vec![
        annotated(pass, &[("ssl-passthrough", "true")]),
        secure_ingress("a", "a.org", "plain", "cert"),
        ours.secret("cert", &["a.org", "pass.org"]),
    ];
    objects.extend(service_of("inside", &[backend.address]));
    objects.extend(service_of("plain", &[plain.address]));
    let gateway = Gateway::start(&objects, &[]);
    // The certificate is the backend's own, and what is said behind it is between the two.
    let stream = tls(gateway.https, "pass.org", &theirs.der(), b"x").await;
    let mut stream = stream.unwrap();
    let mut answer = [0; 4];
    for _ in 0..2 {
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"PING");
    }
    // Others are served as ever. A request for that host that comes some other way is not passed to a backend that
    // expects to see clients itself.
    let secure = tls(gateway.https, "a.org", &ours.der(), b"http/1.1").await;
    let mut client = Http::over(secure.unwrap()).await;
    assert_eq!(client.get("a.org", "/").await.backend(), "plain");
    let answer = client.get("pass.org", "/").await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    // What is under way may finish.
    gateway.shutdown.cancel();
    stream.write_all(b"last").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
}

#[tokio::test]
async fn a_backend_that_is_not_there_ends_the_connection() {
    let pass = ingress("pass", &[("pass.org", "/", "nobody")]);
    let objects = [annotated(pass, &[("ssl-passthrough", "true")])];
    let gateway = Gateway::start(&objects, &[]);
    let root = authority().der();
    let stream = tls(gateway.https, "pass.org", &root, b"x").await;
    let error = stream.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
    assert_eq!(gateway.reasons("no_backend"), 1);
}
