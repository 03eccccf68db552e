//! Measures a running server: `cargo run --release -p control-api --example load -- --kubeconfig D/admin.kubeconfig`.
//!
//! Creates pods of about 2.5 KB with one client and with several, each on a connection of its own, gets them, lists them all
//! and deletes them again. Prints rates and latencies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// The administrator's kubeconfig.
    #[arg(long)]
    kubeconfig: std::path::PathBuf,
    /// How many pods to create in each round.
    #[arg(long, default_value_t = 2000)]
    pods: usize,
    /// How many clients in the second round.
    #[arg(long, default_value_t = 32)]
    clients: usize,
}

const PODS: &str = "/api/v1/namespaces/load/pods";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    anyhow::ensure!(installed.is_ok(), "another TLS provider is installed");
    let clients = connect(&args).await?;
    send(
        &clients[0],
        "POST",
        "/api/v1/namespaces",
        Some(json!({"metadata": {"name": "load"}})),
    )
    .await?;
    let account = json!({"metadata": {"name": "default"}});
    // With controllers running it is there already.
    drop(
        send(
            &clients[0],
            "POST",
            "/api/v1/namespaces/load/serviceaccounts",
            Some(account),
        )
        .await,
    );

    round("create, 1 client", &clients[..1], args.pods, |n| {
        ("POST", PODS.into(), Some(pod(&format!("a{n}"))))
    })
    .await?;
    round("create", &clients, args.pods, |n| {
        ("POST", PODS.into(), Some(pod(&format!("b{n}"))))
    })
    .await?;
    round("get", &clients, args.pods, |n| {
        ("GET", format!("{PODS}/b{n}"), None)
    })
    .await?;
    round("list of 500", &clients[..1], 20, |_| {
        ("GET", format!("{PODS}?limit=500"), None)
    })
    .await?;
    round("list of all", &clients[..1], 5, |_| {
        ("GET", PODS.into(), None)
    })
    .await?;
    round("list of 2 %", &clients[..1], 20, |_| {
        ("GET", format!("{PODS}?labelSelector=shard%3D7"), None)
    })
    .await?;
    round("delete", &clients, args.pods, |n| {
        ("DELETE", format!("{PODS}/b{n}"), None)
    })
    .await
}

async fn connect(args: &Args) -> anyhow::Result<Vec<Client>> {
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig).context("reading the kubeconfig")?;
    let mut clients = Vec::new();
    for _ in 0..args.clients {
        let config =
            Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default())
                .await?;
        clients.push(Client::try_from(config)?);
    }
    Ok(clients)
}

async fn send(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> anyhow::Result<usize> {
    let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .body(body)?;
    Ok(client.request_text(request).await?.len())
}

/// Sends `count` requests, shared among the clients, and prints how that went.
async fn round(
    name: &str,
    clients: &[Client],
    count: usize,
    request: impl Fn(usize) -> (&'static str, String, Option<Value>) + Send + Sync + Clone + 'static,
) -> anyhow::Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let workers: Vec<_> = clients
        .iter()
        .map(|client| {
            let (client, next, request) = (client.clone(), Arc::clone(&next), request.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return anyhow::Ok(times);
                    }
                    let (method, path, body) = request(number);
                    let sent = Instant::now();
                    let size = send(&client, method, &path, body).await?;
                    times.push((sent.elapsed(), size));
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await??);
    }
    let took = began.elapsed();
    print(name, clients.len(), took, times);
    Ok(())
}

fn print(name: &str, clients: usize, took: Duration, mut times: Vec<(Duration, usize)>) {
    times.sort();
    let at = |percent: usize| {
        times[(times.len() * percent / 100).min(times.len() - 1)]
            .0
            .as_secs_f64()
            * 1000.0
    };
    println!(
        "{name:18} {clients:3} clients {:8.0}/s  p50 {:7.2} ms  p99 {:7.2} ms  {:8} bytes",
        times.len() as f64 / took.as_secs_f64(),
        at(50),
        at(99),
        times.iter().map(|(_, size)| size).max().unwrap_or(&0),
    );
}

/// A pod of about 2.5 KB once the server has completed it.
fn pod(name: &str) -> Value {
    let shard = name.bytes().map(usize::from).sum::<usize>() % 50;
    json!({
        "metadata": {"name": name, "labels": {"app": "load", "shard": shard.to_string()}},
        "spec": {"containers": [{
            "name": "main", "image": "registry.example/load:1", "ports": [{"containerPort": 8080}],
            "env": [{"name": "A", "value": "x".repeat(400)}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
        }]},
    })
}
