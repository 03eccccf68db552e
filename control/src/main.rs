//! `portolan`: the Kubernetes API, its controllers, a node agent, and a whole cluster on one machine.

mod local;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use kube::config::Kubeconfig;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use local::{ClusterArgs, down, enter, supervisor, up};

/// Kubernetes on one machine: a real API, real pods, eBPF load balancing and an HTTPS gateway.
#[derive(Parser, Debug)]
#[command(name = "portolan", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a cluster on this machine in the background, and return when it is ready.
    Up(up::UpArgs),
    /// Remove a cluster from this machine: processes, namespaces, links, cgroups, mounts, pins and data.
    Down(ClusterArgs),
    /// Run the control plane: API server, controllers and scheduler.
    Server(ServerCommand),
    /// Run the node agent: it registers this machine and runs the pods bound to it.
    Node(Box<NodeCommand>),
    /// Print a kubeconfig for a user of a control plane on this machine.
    Kubeconfig(KubeconfigArgs),
    /// Work with the images that pods on this machine start from.
    #[command(subcommand)]
    Image(ImageCommand),
    #[command(hide = true)]
    Supervise(supervisor::SuperviseArgs),
    #[command(hide = true)]
    Enter(enter::EnterArgs),
}

#[derive(clap::Args, Debug, Clone)]
struct ServerCommand {
    #[command(flatten)]
    api: control_api::ServerArgs,
    #[command(flatten)]
    controllers: control_controllers::ControllersArgs,
}

#[derive(clap::Args, Debug, Clone)]
struct NodeCommand {
    #[command(flatten)]
    agent: control_node::NodeArgs,
    #[command(flatten)]
    dns: control_dns::DnsArgs,
    /// Remove everything the node's pods have left on this machine, and exit.
    #[arg(long)]
    cleanup: bool,
}

#[derive(clap::Args, Debug)]
struct KubeconfigArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Data directory of the control plane [default: that of the local cluster]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// URL of the API server, as the user reaches it.
    #[arg(long, default_value = "https://172.30.0.1:6443")]
    server: String,
    /// Name of the user.
    #[arg(long, default_value = "admin")]
    user: String,
    /// Groups of the user.
    #[arg(long, value_delimiter = ',', default_value = "system:masters")]
    groups: Vec<String>,
}

#[derive(Subcommand, Debug)]
enum ImageCommand {
    /// Load an OCI layout (directory or tar) or a `docker save` archive.
    Load {
        #[command(flatten)]
        store: ImageStoreArgs,
        /// The archive or directory.
        path: PathBuf,
        /// Name of the image, where the archive holds one without a name.
        #[arg(long)]
        image_name: Option<String>,
    },
    /// List the images that are here.
    List {
        #[command(flatten)]
        store: ImageStoreArgs,
    },
}

#[derive(clap::Args, Debug)]
struct ImageStoreArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The image directory [default: that of the local cluster]
    #[arg(long)]
    image_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    if let Some(code) = control_node::hidden_command() {
        return code;
    }
    match start(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portolan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<()> {
    // Entering another namespace and cgroup must come before any thread is started.
    if let Command::Enter(args) = command {
        match enter::run(args)? {}
    }
    start_logging();
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed twice"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(command))
}

/// Logs go to standard error. The Kubernetes client reports every refused connection itself, beside the caller who
/// retries and says so.
fn start_logging() {
    let quiet = || EnvFilter::new("info,kube_client::client::builder=off");
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| quiet()))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Down(args) => down::run(&args).await,
        Command::Server(args) => server(args, until_terminated()?).await,
        Command::Node(args) if args.cleanup => Ok(control_node::cleanup(&args.agent)?),
        Command::Node(args) => node(*args, until_terminated()?).await,
        Command::Kubeconfig(args) => kubeconfig(&args),
        Command::Image(command) => image(command),
        Command::Supervise(args) => supervisor::run(args).await,
        Command::Enter(_) => unreachable!("main has dealt with it"),
    }
}

/// The controllers' user name says all there is to say of them.
const NO_GROUPS: [&str; 0] = [];

/// The API server, and the controllers as its client.
async fn server(args: ServerCommand, shutdown: CancellationToken) -> Result<()> {
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let api = tokio::spawn(control_api::run(args.api.clone(), ready, shutdown.clone()));
    let controllers = async {
        if is_ready.await.is_err() {
            return Ok(());
        }
        let pki = control_api::pki::Pki::open(&args.api.data_dir)?;
        let url = format!("https://127.0.0.1:{}", args.api.bind.port());
        let text = pki.client_kubeconfig(&url, "system:kube-controller-manager", &NO_GROUPS)?;
        let kubeconfig = Kubeconfig::from_yaml(&text)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        let mut settings = args.controllers;
        settings
            .root_ca_file
            .get_or_insert_with(|| args.api.data_dir.join("pki/ca.crt"));
        control_controllers::run(kube::Client::try_from(config)?, settings, shutdown.clone())
            .await?;
        anyhow::Ok(())
    };
    let result = controllers.await;
    shutdown.cancel();
    api.await.context("the API server panicked")??;
    result
}

/// The node agent, and the DNS server of its pods.
async fn node(args: NodeCommand, shutdown: CancellationToken) -> Result<()> {
    let config = match &args.agent.kubeconfig {
        Some(path) => {
            kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &Default::default())
                .await?
        }
        None => kube::Config::infer().await?,
    };
    let settings = args.dns.settings(&args.agent.cluster_domain);
    let dns = control_dns::run(kube::Client::try_from(config)?, settings, shutdown.clone());
    let agent = control_node::run(args.agent, shutdown.clone());
    // Whichever fails takes the other down, and whoever started us starts both again.
    let ended = shutdown.clone().drop_guard();
    tokio::try_join!(async { anyhow::Ok(dns.await?) }, async {
        anyhow::Ok(agent.await?)
    },)?;
    drop(ended);
    Ok(())
}

fn until_terminated() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(shutdown)
}

fn kubeconfig(args: &KubeconfigArgs) -> Result<()> {
    let data_dir = args
        .data_dir
        .clone()
        .unwrap_or_else(|| args.cluster.state_dir().join("server"));
    anyhow::ensure!(
        data_dir.join("pki/ca.crt").exists(),
        "no control plane has started in {} yet: start one with `portolan up` or `portolan server`",
        data_dir.display()
    );
    let pki = control_api::pki::Pki::open(&data_dir)?;
    let groups: Vec<&str> = args.groups.iter().map(String::as_str).collect();
    print!(
        "{}",
        pki.client_kubeconfig(&args.server, &args.user, &groups)?
    );
    Ok(())
}

fn image(command: ImageCommand) -> Result<()> {
    let open = |args: &ImageStoreArgs| {
        let dir = args
            .image_dir
            .clone()
            .unwrap_or_else(|| args.cluster.state_dir().join("images"));
        control_node::image::ImageStore::open(&dir)
            .with_context(|| format!("opening {}", dir.display()))
    };
    match command {
        ImageCommand::Load {
            store,
            path,
            image_name,
        } => {
            for name in open(&store)?.load_archive(&path, image_name.as_deref())? {
                println!("loaded {name}");
            }
        }
        ImageCommand::List { store } => {
            for image in open(&store)?.list()? {
                println!("{}", image.name);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn no_two_flags_of_a_command_collide() {
        super::Cli::command().debug_assert();
    }
}
