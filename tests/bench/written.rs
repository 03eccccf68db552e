//! From a write to the API to the map on a node, through the whole cluster: API server, watch, daemon.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dataplane_ebpf::addr::Protocol;
use harness::{Cluster, Host};

use crate::kernel::Installed;
use crate::report::Figure;

const WRITES: usize = 200;
/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const SERVICE: &str = "written";
const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: written}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: written-1, labels: {kubernetes.io/service-name: written}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.250.0.1]}, {addresses: [10.250.0.2]}]
"#;

/// `kubectl proxy`, which speaks plain HTTP to us and the API server's TLS for us.
struct Proxy {
    child: Child,
    address: SocketAddr,
}

/// Milliseconds from a write to the map of the first node.
pub(crate) fn measure(cluster: &Cluster) -> Result<Figure> {
    cluster.apply(MANIFEST)?;
    let proxy = Proxy::start(cluster)?;
    let pins = pins(cluster.daemon("proxy-node-1")?.pid)?;
    let service = cluster.cluster_ip(SERVICE)?;
    let address = proxy.address;
    let times = Host::inside(cluster.host().name(), move || {
        let maps = Installed::open(&pins)?;
        let id = eventually(|| maps.id_at(service, Protocol::TCP))?;
        eventually(|| (maps.run(id).count() == 2).then_some(()))?;
        (0..WRITES)
            .map(|number| {
                // One endpoint fewer, and back again.
                let ready = number % 2 == 1;
                let begun = Instant::now();
                let connection = write(address, ready)?;
                eventually(|| (maps.run(id).count() == 1 + u32::from(ready)).then_some(()))?;
                let passed = begun.elapsed();
                finish(connection)?;
                Ok(passed.as_secs_f64() * 1e3)
            })
            .collect::<Result<Vec<f64>>>()
    })?;
    Ok(Figure::of(times))
}

/// Where a daemon has its maps, by its command line.
fn pins(daemon: i32) -> Result<PathBuf> {
    let line = fs::read_to_string(format!("/proc/{daemon}/cmdline"))?;
    let mut arguments = line.split('\0').skip_while(|word| *word != "--bpf-root");
    let root = arguments.nth(1).context("the daemon's --bpf-root")?;
    Ok(PathBuf::from(root))
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "a write has not arrived in the maps"
        );
        std::hint::spin_loop();
    }
}

fn write(address: SocketAddr, ready: bool) -> Result<TcpStream> {
    let body = format!(
        r#"{{"endpoints":[{{"addresses":["10.250.0.1"]}},{{"addresses":["10.250.0.2"],"conditions":{{"ready":{ready},"serving":{ready}}}}}]}}"#
    );
    let length = body.len();
    let mut connection = TcpStream::connect(address)?;
    write!(
        connection,
        "PATCH /apis/discovery.k8s.io/v1/namespaces/default/endpointslices/written-1 HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/merge-patch+json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    Ok(connection)
}

fn finish(mut connection: TcpStream) -> Result<()> {
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "the API server answers {status}");
    Ok(())
}

impl Proxy {
    fn start(cluster: &Cluster) -> Result<Self> {
        let mut child = cluster
            .kubectl_command(&["proxy", "--port=0"])
            .stdout(Stdio::piped())
            .spawn()
            .context("running kubectl proxy")?;
        let output = child.stdout.take().context("its output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().unwrap_or_default().parse();
        let address = address.with_context(|| format!("kubectl proxy says {line:?}"))?;
        Ok(Self { child, address })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("measure: ending kubectl proxy: {error}");
        }
    }
}
