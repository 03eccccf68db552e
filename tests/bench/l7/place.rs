//! Where the gateways are measured: a network of one machine, a control plane, and backends.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::grpc;
use super::peers;
use super::process::{self, Process};
use crate::sandbox::Sandbox;

/// The host that everybody serves, that for gRPC apart.
pub(crate) const HOST: &str = "bench.example";
/// Where the backend listens. Not on the loopback's own network, which no EndpointSlice may name.
pub(crate) const BACKEND: &str = "10.7.0.1:8080";
/// Requests to the API at a time.
const WRITERS: usize = 32;

/// The files of a run.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) directory: PathBuf,
    pub(crate) kubeconfig: PathBuf,
}

/// The machine. Everything that is started from here on is in it.
pub(crate) struct Machine {
    pub(crate) files: Files,
    /// What follows the certificate that all contestants show.
    pub(crate) certificate: Vec<u8>,
    runtime: Runtime,
    client: Client,
    _server: Process,
    _backend: Process,
}

impl Machine {
    /// Moves this process into a network of its own, and starts the control plane and the backends there.
    pub(crate) fn enter(sandbox: &Sandbox) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        for line in ["link set lo up", "address add 10.7.0.1/32 dev lo"] {
            ip(line)?;
        }
        // Else connections that have just ended keep the ports of those to come.
        fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10240 65000")?;
        fs::write("/proc/sys/net/core/somaxconn", "4096")?;
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most).context("allowing many sockets")?;
        let directory = sandbox.directory("l7")?;
        name_hosts(&directory)?;
        let certificate = certify(&directory)?;
        let files = Files {
            kubeconfig: directory.join("server/admin.kubeconfig"),
            directory,
        };
        let mut backend = Process::start(peers::backend(&files)?, "backend", &files.directory)?;
        backend.wait(|| TcpStream::connect(BACKEND).is_ok())?;
        grpc::serve()?;
        let server = start_server(&files)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = runtime.block_on(connect(&files.kubeconfig))?;
        let machine = Self {
            files,
            certificate,
            runtime,
            client,
            _server: server,
            _backend: backend,
        };
        machine.furnish()?;
        Ok(machine)
    }

    /// What every gateway needs: a class, a certificate, Services with the backends, and routes to them.
    fn furnish(&self) -> Result<()> {
        for (name, controller) in [
            ("portolan", "portolan.dev/ingress"),
            ("one", "portolan.dev/one"),
            ("many", "portolan.dev/many"),
            ("none", "portolan.dev/none"),
            ("differential", "portolan.dev/differential"),
        ] {
            let class: IngressClass = object(json!({
                "metadata": {"name": name}, "spec": {"controller": controller},
            }))?;
            self.create_all(Api::all(self.client.clone()), vec![class])?;
        }
        let text = |name: &str| fs::read_to_string(self.files.directory.join(name));
        let secret: Secret = object(json!({
            "metadata": {"name": "tls"}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": text("tls.crt")?, "tls.key": text("tls.key")?},
        }))?;
        self.create_all(self.api(), vec![secret])?;
        self.expose("web", HOST, BACKEND, None)?;
        let h2c = "kubernetes.io/h2c";
        self.expose("calls", grpc::HOST, grpc::BACKEND, Some(h2c))
    }

    /// Leads all requests for `host`, plain ones too, to the Service `name`, whose backend is spoken to in `protocol`.
    fn expose(&self, name: &str, host: &str, backend: &str, protocol: Option<&str>) -> Result<()> {
        let service: Service = object(json!({
            "metadata": {"name": name},
            "spec": {"ports": [{"name": "http", "port": 80, "appProtocol": protocol}]},
        }))?;
        self.create_all(self.api(), vec![service])?;
        let (address, port) = backend.split_once(':').context("an address and a port")?;
        let slice: EndpointSlice = object(json!({
            "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{
                "name": "http", "port": port.parse::<u16>()?, "protocol": "TCP", "appProtocol": protocol,
            }],
        }))?;
        self.create_all(self.api(), vec![slice])?;
        let service = json!({"service": {"name": name, "port": {"number": 80}}});
        let route: Ingress = object(json!({
            "metadata": {
                "name": name, "annotations": {"nginx.ingress.kubernetes.io/ssl-redirect": "false"},
            },
            "spec": {
                "ingressClassName": "portolan",
                "tls": [{"hosts": [host], "secretName": "tls"}],
                "rules": [{
                    "host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": service}]},
                }],
            },
        }))?;
        self.create_all(self.api(), vec![route])
    }

    /// The API of a kind in the default namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates `objects`, many at a time.
    pub(crate) fn create_all<K>(&self, api: Api<K>, objects: Vec<K>) -> Result<()>
    where
        K: kube::Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
    {
        let parameters = PostParams::default();
        let writes = futures::stream::iter(&objects)
            .map(|object| api.create(&parameters, object))
            .buffer_unordered(WRITERS)
            .try_for_each(|_| std::future::ready(Ok(())));
        self.runtime.block_on(writes).context("writing to the API")
    }

    /// Changes an object by a merge patch.
    pub(crate) fn patch(&self, api: &Api<Ingress>, name: &str, patch: &Value) -> Result<()> {
        let parameters = PatchParams::default();
        let patch = Patch::Merge(patch);
        let write = api.patch(name, &parameters, &patch);
        self.runtime.block_on(write).context("writing to the API")?;
        Ok(())
    }
}

/// An Ingress that leads these paths of a host to the backend.
pub(crate) fn ingress(name: &str, class: &str, host: &str, paths: &[&str]) -> Result<Ingress> {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let paths: Vec<Value> = paths
        .iter()
        .map(|path| json!({"path": path, "pathType": "Prefix", "backend": backend}))
        .collect();
    object(json!({
        "metadata": {"name": name},
        "spec": {"ingressClassName": class, "rules": [{"host": host, "http": {"paths": paths}}]},
    }))
}

/// An object of the API from its JSON.
pub(crate) fn object<K: DeserializeOwned>(value: Value) -> Result<K> {
    Ok(serde_json::from_value(value)?)
}

fn start_server(files: &Files) -> Result<Process> {
    let mut command = process::Place::Beside.command(&harness::program("portolan"));
    command
        .arg("server")
        .arg("--data-dir")
        .arg(files.directory.join("server"))
        .args(["--bind", "127.0.0.1:6443"])
        .env("RUST_LOG", "warn");
    let mut server = Process::start(command, "server", &files.directory)?;
    server.wait(|| files.kubeconfig.exists() && TcpStream::connect("127.0.0.1:6443").is_ok())?;
    Ok(server)
}

/// Connects to the control plane once it has a default namespace.
async fn connect(kubeconfig: &Path) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(read, &options).await?;
    let client = Client::try_from(config)?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for _ in 0..1000 {
        if namespaces
            .get_opt("default")
            .await
            .is_ok_and(|found| found.is_some())
        {
            return Ok(client);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("the control plane has no default namespace")
}

/// Makes the certificate of the hosts, as nginx and HAProxy want their files; returns it in DER.
fn certify(directory: &Path) -> Result<Vec<u8>> {
    let made = rcgen::generate_simple_self_signed([HOST, grpc::HOST].map(str::to_owned))?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (name, text) in [
        ("tls.crt", certificate.clone()),
        ("tls.key", key.clone()),
        ("tls.pem", certificate + &key),
    ] {
        fs::write(directory.join(name), text)?;
    }
    Ok(made.cert.der().to_vec())
}

/// Lets programs find the hosts by their names. The mount is this process's own.
fn name_hosts(directory: &Path) -> Result<()> {
    let path = directory.join("hosts");
    fs::write(
        &path,
        format!("127.0.0.1 localhost {HOST} {}\n", grpc::HOST),
    )?;
    let none = None::<&str>;
    mount(Some(&path), "/etc/hosts", none, MsFlags::MS_BIND, none).context("naming the host")
}

fn ip(line: &str) -> Result<()> {
    let status = std::process::Command::new("ip")
        .args(line.split(' '))
        .status()
        .context("running ip")?;
    ensure!(status.success(), "ip {line} failed");
    Ok(())
}

/// Whether a gateway answers for the host at `port`.
pub(crate) fn answers(port: u16) -> bool {
    status(port, HOST, "/").is_some_and(|status| status == 200)
}

/// The status that a gateway answers with.
pub(crate) fn status(port: u16, host: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    std::str::from_utf8(&answer[9..]).ok()?.parse().ok()
}
