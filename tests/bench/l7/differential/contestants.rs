//! The gateways, at their defaults but for where they listen and that everything goes to one backend.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::recorder::Recorder;
use crate::l7::peers::{self, Kind};
use crate::l7::place::{Machine, object, status};
use crate::l7::process::Process;

/// Where the recorders listen, each at its contestant's port.
const BACKEND: &str = "10.7.0.1";

/// A gateway with a backend of its own.
#[derive(Debug)]
pub(super) struct Contestant {
    pub(super) kind: Kind,
    pub(super) version: String,
    pub(super) port: u16,
    pub(super) recorder: Recorder,
    _process: Process,
}

impl Contestant {
    /// Starts a gateway; nothing if it is not there.
    pub(super) fn start(kind: Kind, machine: &Machine) -> Result<Option<Self>> {
        let Some(mut program) = peers::program(kind) else {
            peers::say_missing(kind);
            return Ok(None);
        };
        let port = kind.port();
        let configure = |name: &str, text: &str| -> Result<PathBuf> {
            let path = machine.files.directory.join(name);
            let text = text
                .replace("@PORT@", &port.to_string())
                .replace("@BACKEND@", BACKEND)
                .replace("@FILES@", &machine.files.directory.display().to_string());
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        let version = version(kind)?;
        let command = match kind {
            Kind::Portolan => {
                route(machine, port)?;
                peers::gateway(&machine.files, "portolan.dev/differential", port, &[])
            }
            Kind::Nginx => {
                program.arg("-c").arg(configure("all.nginx.conf", NGINX)?);
                program
            }
            Kind::Haproxy => {
                program
                    .arg("-f")
                    .arg(configure("all.haproxy.cfg", HAPROXY)?);
                program
            }
            Kind::Envoy => {
                program.arg("-c").arg(configure("all.envoy.yaml", ENVOY)?);
                program.args(["--concurrency", "1", "--log-level", "warning"]);
                program
            }
        };
        let recorder = Recorder::start(&format!("{BACKEND}:{port}"))?;
        let name = format!("differential-{}", kind.name());
        let mut process = Process::start(command, &name, &machine.files.directory)?;
        process.wait(|| status(port, "a.org", "/") == Some(200))?;
        Ok(Some(Self {
            kind,
            version,
            port,
            recorder,
            _process: process,
        }))
    }
}

/// What a gateway says its version is.
fn version(kind: Kind) -> Result<String> {
    let Some(mut command) = peers::program(kind) else {
        return Ok(String::new());
    };
    let option = match kind {
        Kind::Portolan | Kind::Envoy => "--version",
        Kind::Nginx | Kind::Haproxy => "-v",
    };
    let output = command.arg(option).output();
    let output = output.with_context(|| format!("running {command:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let is_number =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    let mut words = text.split([' ', '/', '-', '\n']);
    let version = words.find(is_number);
    Ok(version.unwrap_or("of unknown version").to_owned())
}

/// Leads everything to the recorder at `port`.
fn route(machine: &Machine, port: u16) -> Result<()> {
    machine.create_all(
        machine.api(),
        vec![object::<k8s_openapi::api::core::v1::Service>(json!({
            "metadata": {"name": "recorder"}, "spec": {"ports": [{"name": "http", "port": 80}]},
        }))?],
    )?;
    machine.create_all(
        machine.api(),
        vec![object::<k8s_openapi::api::discovery::v1::EndpointSlice>(json!({
            "metadata": {"name": "recorder-1", "labels": {"kubernetes.io/service-name": "recorder"}},
            "addressType": "IPv4", "endpoints": [{"addresses": [BACKEND], "conditions": {"ready": true}}],
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        }))?],
    )?;
    machine.create_all(
        machine.api(),
        vec![object::<k8s_openapi::api::networking::v1::Ingress>(
            json!({
                "metadata": {"name": "everything"},
                "spec": {
                    "ingressClassName": "differential",
                    "defaultBackend": {"service": {"name": "recorder", "port": {"number": 80}}},
                },
            }),
        )?],
    )
}

const NGINX: &str = r#"
daemon off; worker_processes 1; pid @FILES@/all.nginx.pid; error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path @FILES@/all.body; proxy_temp_path @FILES@/all.proxy;
  fastcgi_temp_path @FILES@/all.f; uwsgi_temp_path @FILES@/all.u; scgi_temp_path @FILES@/all.s;
  server {
    listen 127.0.0.1:@PORT@;
    location / { proxy_pass http://@BACKEND@:@PORT@; proxy_http_version 1.1; proxy_set_header Host $host; }
  }
}
"#;

const HAPROXY: &str = r#"
global
  nbthread 1
  log stdout format raw local0
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend main
  bind 127.0.0.1:@PORT@
  default_backend everything
backend everything
  server one @BACKEND@:@PORT@
"#;

const ENVOY: &str = r#"
static_resources:
  listeners:
  - name: http
    address: { socket_address: { address: 127.0.0.1, port_value: @PORT@ } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{ match: { prefix: "/" }, route: { cluster: all } }]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: all
    type: STATIC
    load_assignment:
      cluster_name: all
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: @BACKEND@, port_value: @PORT@ } } } }] }]
"#;
