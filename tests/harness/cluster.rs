//! A cluster that `portolan up` builds in a namespace of its own.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::client::{finish, said};
use crate::{Host, eventually};

/// Where a test may serve a registry on the cluster's machine.
pub const REGISTRY: &str = "172.30.0.1:5000";

/// A running cluster; removed when dropped, and by its own supervisor when this process is killed.
#[derive(Debug)]
pub struct Cluster {
    host: Host,
    name: String,
    state_dir: PathBuf,
    /// What `portolan up` printed.
    pub up_output: String,
}

/// A daemon of the cluster, as its pid file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Daemon {
    /// Its process.
    pub pid: i32,
}

impl Cluster {
    /// Builds a cluster of that name with two nodes and the sample application.
    ///
    /// # Errors
    /// What `portolan up` says.
    pub fn up(name: &str) -> Result<Cluster> {
        let host = Host::create(&format!("portolan-test-{name}"))?;
        let state_dir = Path::new("/var/lib/portolan").join(name);
        let mut cluster = Cluster {
            host,
            name: name.to_owned(),
            state_dir,
            up_output: String::new(),
        };
        cluster
            .down()
            .context("removing what an earlier run left")?;
        cluster.up_output = cluster.up_again()?;
        Ok(cluster)
    }

    /// Runs `portolan up` (again) and returns what it printed.
    ///
    /// # Errors
    /// What it says.
    pub fn up_again(&self) -> Result<String> {
        let mut command = self.portolan();
        let owner = std::process::id().to_string();
        command.args([
            "up",
            "--name",
            &self.name,
            "--owner-pid",
            &owner,
            "--insecure-registry",
            REGISTRY,
        ]);
        finish(command)
    }

    /// Runs `portolan down`.
    ///
    /// # Errors
    /// What it says.
    pub fn down(&self) -> Result<String> {
        let mut command = self.portolan();
        command.args(["down", "--name", &self.name]);
        finish(command)
    }

    /// The program `portolan`, in the cluster's machine.
    #[must_use]
    pub fn portolan(&self) -> Command {
        self.host.command(&program("portolan").to_string_lossy())
    }

    /// The namespace that stands for the machine.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The name of a node's namespace.
    #[must_use]
    pub fn node_netns(&self, node: &str) -> String {
        format!("portolan-{}-{node}", self.name)
    }

    /// The cgroup in which a node's own programs run, given the name of the node's namespace.
    ///
    /// # Errors
    /// When no cgroup2 file system is mounted.
    pub fn node_cgroup(&self, netns: &str) -> Result<String> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut points = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .filter(|fields| fields[2] == "cgroup2");
        let mount = points.next().context("no cgroup2 file system is mounted")?[1].to_owned();
        let node = netns.trim_start_matches(&format!("portolan-{}-", self.name));
        Ok(format!("{mount}/portolan/{}/{node}/system", self.name))
    }

    /// Where a node's proxy pins what outlives it.
    #[must_use]
    pub fn pins(&self, node: &str) -> PathBuf {
        Path::new("/sys/fs/bpf/portolan")
            .join(&self.name)
            .join(node)
    }

    /// Where the cluster keeps its data.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The cluster's CA, which signed the sample's certificate.
    #[must_use]
    pub fn ca(&self) -> String {
        self.state_dir
            .join("server/pki/ca.crt")
            .to_string_lossy()
            .into_owned()
    }

    /// The process behind a pid file, which changes when the supervisor restarts the daemon.
    ///
    /// # Errors
    /// When there is no such daemon.
    pub fn daemon(&self, name: &str) -> Result<Daemon> {
        let path = self.state_dir.join("run").join(format!("{name}.pid"));
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let pid = text
            .split(' ')
            .next()
            .context("an empty pid file")?
            .parse()?;
        Ok(Daemon { pid })
    }

    /// A kubectl command in the cluster's machine, by the kubectl in PATH.
    #[must_use]
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        self.some_kubectl("kubectl", arguments)
    }

    /// Runs the kubectl of this year that `setup.sh test` fetches, and returns its standard output.
    ///
    /// # Errors
    /// What kubectl says, or that it is not there.
    pub fn current_kubectl(&self, arguments: &[&str]) -> Result<String> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/kubectl");
        ensure!(
            program.exists(),
            "{} is missing: run `./setup.sh test`",
            program.display()
        );
        finish(self.some_kubectl(&program.to_string_lossy(), arguments))
            .with_context(|| format!("current kubectl {}", arguments.join(" ")))
    }

    fn some_kubectl(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.host.command(program);
        command
            .arg("--kubeconfig")
            .arg(self.state_dir.join("server/admin.kubeconfig"));
        command
            .arg("--cache-dir")
            .arg(self.state_dir.join("kubectl-cache"))
            .args(arguments);
        command
    }

    /// Runs kubectl and returns its standard output.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        said(&self.kubectl_output(arguments)?)
            .with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Runs kubectl to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn kubectl_output(&self, arguments: &[&str]) -> Result<Output> {
        eventually("kubectl reads all that it is told", || {
            let output = self.kubectl_command(arguments).output()?;
            // An older one may begin to read before it knows all it may read (kubernetes/kubernetes#131203).
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(!error.contains("Unknown stream id"), "{error}");
            Ok(output)
        })
    }

    /// What kubectl complains of, when it should.
    ///
    /// # Errors
    /// When kubectl succeeds.
    pub fn kubectl_refused(&self, arguments: &[&str]) -> Result<String> {
        match self.kubectl(arguments) {
            Ok(output) => bail!("kubectl {} succeeded: {output}", arguments.join(" ")),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Gives a manifest to `kubectl apply`.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let mut command = self.kubectl_command(&["apply", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("kubectl's standard input")?
            .write_all(manifest.as_bytes())?;
        let output = child.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl apply: {}", stderr.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An object, or a list, as JSON.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn object(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend_from_slice(arguments);
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    /// A node's IPv4 address.
    ///
    /// # Errors
    /// When the node has none.
    pub fn node_ip(&self, node: &str) -> Result<IpAddr> {
        let object = self.object(&["node", node])?;
        let addresses = object["status"]["addresses"]
            .as_array()
            .context("the node has no addresses")?;
        let internal = addresses
            .iter()
            .find(|address| address["type"] == "InternalIP");
        Ok(internal
            .and_then(|address| address["address"].as_str())
            .context("the node has no InternalIP")?
            .parse()?)
    }

    /// A Service's ClusterIP and first port.
    ///
    /// # Errors
    /// When it has none.
    pub fn cluster_ip(&self, service: &str) -> Result<SocketAddr> {
        let spec = self.object(&["service", service])?["spec"].clone();
        let port = u16::try_from(
            spec["ports"][0]["port"]
                .as_u64()
                .context("the Service has no port")?,
        )?;
        let address: IpAddr = spec["clusterIP"]
            .as_str()
            .context("the Service has no ClusterIP")?
            .parse()?;
        Ok(SocketAddr::new(address, port))
    }

    /// A Service's port on a node.
    ///
    /// # Errors
    /// When it has none.
    pub fn node_port(&self, service: &str, node: &str) -> Result<SocketAddr> {
        let spec = self.object(&["service", service])?["spec"].clone();
        let port = u16::try_from(
            spec["ports"][0]["nodePort"]
                .as_u64()
                .context("the Service has no node port")?,
        )?;
        Ok(SocketAddr::new(self.node_ip(node)?, port))
    }

    /// Names of the pods that a selector matches and that are not being deleted.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn pods(&self, selector: &str) -> Result<Vec<String>> {
        let list = self.object(&["pods", "-l", selector])?;
        let items = list["items"].as_array().context("a list has items")?;
        let alive = items
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(alive
            .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
            .collect())
    }

    /// Waits until a Deployment has rolled out.
    ///
    /// # Errors
    /// What `kubectl rollout status` says.
    pub fn rolled_out(&self, deployment: &str) -> Result<()> {
        self.kubectl(&[
            "rollout",
            "status",
            "--timeout=60s",
            &format!("deployment/{deployment}"),
        ])
        .map(drop)
    }

    /// Waits until a Service has that many ready endpoints.
    ///
    /// # Errors
    /// When it does not come to have them.
    pub fn endpoints(&self, service: &str, count: usize) -> Result<()> {
        eventually(&format!("service {service} has {count} endpoints"), || {
            let list = self.object(&[
                "endpointslices",
                "-l",
                &format!("kubernetes.io/service-name={service}"),
            ])?;
            let slices = list["items"].as_array().context("a list has items")?;
            let v4 = slices.iter().filter(|slice| slice["addressType"] == "IPv4");
            let ready = v4
                .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
                .filter(|endpoint| endpoint["conditions"]["ready"] == true)
                .count();
            crate::same("ready endpoints", ready, count)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("{error:#}");
        }
    }
}

/// One of our programs: from `PORTOLAN_BIN`, or where a release build puts it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let release = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release");
    std::env::var_os("PORTOLAN_BIN")
        .map_or_else(release, PathBuf::from)
        .join(name)
}
