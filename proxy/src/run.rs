//! Starts the parts of the daemon and joins them by channels.
//!
//! | part | owns | speaks to |
//! |---|---|---|
//! | [`watch`](mod@proxy::watch) | the watches | the reconciler, by what they see, and events |
//! | [`devices`](proxy::devices) | the netlink socket | the reconciler and the attacher, by the latest state |
//! | [`attacher`](proxy::attacher) | programs and links | nobody |
//! | [`rounds`](proxy::rounds) of the reconciler | the world, the tables and the maps | health, health checks and events |
//! | [`stale_sockets`](proxy::stale_sockets), a thread | its network namespace | nobody |
//! | [`conntrack`](proxy::conntrack) | the sweep | nobody |
//! | [`health_check`](proxy::health_check) | the listeners of health check node ports | load balancers that ask, events |
//! | [`events`](proxy::events) | notes for the owners of Services | the API server |
//! | [`health`](proxy::health) | two listeners | whoever asks |

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sys::prctl::set_no_new_privs;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use proxy::attach::{self, Dataplane, Options};
use proxy::config::Config;
use proxy::devices;
use proxy::events::{self, Events};
use proxy::features::Features;
use proxy::health::{self, Health};
use proxy::maps::{Conntrack, KernelMaps, Sockets};
use proxy::metrics::Metrics;
use proxy::node::{self, Settings};
use proxy::reconcile::Reconciler;
use proxy::rounds::{self, Listeners, Orders};
use proxy::service_metrics::KernelCounters;
use proxy::{
    attacher, capabilities, conntrack, handover, health_check, stale_sockets, watch as api,
};

/// How many events may wait for the reconciler.
const EVENTS: usize = 1024;
/// How long the API server may be silent in the midst of an answer before it is asked again. A watch is never silent for
/// so long: the server ends it after 290 seconds.
const SILENCE: Duration = Duration::from_secs(300);

/// Runs the daemon until `shutdown`. What it installed stays in the kernel.
pub(crate) async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    if config.cleanup {
        let removed = attach::cleanup(&config.bpf_root)?;
        info!(root = %config.bpf_root.display(), removed, "cleaned up");
        return Ok(());
    }
    let client = client(&config).await?;
    let node_name = node_name(&config)?;
    info!(
        node = node_name,
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );
    let healthz = listen("health", config.healthz_bind_address).await?;
    let metrics_listener = listen("metrics", config.metrics_bind_address).await?;

    let known = devices::look(&config.devices)
        .await
        .context("cannot look at the node's devices")?;
    let mut dataplane = Dataplane::open(
        &config.bpf_root,
        &config.cgroup_root,
        Options {
            sizes: config.map_sizes(),
            features: Features::probe(),
            xdp: config.xdp.clone(),
        },
    )?;
    let mut maps = KernelMaps::take(dataplane.programs())?;
    let migration = Duration::from_secs(config.migration_seconds.into());
    handover::write(&mut maps, config.forwarding, migration, conntrack::now())?;
    let connections = Conntrack::take(dataplane.programs())?;
    let sockets = Sockets::take(dataplane.programs())?;
    dataplane.attach_sockets()?;
    if known.uplinks.is_empty() {
        warn!(
            "no device towards the outside yet; only connections that start on this node are served"
        );
    }
    let reconciler = Reconciler::new(settings(&config, &node_name)?, maps)?;

    let counters = KernelCounters::new(config.bpf_root.clone(), config.metrics_service_limit);
    let metrics = Metrics::with_counters(counters);
    let (health, health_seen) = watch::channel(Health::new());
    let (devices, devices_seen) = watch::channel(known);
    let (seen, events_seen) = mpsc::channel(EVENTS);
    let (retired, retired_seen) = channel();
    let (full, full_seen) = mpsc::channel(1);
    // It ends when the reconciler does.
    thread::Builder::new()
        .name("stale-sockets".to_owned())
        .spawn(move || {
            if let Err(error) = capabilities::keep(&capabilities::NAMESPACES) {
                warn!(?error, "a thread keeps more rights than it needs");
            }
            stale_sockets::run(&sockets, &retired_seen);
        })
        .context("cannot start a thread")?;
    // Whatever is started from here on has no more rights than this thread, and no program gets them back.
    set_no_new_privs().context("cannot forbid new rights")?;
    capabilities::keep(&capabilities::DAEMON).context("cannot give up rights")?;
    let stop = || shutdown.child_token();
    let mut parts = JoinSet::new();
    let (notes, left) = Events::channel();
    let (checks, checks_seen) = mpsc::unbounded_channel();
    parts.spawn(events::run(client.clone(), node_name.clone(), left, stop()));
    parts.spawn(health_check::run(
        checks_seen,
        node_name.clone(),
        health_seen.clone(),
        notes.clone(),
        stop(),
    ));
    parts.spawn(api::run(client, node_name, seen, notes.clone(), stop()));
    parts.spawn(devices::follow(config.devices.clone(), devices, stop()));
    parts.spawn(attacher::run(
        dataplane,
        devices_seen.clone(),
        health.clone(),
        full_seen,
        stop(),
    ));
    parts.spawn(conntrack::run(connections, metrics.clone(), stop()));
    parts.spawn(health::serve_health(
        healthz,
        health_seen,
        metrics.clone(),
        stop(),
    ));
    parts.spawn(health::serve_metrics(
        metrics_listener,
        metrics.clone(),
        stop(),
    ));
    parts.spawn(rounds::run(
        reconciler,
        events_seen,
        devices_seen,
        Orders { retired, full },
        Listeners {
            health,
            checks,
            events: notes,
            metrics,
        },
        stop(),
    ));

    // No part ends by itself but by a fault, and no part is of use without the others.
    while let Some(ended) = parts.join_next().await {
        if !shutdown.is_cancelled() {
            shutdown.cancel();
            ended.context("a part of the daemon failed")?;
            anyhow::bail!("a part of the daemon ended");
        }
    }
    info!("stopped; the load balancer goes on with what it has");
    Ok(())
}

async fn client(config: &Config) -> anyhow::Result<kube::Client> {
    let mut settings = match &config.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?
        }
        None => kube::Config::infer()
            .await
            .context("found no kubeconfig and no service account")?,
    };
    settings.read_timeout = Some(SILENCE);
    settings.reset_reader_on_write = true;
    kube::Client::try_from(settings).context("cannot set up the client of the API server")
}

/// Node names are lower case, whatever the host's name is.
fn node_name(config: &Config) -> anyhow::Result<String> {
    if let Some(name) = &config.hostname_override {
        return Ok(name.clone());
    }
    let name = nix::unistd::gethostname().context("cannot read the host's name")?;
    Ok(name.to_string_lossy().trim().to_lowercase())
}

async fn listen(
    what: &str,
    address: std::net::SocketAddr,
) -> anyhow::Result<tokio::net::TcpListener> {
    health::listen(address)
        .await
        .with_context(|| format!("cannot serve {what} on {address}"))
}

fn settings(config: &Config, node_name: &str) -> anyhow::Result<Settings> {
    Ok(Settings {
        node_name: node_name.to_owned(),
        node_port_addresses: config.nodeport_addresses.clone(),
        algorithm: config.load_balancing_algorithm,
        masquerade_ports: config.masquerade_ports,
        netns_cookie: node::netns_cookie()
            .context("cannot tell this network namespace from others")?,
    })
}
