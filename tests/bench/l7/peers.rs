//! The contestants: our gateway, and those that users would choose instead, each set up to do the same work.
//!
//! All route by host and path, add the forwarding headers and a request id, keep connections to the backends, write an
//! access log to a file (in blocks; HAProxy line by line, as its standard output goes), count requests, and use one thread.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::grpc;
use super::load::ANSWER;
use super::place::{BACKEND, Files, HOST, answers};
use super::process::{Place, Process};

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Portolan,
    Nginx,
    Haproxy,
    Envoy,
}

/// A contestant that serves.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) process: Process,
    pub(crate) http: u16,
    pub(crate) https: u16,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Portolan, Self::Nginx, Self::Haproxy, Self::Envoy];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Portolan => "Portolan",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
        }
    }

    /// Its port for HTTP; that for HTTPS is the next.
    pub(crate) const fn port(self) -> u16 {
        match self {
            Self::Portolan => 8100,
            Self::Nginx => 8110,
            Self::Haproxy => 8120,
            Self::Envoy => 8130,
        }
    }
}

impl Peer {
    /// Starts a contestant; nothing if it is not there.
    pub(crate) fn start(kind: Kind, files: &Files) -> Result<Option<Self>> {
        let (http, https) = (kind.port(), kind.port() + 1);
        let Some(command) = command(kind, files, http, https)? else {
            say_missing(kind);
            return Ok(None);
        };
        let process = Process::start(command, kind.name(), &files.directory)?;
        let mut peer = Self {
            kind,
            process,
            http,
            https,
        };
        peer.process.wait(|| answers(http))?;
        Ok(Some(peer))
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.kind.name()
    }
}

fn command(kind: Kind, files: &Files, http: u16, https: u16) -> Result<Option<Command>> {
    let configure = |name: &str, text: &str| -> Result<PathBuf> {
        let path = files.directory.join(name);
        let text = text
            .replace("@HTTPS@", &https.to_string())
            .replace("@HTTP@", &http.to_string())
            .replace("@HOST@", HOST)
            .replace("@BACKEND@", BACKEND)
            .replace("@GRPC_HOST@", grpc::HOST)
            .replace("@GRPC_BACKEND@", grpc::BACKEND)
            .replace("@FILES@", &files.directory.display().to_string());
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    };
    let Some(mut command) = program(kind) else {
        return Ok(None);
    };
    match kind {
        Kind::Portolan => return Ok(Some(gateway(files, "portolan.dev/ingress", http, &[]))),
        Kind::Nginx => command.arg("-c").arg(configure("nginx.conf", NGINX)?),
        Kind::Haproxy => command.arg("-f").arg(configure("haproxy.cfg", HAPROXY)?),
        Kind::Envoy => command
            .arg("-c")
            .arg(configure("envoy.yaml", ENVOY)?)
            .args(["--concurrency", "1", "--log-level", "warning"]),
    };
    Ok(Some(command))
}

/// The program of a contestant, if it is there.
pub(crate) fn program(kind: Kind) -> Option<Command> {
    let own = |path: PathBuf| path.exists().then(|| Place::Contestant.command(&path));
    match kind {
        Kind::Portolan => own(harness::program("portolan-ingress")),
        Kind::Nginx => debian("usr/sbin/nginx", Place::Contestant),
        Kind::Haproxy => debian("usr/sbin/haproxy", Place::Contestant),
        Kind::Envoy => own(tools().join("envoy")),
    }
}

/// Tells whoever looks on that a contestant does not take part.
pub(crate) fn say_missing(kind: Kind) {
    eprintln!(
        "measure: {} is left out: `./setup.sh bench` fetches it",
        kind.name()
    );
}

/// Our gateway for the classes of `controller`, at `port` and the next one, with its admin port after these.
pub(crate) fn gateway(files: &Files, controller: &str, port: u16, more: &[&str]) -> Command {
    let mut command = Place::Contestant.command(&harness::program("portolan-ingress"));
    command
        .arg("--kubeconfig")
        .arg(&files.kubeconfig)
        .args(["--controller-class", controller, "--workers", "1"])
        // h2load does not open a connection anew.
        .args(["--keep-alive-requests", "100000000"])
        .arg(format!("--http-bind=127.0.0.1:{port}"))
        .arg(format!("--https-bind=127.0.0.1:{}", port + 1))
        .arg(format!("--admin-bind=127.0.0.1:{}", port + 2))
        .args(more)
        .env("RUST_LOG", "warn");
    command
}

/// nginx as everybody's backend for all but gRPC.
pub(crate) fn backend(files: &Files) -> Result<Command> {
    let path = files.directory.join("backend.conf");
    let text = NGINX_BACKEND
        .replace("@BACKEND@", BACKEND)
        .replace("@BODY@", &"x".repeat(ANSWER))
        .replace("@FILES@", &files.directory.display().to_string());
    fs::write(&path, text)?;
    let current = debian("usr/sbin/nginx", Place::Beside);
    let mut command = current.context("nginx is missing: run `./setup.sh bench`")?;
    command.arg("-c").arg(path);
    Ok(command)
}

/// A program of the unpacked Debian packages, with their libraries.
fn debian(program: &str, place: Place) -> Option<Command> {
    let root = tools().join("debian");
    let path = root.join(program);
    if !path.exists() {
        return None;
    }
    let mut command = place.command(&root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(root.join("usr/lib/x86_64-linux-gnu"))
        .arg(path);
    Some(command)
}

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools")
}

const NGINX_BACKEND: &str = include_str!("peers/backend.conf");
/// As ingress-nginx writes it, without its Lua.
const NGINX: &str = include_str!("peers/nginx.conf");
const HAPROXY: &str = include_str!("peers/haproxy.cfg");
const ENVOY: &str = include_str!("peers/envoy.yaml");
