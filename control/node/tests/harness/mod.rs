//! One API server and one node agent in a network namespace of their own, for all tests of this program.

pub(crate) mod registry;

use std::fs;
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use control_node::NodeArgs;
use control_node::image::{FileContent, ImageConfig, ImageFile, ImageStore};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// The node's addresses, on its loopback link.
const NODE_IPS: [&str; 2] = ["10.99.0.1", "fd99::1"];
const POD_RANGES: [&str; 2] = ["10.99.1.0/24", "fd99:1::/64"];
const API: &str = "127.0.0.1:6443";
const NODE: &str = "node-1";
pub(crate) const BUSYBOX: &str = "busybox:test";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What these tests need and this machine lacks.
pub(crate) fn missing() -> Option<String> {
    let mut missing = Vec::new();
    if !nix::unistd::Uid::effective().is_root() {
        missing.push("root");
    }
    if !Path::new("/bin/busybox").exists() {
        missing.push("/bin/busybox (Debian: busybox-static)");
    }
    if Command::new("kubectl")
        .arg("version")
        .arg("--client")
        .output()
        .is_err()
    {
        missing.push("kubectl");
    }
    if !Path::new("/usr/bin/script").exists() {
        missing.push("script (Debian: bsdutils)");
    }
    if !Path::new("/usr/bin/docker-registry").exists() {
        missing.push("docker-registry");
    }
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// Moves this process, which has one thread, into a network namespace of its own.
pub(crate) fn enter_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    node: NodeArgs,
}

/// The API server and the node agent under test.
pub(crate) struct Cluster {
    runtime: Runtime,
    pub(crate) client: Client,
    args: NodeArgs,
    dir: tempfile::TempDir,
    api_shutdown: CancellationToken,
    agent: std::sync::Mutex<Option<Agent>>,
    /// Held for reading while a test counts on the agent, for writing while one ends it.
    agent_stays: std::sync::RwLock<()>,
}

struct Agent {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), control_node::Error>>,
}

impl Cluster {
    pub(crate) fn start() -> Result<Self> {
        let runtime = Runtime::new()?;
        let dir = tempfile::tempdir()?;
        runtime.block_on(set_up_loopback())?;
        let api_shutdown = CancellationToken::new();
        runtime.block_on(start_api(dir.path(), api_shutdown.clone()))?;
        let args = node_args(dir.path())?;
        import_busybox(&args.image_dir)?;
        let client = runtime.block_on(connect(&dir.path().join("api/admin.kubeconfig")))?;
        let cluster = Self {
            runtime,
            client,
            args,
            dir,
            api_shutdown,
            agent: std::sync::Mutex::new(None),
            agent_stays: std::sync::RwLock::new(()),
        };
        cluster.furnish()?;
        cluster.start_agent()?;
        Ok(cluster)
    }

    /// Makes what controllers would make in the namespace.
    fn furnish(&self) -> Result<()> {
        let ca = control_api::pki::Pki::open(&self.dir.path().join("api"))?
            .ca_pem()
            .to_owned();
        self.create(
            &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        )?;
        let name = "kube-root-ca.crt";
        self.create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"ca.crt": ca}}))
    }

    /// Runs a test that may have others beside it.
    pub(crate) fn beside_others(&self, test: fn(&Self) -> Result<()>) -> Result<()> {
        let _stays = self.agent_stays.read().expect("no test panics alone");
        test(self)
    }

    /// Runs a test that ends the agent, which would cut off the commands of others.
    pub(crate) fn alone(&self, test: fn(&Self) -> Result<()>) -> Result<()> {
        let _alone = self.agent_stays.write().expect("no test panics alone");
        test(self)
    }

    /// Starts the node agent, and gives the node its pod ranges as the node-ipam controller would.
    pub(crate) fn start_agent(&self) -> Result<()> {
        let shutdown = CancellationToken::new();
        let task = self
            .runtime
            .spawn(control_node::run(self.args.clone(), shutdown.clone()));
        *self.agent.lock().expect("no test panics with this lock") = Some(Agent { shutdown, task });
        let nodes: Api<Node> = Api::all(self.client.clone());
        eventually("the node is registered", || {
            let Some(node) = self.block_on(nodes.get_opt(NODE))? else {
                bail!("no node")
            };
            let ranges = json!({"spec": {"podCIDR": POD_RANGES[0], "podCIDRs": POD_RANGES}});
            if node.spec.and_then(|spec| spec.pod_cidrs).is_none() {
                self.block_on(nodes.patch(NODE, &PatchParams::default(), &Patch::Merge(ranges)))?;
            }
            Ok(())
        })
    }

    /// Ends the node agent, as an upgrade would; containers go on.
    pub(crate) fn stop_agent(&self) -> Result<()> {
        let agent = self
            .agent
            .lock()
            .expect("no test panics with this lock")
            .take()
            .context("no agent")?;
        agent.shutdown.cancel();
        self.runtime.block_on(agent.task)??;
        Ok(())
    }

    pub(crate) fn block_on<T, E>(&self, future: impl Future<Output = Result<T, E>>) -> Result<T>
    where
        anyhow::Error: From<E>,
    {
        Ok(self.runtime.block_on(future)?)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates any object of the default namespace.
    pub(crate) fn create(&self, object: &Value) -> Result<()> {
        let manifest = serde_json::to_string(object)?;
        let file = self.dir.path().join(format!(
            "{}.json",
            object["metadata"]["name"].as_str().unwrap_or("object")
        ));
        fs::write(&file, manifest)?;
        let output = self.kubectl(&["create", "-f", &file.to_string_lossy()])?;
        ensure!(
            output.status.success(),
            "kubectl create: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Creates a pod on the node; `spec` is its spec without what all these pods share.
    pub(crate) fn run(&self, name: &str, mut spec: Value) -> Result<Guard<'_>> {
        spec["nodeName"] = json!(NODE);
        spec["terminationGracePeriodSeconds"]
            .as_i64()
            .is_none()
            .then(|| spec["terminationGracePeriodSeconds"] = json!(2));
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container["image"]
                    .is_null()
                    .then(|| container["image"] = json!(BUSYBOX));
            }
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec});
        self.block_on(
            self.pods()
                .create(&PostParams::default(), &serde_json::from_value(pod)?),
        )?;
        Ok(Guard {
            cluster: self,
            name: name.to_owned(),
        })
    }

    /// The pod once `fits` says so.
    pub(crate) fn wait(
        &self,
        name: &str,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let found = eventually(what, || {
            let pod = self.block_on(self.pods().get(name))?;
            last = serde_json::to_value(pod)?;
            if fits(&last) {
                Ok(())
            } else {
                bail!("not yet")
            }
        });
        found.with_context(|| {
            let events = self.events_of(name).unwrap_or_default();
            format!("{name}: {:#}\n{events:#?}", last["status"])
        })?;
        Ok(last)
    }

    pub(crate) fn wait_ready(&self, name: &str) -> Result<Value> {
        self.wait(name, "the pod is ready", |pod| {
            condition(pod, "Ready") == "True"
        })
    }

    /// `reason: message` of the events about a pod, and how often each happened.
    fn events_of(&self, name: &str) -> Result<Vec<(String, i32)>> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let list = self.block_on(
            events.list(&ListParams::default().fields(&format!("involvedObject.name={name}"))),
        )?;
        let text = |text: Option<String>| text.unwrap_or_default();
        let told = list.items.into_iter().map(|event| {
            let words = format!("{}: {}", text(event.reason), text(event.message));
            (words, event.count.unwrap_or(1))
        });
        Ok(told.collect())
    }

    pub(crate) fn wait_event(&self, name: &str, expected: &str) -> Result<()> {
        self.wait_events(name, expected, 1)
    }

    /// Waits until something has happened that many times.
    pub(crate) fn wait_events(&self, name: &str, expected: &str, times: i32) -> Result<()> {
        eventually(&format!("{times} events {expected:?}"), || {
            let events = self.events_of(name)?;
            let fitting = events.iter().filter(|(event, _)| event.contains(expected));
            ensure!(
                fitting.map(|(_, count)| count).sum::<i32>() >= times,
                "events are {events:#?}"
            );
            Ok(())
        })
    }

    /// Waits until a container has said exactly this.
    pub(crate) fn wait_logs(&self, arguments: &[&str], expected: &str) -> Result<()> {
        eventually(&format!("the log of {arguments:?}"), || {
            let logs = self.logs(arguments)?;
            ensure!(logs == expected, "it says {logs:?}");
            Ok(())
        })
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_reading(arguments, "")
    }

    /// [`Cluster::kubectl`] with something to read.
    pub(crate) fn kubectl_reading(&self, arguments: &[&str], input: &str) -> Result<Output> {
        eventually("kubectl reads all", || {
            let mut stdin = tempfile::tempfile()?;
            stdin.write_all(input.as_bytes())?;
            stdin.rewind()?;
            let mut command = Command::new("kubectl");
            command
                .env("KUBECONFIG", self.dir.path().join("api/admin.kubeconfig"))
                .args(arguments)
                .stdin(stdin);
            let output = command.output().context("starting kubectl")?;
            ensure!(!misread(&output.stderr), "{output:?}");
            Ok(output)
        })
    }

    /// Runs a shell command in a pod's first container; gives what it says. It may run more than once.
    pub(crate) fn exec(&self, pod: &str, script: &str) -> Result<String> {
        let output = self.kubectl(&["exec", pod, "--", "sh", "-c", script])?;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(output.status.success(), "exec {script:?}: {out}{err}");
        Ok(out.trim_end().to_owned())
    }

    /// Runs a shell command in a pod on a terminal; gives all that appears on it.
    pub(crate) fn exec_on_terminal(&self, pod: &str, script: &str) -> Result<String> {
        let command = format!("kubectl exec -it {pod} -- sh -c '{script}'");
        eventually("kubectl reads all", || {
            let mut terminal = Command::new("script");
            terminal
                .env("KUBECONFIG", self.dir.path().join("api/admin.kubeconfig"))
                .args(["-qec", &command, "/dev/null"]);
            let output = terminal.output().context("starting script")?;
            ensure!(!misread(&output.stdout), "{output:?}");
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }

    /// [`Cluster::exec`], as soon as the agent answers.
    pub(crate) fn exec_when_up(&self, pod: &str, script: &str) -> Result<()> {
        eventually("the agent answers", || self.exec(pod, script).map(drop))
    }

    pub(crate) fn logs(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(&[&["logs"], arguments].concat())?;
        ensure!(
            output.status.success(),
            "logs: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned())
    }

    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        self.block_on(self.pods().delete(name, &DeleteParams::default()))?;
        eventually("the pod is gone", || {
            ensure!(
                self.block_on(self.pods().get_opt(name))?.is_none(),
                "it is there"
            );
            Ok(())
        })
    }

    /// What is on this machine because of pods of this test: files, mounts and cgroups that name `part`.
    pub(crate) fn traces(&self, part: &str) -> Result<Vec<String>> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mut found: Vec<String> = mounts
            .lines()
            .filter(|line| line.contains(part))
            .map(str::to_owned)
            .collect();
        let files = fs::read_dir("/run/netns")
            .into_iter()
            .flatten()
            .chain(fs::read_dir(self.args.pods_dir())?);
        let names = files
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        found.extend(names.filter(|name| name.contains(part)));
        for hierarchy in [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/unified",
        ] {
            let pods = Path::new(hierarchy)
                .join(self.args.cgroup_root.strip_prefix("/")?)
                .join("pods");
            for class in fs::read_dir(pods).into_iter().flatten().flatten() {
                let groups = fs::read_dir(class.path()).into_iter().flatten().flatten();
                found.extend(
                    groups
                        .map(|group| group.path().display().to_string())
                        .filter(|path| path.contains(part)),
                );
            }
        }
        Ok(found)
    }

    /// Ends everything and removes it; fails if anything stays.
    pub(crate) fn stop(self) -> Result<()> {
        self.stop_agent()?;
        control_node::cleanup(&self.args)?;
        let left = self.traces(&self.dir.path().to_string_lossy())?;
        ensure!(left.is_empty(), "left behind: {left:#?}");
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.api_shutdown.cancel();
        if self.stop_agent().is_ok() {
            control_node::cleanup(&self.args).ok();
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let root = hierarchy.path().join(
                self.args
                    .cgroup_root
                    .strip_prefix("/")
                    .unwrap_or(Path::new("")),
            );
            remove_empty(&root);
        }
    }
}

/// Removes a tree of cgroups without processes.
fn remove_empty(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_empty(&entry.path());
        }
    }
    fs::remove_dir(dir).ok();
}

/// Deletes a pod when a test ends, however it does.
pub(crate) struct Guard<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let now = DeleteParams::default().grace_period(1);
        self.cluster
            .block_on(self.cluster.pods().delete(&self.name, &now))
            .ok();
    }
}

/// The status of a pod's condition.
pub(crate) fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let conditions = pod["status"]["conditions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == kind);
    found
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or("absent")
}

/// Whether kubectl lost what a program said. An older one may begin to read before it knows all it may read
/// (kubernetes/kubernetes#131203).
fn misread(said: &[u8]) -> bool {
    String::from_utf8_lossy(said).contains("Unknown stream id")
}

/// A pod's first container's status.
pub(crate) fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// Tries until it works or patience ends; the last error says what was wrong.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("never: {what}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

async fn set_up_loopback() -> Result<()> {
    use futures::TryStreamExt;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let link = handle
        .link()
        .get()
        .match_name("lo")
        .execute()
        .try_next()
        .await?
        .context("no loopback")?;
    let index = link.header.index;
    handle
        .link()
        .set(rtnetlink::LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await?;
    for ip in NODE_IPS {
        let ip: std::net::IpAddr = ip.parse()?;
        handle
            .address()
            .add(index, ip, if ip.is_ipv4() { 32 } else { 128 })
            .execute()
            .await?;
    }
    Ok(())
}

async fn start_api(dir: &Path, shutdown: CancellationToken) -> Result<()> {
    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        api: control_api::ServerArgs,
    }
    let data = dir.join("api");
    let arguments =
        ["api", "--bind", API, "--data-dir", &data.to_string_lossy()].map(str::to_owned);
    let args = Arguments::try_parse_from(arguments)?.api;
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        if let Err(error) = control_api::run(args, ready, shutdown).await {
            eprintln!("API server: {error}");
        }
    });
    is_ready.await.context("the API server did not start")
}

fn node_args(dir: &Path) -> Result<NodeArgs> {
    let pki = control_api::pki::Pki::open(&dir.join("api"))?;
    let write = |name: &str, content: &str| -> Result<String> {
        let path = dir.join(name);
        fs::write(&path, content)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let user = format!("system:node:{NODE}");
    let kubeconfig = write(
        "node.kubeconfig",
        &pki.client_kubeconfig(&format!("https://{API}"), &user, &["system:nodes"])?,
    )?;
    let (cert, key) = pki.serving_cert(NODE, &NODE_IPS)?;
    let (cert, key, ca) = (
        write("node.crt", &cert)?,
        write("node.key", &key)?,
        write("ca.crt", pki.ca_pem())?,
    );
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let bind: SocketAddr = "[::]:10250".parse()?;
    let arguments = [
        "node",
        "--kubeconfig",
        &kubeconfig,
        "--name",
        NODE,
        "--node-ip",
        &NODE_IPS.join(","),
        "--data-dir",
        &path("node"),
        "--image-dir",
        &path("images"),
        "--cgroup-root",
        &format!("/portolan-test-{}", std::process::id()),
        "--bind",
        &bind.to_string(),
        "--tls-cert-file",
        &cert,
        "--tls-private-key-file",
        &key,
        "--client-ca-file",
        &ca,
    ];
    Ok(Arguments::try_parse_from(arguments)?.node)
}

fn import_busybox(dir: &Path) -> Result<()> {
    let file = |path: &str, content| ImageFile {
        path: path.into(),
        content,
    };
    let mut files = vec![file(
        "/bin/busybox",
        FileContent::Copy("/bin/busybox".into()),
    )];
    let applets = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .context("listing busybox's applets")?;
    for applet in String::from_utf8(applets.stdout)?
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        files.push(file(
            &format!("/bin/{applet}"),
            FileContent::Link("busybox".into()),
        ));
    }
    files.push(file("/tmp", FileContent::Directory(0o1777)));
    files.push(file(
        "/etc/passwd",
        FileContent::Bytes(b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n".to_vec()),
    ));
    let config = ImageConfig {
        cmd: vec!["sh".into()],
        env: vec!["FROM_IMAGE=yes".into()],
        ..ImageConfig::default()
    };
    ImageStore::open(dir)?.import_files(BUSYBOX, &files, &config)?;
    Ok(())
}

async fn connect(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(
        kubeconfig,
        &kube::config::KubeConfigOptions::default(),
    )
    .await?;
    Ok(Client::try_from(config)?)
}
