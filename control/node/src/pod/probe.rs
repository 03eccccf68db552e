//! Probes: asks a container whether it has started, lives and is ready, and keeps count of the answers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container as ApiContainer, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::runtime::{Container, ExecRequest};
use crate::tls;

/// The most of an answer that is read.
const MAX_BODY: usize = 10 << 10;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKind {
    /// The container has started; until then the others wait.
    Startup,
    /// It needs no restart.
    Liveness,
    /// It may get requests.
    Readiness,
}

impl ProbeKind {
    /// The word for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    /// The word at a message's start.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// The container's probe of this kind.
pub(crate) fn of(container: &ApiContainer, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// What a probe has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Often enough in a row, the answer was good.
    Passes,
    /// One bad answer: for an event.
    Bad(String),
    /// Often enough in a row, the answer was bad.
    Fails,
}

/// Counts answers in a row.
#[derive(Debug)]
struct Tally {
    success: i32,
    failure: i32,
    good: i32,
    bad: i32,
}

impl Tally {
    fn new(probe: &Probe) -> Self {
        let least =
            |threshold: Option<i32>, default| threshold.filter(|&n| n > 0).unwrap_or(default);
        Self {
            success: least(probe.success_threshold, 1),
            failure: least(probe.failure_threshold, 3),
            good: 0,
            bad: 0,
        }
    }

    /// The finding, at the answer that reaches a threshold and not at later ones.
    fn count(&mut self, good: bool) -> Option<Finding> {
        if good {
            (self.good, self.bad) = (self.good.saturating_add(1), 0);
            (self.good == self.success).then_some(Finding::Passes)
        } else {
            (self.good, self.bad) = (0, self.bad.saturating_add(1));
            (self.bad == self.failure).then_some(Finding::Fails)
        }
    }
}

/// Who is asked.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: IpAddr,
    pub(crate) container: ApiContainer,
    pub(crate) running: Container,
    /// The program that enters containers.
    pub(crate) shim: PathBuf,
}

/// Asks again and again until `stop`, telling findings.
pub(crate) async fn run(
    target: Target,
    probe: Probe,
    stop: CancellationToken,
    tell: impl Fn(Finding),
) {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(
            value
                .and_then(|value| u64::try_from(value).ok())
                .unwrap_or(default),
        )
    };
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let mut tally = Tally::new(&probe);
    let asking = async {
        sleep(seconds(probe.initial_delay_seconds, 0)).await;
        loop {
            let answer = ask(&target, &probe).await;
            let finding = tally.count(answer.is_ok());
            if let Err(message) = answer {
                tell(Finding::Bad(message));
            }
            finding.into_iter().for_each(&tell);
            sleep(period).await;
        }
    };
    stop.run_until_cancelled(asking).await;
}

/// Asks once.
async fn ask(target: &Target, probe: &Probe) -> Result<(), String> {
    let limit = probe
        .timeout_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or(1)
        .max(1);
    let limit = Duration::from_secs(limit);
    if let Some(http) = &probe.http_get {
        return http_get(target, http, limit).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let address = endpoint(target, tcp.host.as_deref(), &tcp.port).await?;
        let connected = timeout(limit, TcpStream::connect(address)).await;
        return match connected {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {address}: connect: {}", plain(&error))),
            Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
        };
    }
    if let Some(exec) = &probe.exec {
        return run_command(target, exec.command.clone().unwrap_or_default(), limit).await;
    }
    Err("this kind of probe is not supported".into())
}

/// Where to connect to: the pod, unless the probe names another host.
async fn endpoint(
    target: &Target,
    host: Option<&str>,
    port: &IntOrString,
) -> Result<SocketAddr, String> {
    let port = port_of(&target.container, port)?;
    match host.filter(|host| !host.is_empty()) {
        None => Ok(SocketAddr::new(target.address, port)),
        Some(host) => {
            let mut found = tokio::net::lookup_host((host, port))
                .await
                .map_err(|error| error.to_string())?;
            found
                .next()
                .ok_or_else(|| format!("lookup {host}: no such host"))
        }
    }
}

fn port_of(container: &ApiContainer, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named = ports
                .into_iter()
                .find(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    let number = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|&number| number > 0);
    number.ok_or_else(|| format!("couldn't find port: {port:?}"))
}

/// An I/O error in the words every system uses.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::HostUnreachable => "no route to host".into(),
        _ => error.to_string(),
    }
}

async fn http_get(target: &Target, action: &HTTPGetAction, limit: Duration) -> Result<(), String> {
    let address = endpoint(target, action.host.as_deref(), &action.port).await?;
    let tls = action.scheme.as_deref() == Some("HTTPS");
    let scheme = if tls { "https" } else { "http" };
    let path = action
        .path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let url = format!("{scheme}://{address}{path}");
    match timeout(limit, fetch(address, tls, &path, action)).await {
        Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
        Ok(Ok(status)) => Err(format!("HTTP probe failed with statuscode: {status}")),
        Ok(Err(error)) => Err(format!("Get {url:?}: {error}")),
        Err(_) => {
            let waiting =
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
            Err(format!("Get {url:?}: {waiting}"))
        }
    }
}

async fn fetch(
    address: SocketAddr,
    tls: bool,
    path: &str,
    action: &HTTPGetAction,
) -> Result<u16, String> {
    let connected = TcpStream::connect(address).await;
    let stream =
        connected.map_err(|error| format!("dial tcp {address}: connect: {}", plain(&error)))?;
    if tls {
        let stream = tls::connect_unverified(address.ip(), stream)
            .await
            .map_err(|error| error.to_string())?;
        request(stream, address, path, action).await
    } else {
        request(stream, address, path, action).await
    }
}

async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    path: &str,
    action: &HTTPGetAction,
) -> Result<u16, String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(text)?;
    let mut request = hyper::Request::get(path)
        .header("user-agent", "kube-probe/1.36")
        .header("connection", "close");
    let headers = action.http_headers.iter().flatten();
    let mut host = address.to_string();
    for header in headers {
        if header.name.eq_ignore_ascii_case("host") {
            host.clone_from(&header.value);
        } else {
            request = request.header(&header.name, &header.value);
        }
    }
    let request = request
        .header("host", host)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(text)?;
        let status = answer.status().as_u16();
        // A body that is too long or breaks off does not change the verdict.
        Limited::new(answer.into_body(), MAX_BODY)
            .collect()
            .await
            .ok();
        Ok(status)
    };
    tokio::select! {
        status = exchange => status,
        // The connection drives the exchange, and may end in the same moment as it.
        outcome = async { connection.await.map_err(text)?; std::future::pending().await } => outcome,
    }
}

/// Runs a command in the container; the answer is its exit code.
pub(crate) async fn run_command(
    target: &Target,
    arguments: Vec<String>,
    limit: Duration,
) -> Result<(), String> {
    let request = ExecRequest {
        arguments,
        terminal: false,
    };
    let mut command = target.running.exec(&target.shim, &request);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| error.to_string())?;
    match timeout(limit, child.wait_with_output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = [output.stdout, output.stderr].concat();
            Err(String::from_utf8_lossy(&said[..said.len().min(MAX_BODY)]).into_owned())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            let seconds = limit.as_secs();
            Err(format!(
                "command timed out: {:?} timed out after {seconds}s",
                request.arguments.join(" ")
            ))
        }
    }
}

/// Runs a life cycle hook's HTTP request.
pub(crate) async fn run_http_hook(
    target: &Target,
    action: &HTTPGetAction,
    limit: Duration,
) -> Result<(), String> {
    http_get(target, action, limit).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(success: i32, failure: i32, answers: &str, expected: &str) {
        let probe = Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Probe::default()
        };
        let mut tally = Tally::new(&probe);
        let found: String = answers
            .chars()
            .map(|answer| match tally.count(answer == '+') {
                Some(Finding::Passes) => 'P',
                Some(_) => 'F',
                None => '.',
            })
            .collect();
        assert_eq!(found, expected, "{answers}");
    }

    #[test]
    fn thresholds_count_answers_in_a_row() {
        check(1, 3, "+++", "P..");
        check(1, 3, "---+", "..FP");
        check(1, 3, "--+--", "..P..");
        check(2, 1, "-++-", "F.PF");
        check(1, 3, "-----+---", "..F..P..F");
    }

    #[test]
    fn ports_go_by_number_or_name() {
        let container: ApiContainer = serde_json::from_value(
            serde_json::json!({"name": "a", "ports": [{"name": "web", "containerPort": 8080}]}),
        )
        .expect("a container");
        assert_eq!(port_of(&container, &IntOrString::Int(80)), Ok(80));
        assert_eq!(
            port_of(&container, &IntOrString::String("web".into())),
            Ok(8080)
        );
        assert!(port_of(&container, &IntOrString::String("none".into())).is_err());
        assert!(port_of(&container, &IntOrString::Int(70000)).is_err());
    }
}
