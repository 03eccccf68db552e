//! Clients that ask as fast as they are answered: `wrk` for HTTP/1.1, `h2load` for HTTP/2.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use super::grpc::Question;
use super::peers::Peer;
use super::place::{Files, HOST};
use super::process::{Place, Process};

/// How many bytes an answer has, or its message.
pub(crate) const ANSWER: usize = 1024;

/// How a gateway is asked.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1.
    Http1,
    /// HTTP/1.1 over TLS.
    Https1,
    /// HTTP/2 over TLS.
    Https2,
    /// Unary calls of gRPC over TLS; to the backend over HTTP/2, too.
    Grpc,
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
    pub(crate) const ALL: &[Self] = &[Self::Http1, Self::Https1, Self::Https2, Self::Grpc];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Https1 => "HTTP/1.1, TLS",
            Self::Https2 => "HTTP/2, TLS",
            Self::Grpc => "gRPC, TLS",
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
pub(crate) fn ask(peer: &Peer, wire: Wire, length: Duration, files: &Files) -> Result<Work> {
    let seconds = format!("{:.0}", length.as_secs_f64().max(1.0));
    let command = match wire {
        Wire::Http1 => wrk(&format!("http://{HOST}:{}/", peer.http), &seconds, None),
        Wire::Https1 => wrk(&format!("https://{HOST}:{}/", peer.https), &seconds, None),
        Wire::Https2 => h2load(&format!("https://{HOST}:{}/", peer.https), &seconds),
        Wire::Grpc => {
            let question = Question::to(peer, files)?;
            let mut command = h2load(&question.url, &seconds);
            for header in &question.headers {
                command.arg("-H").arg(header);
            }
            command.arg("-d").arg(question.body);
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

fn h2load(url: &str, seconds: &str) -> Command {
    let mut command = Place::Beside.command(Path::new("h2load"));
    command.args(["-t", "1", "-c", "8", "-m", "8", "-D", seconds, url]);
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
        // h2load: "finished in 2.01s, 30617.00 req/s, 38.23MB/s". The rate is of the time that was asked for.
        if let Some((_, rest)) = line
            .strip_prefix("finished in ")
            .and_then(|rest| rest.split_once("s, "))
        {
            let rate: f64 = rest.split_once(" req/s")?.0.parse().ok()?;
            let requests = succeeded(text)?;
            let is_clean = text.contains(" 0 failed, 0 errored");
            // A call that failed has an answer with a good status, too, but no message.
            let is_whole = received(text)? >= requests * ANSWER as f64;
            return (is_clean && is_whole).then_some((requests, requests / rate));
        }
    }
    None
}

/// The number of good answers, from what h2load prints: "requests: 2005 total, […] 2005 done, 2005 succeeded, […]".
fn succeeded(text: &str) -> Option<f64> {
    let (before, _) = text.split_once(" succeeded")?;
    let (_, requests) = before.rsplit_once(' ')?;
    requests.parse().ok()
}

/// The bytes of all bodies, from what h2load prints: "traffic: 2.17MB (2272132) total, […] 1.96MB (2058000) data".
fn received(text: &str) -> Option<f64> {
    let (before, _) = text.split_once(") data")?;
    let (_, bytes) = before.rsplit_once('(')?;
    bytes.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_good_answers_count() {
        let h2load = |failed: u32, bytes: u32| {
            format!(
                "finished in 2.01s, 1000.00 req/s, 2.17MB/s\n\
                 requests: 2000 total, 2064 started, 2000 done, 2000 succeeded, {failed} failed, {failed} errored, 0 timeout\n\
                 traffic: 2.17MB (2272132) total, 107.42KB (110000) headers (space savings 48.60%), 1.96MB ({bytes}) data\n"
            )
        };
        let whole = 2000 * 1029;
        let wrk = "  61234 requests in 2.01s, 80.00MB read\n";
        for (text, expected) in [
            (h2load(0, whole), Some((2000.0, 2.0))),
            (h2load(1, whole), None),
            (h2load(0, whole / 2), None),
            (wrk.to_owned(), Some((61234.0, 2.01))),
            (format!("{wrk}  Non-2xx or 3xx responses: 1\n"), None),
            (String::new(), None),
        ] {
            assert_eq!(counted(&text), expected, "{text}");
        }
    }
}
