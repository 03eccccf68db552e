//! The contestants: our gateway, and those that users would choose instead, each set up to do the same work.
//!
//! All route by host and path, add the forwarding headers and a request id, keep connections to the backend, write an
//! access log to a file in blocks, count requests, and use one thread.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

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

/// nginx as everybody's backend.
pub(crate) fn backend(files: &Files) -> Result<Command> {
    let path = files.directory.join("backend.conf");
    let text = NGINX_BACKEND
        .replace("@BACKEND@", BACKEND)
        .replace("@BODY@", &"x".repeat(1024))
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

const NGINX_BACKEND: &str = r#"
daemon off; worker_processes 1; pid @FILES@/backend.pid; error_log stderr;
events { worker_connections 8192; }
http {
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
  server { listen @BACKEND@ backlog=4096; location / { default_type text/plain; return 200 "@BODY@"; } }
}
"#;

/// As ingress-nginx writes it, without its Lua.
const NGINX: &str = r#"
daemon off; worker_processes 1; pid @FILES@/nginx.pid; error_log stderr;
events { worker_connections 8192; multi_accept on; use epoll; }
http {
  access_log @FILES@/nginx.access.log combined buffer=64k flush=1s;
  client_body_temp_path @FILES@/nginx.body; proxy_temp_path @FILES@/nginx.proxy;
  fastcgi_temp_path @FILES@/nginx.f; uwsgi_temp_path @FILES@/nginx.u; scgi_temp_path @FILES@/nginx.s;
  keepalive_timeout 75s; keepalive_requests 100000000; reset_timedout_connection on; server_tokens off;
  ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:SSL:10m; ssl_session_timeout 10m; ssl_session_tickets on;
  upstream backend { server @BACKEND@; keepalive 320; keepalive_requests 10000; keepalive_timeout 60s; }
  server { listen 127.0.0.1:@HTTP@ default_server backlog=4096; return 404; }
  server {
    listen 127.0.0.1:@HTTP@; listen 127.0.0.1:@HTTPS@ ssl backlog=4096; http2 on; server_name @HOST@;
    ssl_certificate @FILES@/tls.crt; ssl_certificate_key @FILES@/tls.key;
    location / {
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Request-ID $request_id; proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $host;
      proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_next_upstream error timeout; proxy_next_upstream_tries 3; proxy_buffering off; proxy_request_buffering on;
    }
  }
}
"#;

const HAPROXY: &str = r#"
global
  nbthread 1
  maxconn 8192
  log stdout format raw local0
  ssl-default-bind-options ssl-min-ver TLSv1.2
  stats socket @FILES@/haproxy.sock
defaults
  mode http
  log global
  option httplog
  option forwardfor
  timeout connect 5s
  timeout client 75s
  timeout server 60s
  timeout http-keep-alive 75s
  http-reuse always
frontend main
  bind 127.0.0.1:@HTTP@ backlog 4096
  bind 127.0.0.1:@HTTPS@ backlog 4096 ssl crt @FILES@/tls.pem alpn h2,http/1.1
  unique-id-format %[uuid]
  unique-id-header X-Request-ID
  http-request set-header X-Forwarded-Proto https if { ssl_fc }
  http-request set-header X-Forwarded-Proto http if !{ ssl_fc }
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Real-IP %[src]
  use_backend web if { req.hdr(host),field(1,:) -i @HOST@ } { path_beg / }
backend web
  server one @BACKEND@ pool-max-conn 320
"#;

const ENVOY: &str = r#"
static_resources:
  listeners:
  - name: http
    address: { socket_address: { address: 127.0.0.1, port_value: @HTTP@ } }
    filter_chains:
    - filters:
      - &manager
        name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          use_remote_address: true
          access_log:
          - name: envoy.access_loggers.file
            typed_config: { "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: @FILES@/envoy.access.log }
          route_config:
            virtual_hosts:
            - name: web
              domains: ["@HOST@", "@HOST@:*"]
              routes: [{ match: { prefix: "/" }, route: { cluster: web } }]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  - name: https
    address: { socket_address: { address: 127.0.0.1, port_value: @HTTPS@ } }
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{ certificate_chain: { filename: @FILES@/tls.crt }, private_key: { filename: @FILES@/tls.key } }]
      filters: [*manager]
  clusters:
  - name: web
    type: STATIC
    load_assignment:
      cluster_name: web
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 10.7.0.1, port_value: 8080 } } } }] }]
"#;
