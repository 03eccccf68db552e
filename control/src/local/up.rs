//! `portolan up`: builds a cluster, waits until everything in it is ready, tries it, and says how to use it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt as _};

use super::layout::{Layout, NodeLayout};
use super::process::Process;
use super::{
    ClusterArgs, credentials, network, outside, place, preflight, report, sample, supervisor, until,
};

/// What `portolan up` takes.
#[derive(clap::Args, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Number of nodes.
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Port of the API server.
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    /// Address ranges of pods, one per family.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.244.0.0/16,fd00:10:244::/48"
    )]
    cluster_cidr: Vec<IpNetwork>,
    /// Address ranges of ClusterIPs, one per family.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.96.0.0/16,fd00:10:96::/112"
    )]
    service_cidr: Vec<IpNetwork>,
    /// Registries that nodes speak to without TLS (host or host:port), besides loopback addresses; the host is 172.30.0.1.
    #[arg(long, value_name = "REGISTRY", value_delimiter = ',')]
    insecure_registry: Vec<String>,
    /// Leave the sample application out.
    #[arg(long)]
    no_sample: bool,
    /// Seconds to wait for everything to be ready.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// Remove the cluster when this process ends; for tests and CI jobs.
    #[arg(long)]
    owner_pid: Option<i32>,
}

/// Builds the cluster. Doing it again finds everything in place and only checks it.
pub(crate) async fn run(args: UpArgs) -> Result<()> {
    let timeout = Duration::from_secs(args.timeout);
    match tokio::time::timeout(timeout, build(&args)).await {
        Ok(result) => result,
        Err(_) => bail!(
            "not ready after {} s; what the daemons said is in {}",
            args.timeout,
            args.cluster.state_dir().join("logs").display()
        ),
    }
}

async fn build(args: &UpArgs) -> Result<()> {
    let begun = Instant::now();
    let layout = plan(args)?;
    let steps = Steps::new();
    steps.run("machine", async { preflight::check() }).await?;
    let pki = steps.run("keys and certificates", prepare(&layout)).await?;
    steps
        .run("network and nodes", create_places(&layout))
        .await?;
    if !args.no_sample {
        steps
            .run("images", async { sample::import_images(&layout) })
            .await?;
    }
    start_supervisor(&layout, args.owner_pid)?;
    let client = steps.run("API server", connect(&layout)).await?;
    if !args.no_sample {
        steps
            .run("sample application", sample::apply(&client, &pki))
            .await?;
    }
    let nodes = steps
        .run("nodes ready", ready_nodes(&client, &layout))
        .await?;
    steps.run("routes", route_to(&layout, &nodes)).await?;
    let tried = match args.no_sample {
        true => Vec::new(),
        false => {
            steps
                .run(
                    "sample answering",
                    report::try_sample(&client, &layout, &pki),
                )
                .await?
        }
    };
    report::print(&layout, &nodes, &tried, begun.elapsed());
    Ok(())
}

/// The layout asked for, which must be the one that is there, if one is.
fn plan(args: &UpArgs) -> Result<Layout> {
    let layout = Layout {
        name: args.cluster.name.clone(),
        state_dir: std::path::absolute(args.cluster.state_dir())?,
        nodes: args.nodes,
        api_port: args.api_port,
        cluster_cidrs: args.cluster_cidr.clone(),
        service_cidrs: args.service_cidr.clone(),
        insecure_registries: args.insecure_registry.clone(),
    };
    layout.check().map_err(anyhow::Error::msg)?;
    let file = Layout::file(&layout.state_dir);
    if let Ok(text) = fs::read(&file) {
        let there: Layout =
            serde_json::from_slice(&text).with_context(|| format!("parsing {}", file.display()))?;
        if there != layout {
            bail!(
                "cluster {:?} is there already with other settings ({}): remove it first with `portolan down --name {}`",
                layout.name,
                file.display(),
                layout.name
            );
        }
    } else if fs::read_dir(&layout.state_dir).is_ok_and(|mut entries| entries.next().is_some()) {
        // `down` removes the whole directory, so it must have been ours from the start.
        bail!(
            "{} is not empty and holds no cluster: choose another --state-dir",
            layout.state_dir.display()
        );
    }
    Ok(layout)
}

async fn prepare(layout: &Layout) -> Result<control_api::pki::Pki> {
    // The description comes first: with it `down` can remove whatever of the rest there is.
    let create =
        |dir: &Path| fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()));
    create(&layout.state_dir)?;
    let file = Layout::file(&layout.state_dir);
    fs::write(&file, serde_json::to_vec_pretty(layout)?)
        .with_context(|| format!("writing {}", file.display()))?;
    create(&layout.server_dir())?;
    create(&layout.image_dir())?;
    create(&layout.state_dir.join("logs"))?;
    create(&layout.state_dir.join("run"))?;
    for node in layout.node_layouts() {
        create(&node.dir)?;
    }
    credentials::write_all(layout)
}

async fn create_places(layout: &Layout) -> Result<()> {
    network::create_bridge(layout).await?;
    for node in layout.node_layouts() {
        place::create_cgroup(&node)?;
        place::create_netns(&node.netns)?;
        network::connect_node(layout, &node).await?;
    }
    outside::open(layout)
}

/// Leaves a supervisor running in the background, unless one does already.
fn start_supervisor(layout: &Layout, owner: Option<i32>) -> Result<()> {
    if Process::recall(&layout.pid_file(supervisor::NAME)).is_some() {
        return Ok(());
    }
    let log = supervisor::open_log(&layout.log(supervisor::NAME))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("supervise")
        .arg("--state-dir")
        .arg(&layout.state_dir);
    if let Some(owner) = owner {
        command.arg("--owner-pid").arg(owner.to_string());
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command.spawn().context("starting the supervisor")?;
    Ok(())
}

/// A client of the API server, once it answers.
async fn connect(layout: &Layout) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(layout.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    until(async || client.apiserver_version().await.is_ok()).await;
    Ok(client)
}

/// The nodes with their Node objects, once all are ready and have addresses for pods.
async fn ready_nodes(client: &Client, layout: &Layout) -> Result<Vec<(NodeLayout, Node)>> {
    let api: Api<Node> = Api::all(client.clone());
    let layouts = layout.node_layouts();
    loop {
        let found = api.list(&ListParams::default()).await?.items;
        let pair = |node: &NodeLayout| {
            let object = found
                .iter()
                .find(|object| object.name_any() == node.name && is_ready(object))?;
            Some((node.clone(), object.clone()))
        };
        if let Some(nodes) = layouts.iter().map(pair).collect() {
            return Ok(nodes);
        }
        tokio::time::sleep(super::POLL).await;
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && !pod_cidrs(node).is_empty()
}

fn pod_cidrs(node: &Node) -> Vec<IpNetwork> {
    let spec = node.spec.iter();
    spec.flat_map(|spec| spec.pod_cidrs.iter().flatten())
        .filter_map(|cidr| cidr.parse().ok())
        .collect()
}

/// Lets the host reach pods at their nodes, and ClusterIPs through the first node, whose dataplane translates them.
async fn route_to(layout: &Layout, nodes: &[(NodeLayout, Node)]) -> Result<()> {
    for (node, object) in nodes {
        for cidr in pod_cidrs(object) {
            network::add_host_route(cidr, node).await?;
        }
    }
    let (first, _) = nodes.first().context("a cluster has at least one node")?;
    for cidr in &layout.service_cidrs {
        network::add_host_route(*cidr, first).await?;
    }
    Ok(())
}

/// Shows what is being done, and afterwards how long it took.
struct Steps {
    style: ProgressStyle,
}

impl Steps {
    fn new() -> Steps {
        let style =
            ProgressStyle::with_template("  {spinner} {msg}").expect("the template is legal");
        Steps { style }
    }

    async fn run<T>(&self, name: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let bar = ProgressBar::new_spinner()
            .with_style(self.style.clone())
            .with_message(name);
        bar.enable_steady_tick(Duration::from_millis(80));
        let result = work.await;
        bar.finish_and_clear();
        let value = result.with_context(|| name.to_owned())?;
        println!("  ✓ {name:<24} {:>6} ms", begun.elapsed().as_millis());
        Ok(value)
    }
}
