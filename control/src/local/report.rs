//! Tries the sample application by real requests and prints how to use the cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::layout::{Layout, NodeLayout};
use super::{sample, until};
use control_api::pki::Pki;

/// How long one try may take; the next begins at once.
const ONE_TRY: Duration = Duration::from_secs(1);

/// A way to reach the sample, and what came back.
pub(crate) struct Tried {
    name: &'static str,
    url: String,
    answer: String,
    took: Duration,
}

/// Asks the sample through its ClusterIP, a node's port and the gateway until each answers.
pub(crate) async fn try_sample(client: &Client, layout: &Layout, pki: &Pki) -> Result<Vec<Tried>> {
    let service: Service = Api::namespaced(client.clone(), "default")
        .get(sample::NAME)
        .await?;
    let spec = service.spec.context("the sample's Service has no spec")?;
    let port = spec
        .ports
        .as_ref()
        .and_then(|ports| ports.first())
        .context("the sample's Service has no port")?;
    let cluster_ip: SocketAddr =
        format!("{}:{}", spec.cluster_ip.unwrap_or_default(), port.port).parse()?;
    let node = layout
        .node_layouts()
        .into_iter()
        .next()
        .context("a cluster has at least one node")?;
    let node_port = SocketAddr::new(
        node.addresses[0],
        u16::try_from(port.node_port.unwrap_or_default())?,
    );
    let gateway = SocketAddr::new(node.addresses[0], 443);
    let tls = trusting(pki.ca_pem())?;
    Ok(vec![
        keep_trying("ClusterIP", format!("http://{cluster_ip}"), async || {
            plain(cluster_ip).await
        })
        .await,
        keep_trying("NodePort", format!("http://{node_port}"), async || {
            plain(node_port).await
        })
        .await,
        keep_trying("Ingress", format!("https://{}", sample::HOST), async || {
            secure(&tls, gateway).await
        })
        .await,
    ])
}

async fn keep_trying(
    name: &'static str,
    url: String,
    ask: impl AsyncFn() -> Result<String>,
) -> Tried {
    let last = std::cell::RefCell::new((String::new(), Duration::ZERO));
    until(async || {
        let begun = Instant::now();
        match tokio::time::timeout(ONE_TRY, ask()).await {
            Ok(Ok(answer)) => {
                *last.borrow_mut() = (answer, begun.elapsed());
                true
            }
            Ok(Err(error)) => {
                tracing::debug!("{name}: {error:#}");
                false
            }
            Err(_) => false,
        }
    })
    .await;
    let (answer, took) = last.into_inner();
    Tried {
        name,
        url,
        answer,
        took,
    }
}

async fn plain(address: SocketAddr) -> Result<String> {
    get(TcpStream::connect(address).await?, &address.to_string()).await
}

async fn secure(tls: &TlsConnector, gateway: SocketAddr) -> Result<String> {
    let name = ServerName::try_from(sample::HOST)?;
    let stream = tls
        .connect(name, TcpStream::connect(gateway).await?)
        .await?;
    get(stream, sample::HOST).await
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
) -> Result<String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/")
        .header("host", host)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    ensure!(status == StatusCode::OK, "answered {status}");
    Ok(String::from_utf8_lossy(&body).trim().to_owned())
}

fn trusting(ca_pem: &str) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Says how to use the cluster.
pub(crate) fn print(
    layout: &Layout,
    nodes: &[(NodeLayout, Node)],
    tried: &[Tried],
    took: Duration,
) {
    println!(
        "\ncluster {:?} is ready after {:.2} s\n",
        layout.name,
        took.as_secs_f64()
    );
    println!("  API         {}", layout.api_url());
    println!(
        "  KUBECONFIG  export KUBECONFIG={}",
        layout.kubeconfig().display()
    );
    for (node, object) in nodes {
        println!(
            "  node        {:<8} {:<32} Ready",
            object.name_any(),
            node.address_list()
        );
    }
    for Tried {
        name,
        url,
        answer,
        took,
    } in tried
    {
        println!(
            "  {name:<10}  {url:<32} answered {answer} in {:.1} ms",
            took.as_secs_f64() * 1000.0
        );
    }
    if !tried.is_empty() {
        let ca = layout.server_dir().join("pki/ca.crt");
        let gateway = layout
            .node_layouts()
            .first()
            .map(|node| node.addresses[0].to_string())
            .unwrap_or_default();
        println!(
            "\n  curl --cacert {} --resolve {host}:443:{gateway} https://{host}",
            ca.display(),
            host = sample::HOST
        );
    }
}
