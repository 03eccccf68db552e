//! Clients that ask as fast as they are answered: `wrk` for HTTP/1.1, `h2load` for HTTP/2.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::peers::Peer;
use super::place::HOST;
use super::process::{Place, Process};

/// How a gateway is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Http1,
    Https1,
    Https2,
}

/// What a gateway did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    /// Processor time of the gateway.
    pub(crate) used: Duration,
}

impl Wire {
    pub(crate) const ALL: [Self; 3] = [Self::Http1, Self::Https1, Self::Https2];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Https1 => "HTTP/1.1, TLS",
            Self::Https2 => "HTTP/2, TLS",
        }
    }
}

impl Work {
    /// Microseconds of processor time for a request.
    pub(crate) fn micros(&self) -> f64 {
        self.used.as_secs_f64() * 1e6 / self.requests
    }

    pub(crate) fn rate(&self) -> f64 {
        self.requests / self.seconds
    }
}

/// Asks `peer` for so long on 64 connections, or with 64 streams.
pub(crate) fn ask(peer: &Peer, wire: Wire, length: Duration) -> Result<Work> {
    let seconds = format!("{:.0}", length.as_secs_f64().max(1.0));
    let command = match wire {
        Wire::Http1 => wrk(&format!("http://{HOST}:{}/", peer.http), &seconds, None),
        Wire::Https1 => wrk(&format!("https://{HOST}:{}/", peer.https), &seconds, None),
        Wire::Https2 => {
            let mut command = Place::Beside.command(Path::new("h2load"));
            command
                .args(["-t", "1", "-c", "8", "-m", "8", "-D", &seconds])
                .arg(format!("https://{HOST}:{}/", peer.https));
            command
        }
    };
    run(&peer.process, command)
}

/// Asks for the URL with a script that makes each request.
pub(crate) fn ask_by_script(
    process: &Process,
    url: &str,
    script: &Path,
    length: Duration,
) -> Result<Work> {
    let seconds = format!("{:.0}", length.as_secs_f64().max(1.0));
    run(process, wrk(url, &seconds, Some(script)))
}

fn wrk(url: &str, seconds: &str, script: Option<&Path>) -> Command {
    let mut command = Place::Beside.command(Path::new("wrk"));
    command.args(["-t", "1", "-c", "64", "-d", seconds]);
    if let Some(script) = script {
        command.arg("-s").arg(script);
    }
    command.arg(url);
    command
}

fn run(process: &Process, mut command: Command) -> Result<Work> {
    let before = process.processor_time()?;
    let output = command
        .output()
        .context("running a client: `./setup.sh bench` installs it")?;
    let used = process.processor_time()? - before;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "a client failed: {text}");
    let (requests, seconds) = counted(&text).with_context(|| format!("a client said {text}"))?;
    Ok(Work {
        requests,
        seconds,
        used,
    })
}

/// The number of requests and how long they took, from what a client prints; nothing unless all went well.
fn counted(text: &str) -> Option<(f64, f64)> {
    if text.contains("Non-2xx") {
        return None;
    }
    for line in text.lines().map(str::trim) {
        // wrk: "61234 requests in 2.01s, 80.00MB read".
        if let Some((requests, rest)) = line.split_once(" requests in ") {
            let seconds = rest.split_once("s,")?.0;
            return Some((requests.parse().ok()?, seconds.parse().ok()?));
        }
        // h2load: "finished in 2.00s, 30617.00 req/s, 38.23MB/s".
        if let Some((seconds, rest)) = line
            .strip_prefix("finished in ")
            .and_then(|rest| rest.split_once("s, "))
        {
            let rate: f64 = rest.split_once(" req/s")?.0.parse().ok()?;
            let seconds: f64 = seconds.parse().ok()?;
            let is_clean = text.contains(" 0 failed, 0 errored");
            return is_clean.then_some((rate * seconds, seconds));
        }
    }
    None
}
