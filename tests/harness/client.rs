//! Clients: one request, a connection that stays, a loop of requests, and `curl` for HTTPS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::Host;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks `address` from the namespace `netns` for `/` and returns the body.
///
/// # Errors
/// When there is no answer, or it is not 200.
pub fn get(netns: &str, address: SocketAddr) -> Result<String> {
    Host::inside(netns, move || Connection::open(address)?.get("/"))
}

/// Asks with `curl`, which verifies the certificate against `ca`; `host` resolves to `gateway`.
///
/// # Errors
/// What curl says.
pub fn https(host: &Host, ca: &str, name: &str, gateway: &str, path: &str) -> Result<String> {
    let output = host
        .command("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "5",
            "--cacert",
            ca,
        ])
        .args([
            "--resolve",
            &format!("{name}:443:{gateway}"),
            &format!("https://{name}{path}"),
        ])
        .output()
        .context("running curl")?;
    ensure!(
        output.status.success(),
        "curl: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// One HTTP/1.1 connection that is kept open.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects from the calling thread's namespace.
    ///
    /// # Errors
    /// When the connection is refused or not answered.
    pub fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Connection { stream })
    }

    /// Connects from the namespace `netns`; the connection can then be used anywhere.
    ///
    /// # Errors
    /// When the connection is refused or not answered.
    pub fn open_in(netns: &str, address: SocketAddr) -> Result<Connection> {
        Host::inside(netns, move || Connection::open(address))
    }

    /// Asks for `path` on this very connection.
    ///
    /// # Errors
    /// When there is no answer, or it is not 200 with a Content-Length.
    pub fn get(&mut self, path: &str) -> Result<String> {
        self.request("GET", path)
    }

    /// Sends a request without a body and returns the answer's body.
    ///
    /// # Errors
    /// When there is no answer, or it is not 200 with a Content-Length.
    pub fn request(&mut self, method: &str, path: &str) -> Result<String> {
        write!(
            self.stream,
            "{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            let count = self
                .stream
                .read(&mut buffer)
                .context("reading the answer")?;
            ensure!(
                count > 0,
                "the connection ended before the answer did: {:?}",
                String::from_utf8_lossy(&answer)
            );
            answer.extend_from_slice(&buffer[..count]);
            if let Some(body) = complete_body(&String::from_utf8_lossy(&answer))? {
                return Ok(body);
            }
        }
    }
}

/// The body, once all of it is there.
fn complete_body(answer: &str) -> Result<Option<String>> {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Ok(None);
    };
    if !head.starts_with("HTTP/1.1 200") {
        bail!("answered {:?}", head.lines().next().unwrap_or_default());
    }
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length:")
            .map(str::to_owned)
    });
    let length: usize = length
        .context("the answer has no Content-Length")?
        .trim()
        .parse()?;
    Ok((body.len() >= length).then(|| body.trim().to_owned()))
}

/// Requests one after the other, each on a connection of its own, until stopped.
#[derive(Debug)]
pub struct Loop {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Loop {
    /// Starts asking `address` from the namespace `netns`.
    #[must_use]
    pub fn start(netns: &str, address: SocketAddr) -> Loop {
        Loop::expecting("", netns, address)
    }

    /// The same, where every answer must begin with `prefix`.
    #[must_use]
    pub fn expecting(prefix: &str, netns: &str, address: SocketAddr) -> Loop {
        let prefix = prefix.to_owned();
        let (netns, stop) = (netns.to_owned(), Arc::new(AtomicBool::new(false)));
        let answered = Arc::new(AtomicUsize::new(0));
        let (stopped, good) = (stop.clone(), answered.clone());
        let thread = std::thread::spawn(move || {
            let run = move || Ok(ask_until(&stopped, address, &prefix, &good));
            Host::inside(&netns, run).unwrap_or_else(|error| vec![format!("{error:#}")])
        });
        Loop {
            stop,
            answered,
            thread,
        }
    }

    /// The number of good answers so far.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends the loop: the number of good answers, and what went wrong.
    ///
    /// # Errors
    /// When the loop itself failed.
    pub fn stop(self) -> Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.thread.join();
        let failures = failures.map_err(|_| anyhow::anyhow!("the request loop panicked"))?;
        Ok((self.answered.load(Ordering::Relaxed), failures))
    }
}

fn ask_until(
    stop: &AtomicBool,
    address: SocketAddr,
    prefix: &str,
    good: &AtomicUsize,
) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match Connection::open(address).and_then(|mut connection| connection.get("/")) {
            Ok(answer) if answer.starts_with(prefix) => {
                good.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) => failures.push(format!("{answer:?} answered")),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    failures
}

/// Runs a command to its end; its standard output, or an error with both outputs.
pub(crate) fn finish(mut command: Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    said(&output)
}

/// What a command that has ended said on its standard output, or an error with both outputs.
pub(crate) fn said(output: &Output) -> Result<String> {
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{}: {}{}",
        output.status,
        stdout.trim(),
        stderr.trim()
    );
    Ok(stdout.into_owned())
}
