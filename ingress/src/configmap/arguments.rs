//! The keys that are neither annotations nor about external authentication, group by group: each goes over an argument of
//! the command line, or into what has none.

use std::time::Duration;

use clap::ValueEnum;
use http::{HeaderName, HeaderValue, StatusCode};
use ipnetwork::IpNetwork;

use super::{Everywhere, Reading};
use crate::annotations::headers::allowed;
use crate::annotations::{Annotations, Data, Reference, value};
use crate::config::{GatewayArgs, object_name};
use crate::filters::bans::{Bans, Texts};
use crate::filters::compress::{Coding, CompressArgs};
use crate::observe::log_format::LogFormat;
use crate::tls::settings::{TlsArgs, Version, suites};
use crate::trace::settings::{RootSampler, TraceArgs};

/// Reads them all into `reading`.
pub(super) fn read(from: &mut Annotations<'_>, reading: &mut Reading) {
    let Reading {
        args, everywhere, ..
    } = &mut *reading;
    hsts(from, args);
    tls(from, &mut args.tls);
    set(
        &mut args.ssl_reject_handshake,
        from.flag("ssl-reject-handshake"),
    );
    compress(from, &mut args.compress);
    proxies(from, args);
    clients(from, args);
    backends(from, args);
    trace(from, &mut args.trace);
    log(from, args, everywhere);
    limits(from, args, everywhere);
    locations(from, everywhere);
    everywhere.bans = Bans {
        clients: from.cidrs("block-cidrs").into_iter().flatten().collect(),
        agents: from
            .get("block-user-agents", Texts::parse)
            .unwrap_or_default(),
        referers: from.get("block-referers", Texts::parse).unwrap_or_default(),
    };
    let defaults = &mut reading.defaults;
    defaults.repeats_all = from.flag("retry-non-idempotent").unwrap_or_default();
    defaults.request.set = fields(from, "proxy-set-headers");
    defaults.response.set = fields(from, "add-headers");
    defaults.response.removed = from.get("hide-headers", names).unwrap_or_default();
}

/// Sets `argument` if there is something to set it to.
fn set<T>(argument: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *argument = value;
    }
}

/// A time that is not nothing.
fn time(from: &mut Annotations<'_>, name: &'static str) -> Option<Duration> {
    from.get(name, |text| {
        let time = value::seconds(text)?;
        let is_some = !time.is_zero();
        is_some.then_some(time).ok_or("must not be 0".to_owned())
    })
}

fn hsts(from: &mut Annotations<'_>, args: &mut GatewayArgs) {
    set(&mut args.hsts, from.flag("hsts"));
    set(&mut args.hsts_max_age, from.seconds("hsts-max-age"));
    let subdomains = from.flag("hsts-include-subdomains");
    set(&mut args.hsts_include_subdomains, subdomains);
    set(&mut args.hsts_preload, from.flag("hsts-preload"));
}

fn tls(from: &mut Annotations<'_>, args: &mut TlsArgs) {
    set(&mut args.tls_min_version, from.get("ssl-protocols", oldest));
    if let Some(suites) = from.get("ssl-ciphers", suites) {
        args.tls_ciphers = Some(suites);
    }
}

/// The oldest version that is spoken of those in a list of nginx's.
fn oldest(text: &str) -> Result<Version, String> {
    const KNOWN: [&str; 6] = ["SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];
    let listed: Vec<&str> = text.split_whitespace().collect();
    if let Some(other) = listed.iter().find(|name| !KNOWN.contains(name)) {
        return Err(format!("{other:?} is not a version of TLS"));
    }
    match (listed.contains(&"TLSv1.2"), listed.contains(&"TLSv1.3")) {
        (true, _) => Ok(Version::V12),
        (false, true) => Ok(Version::V13),
        (false, false) => Err(format!("{text:?} has neither TLSv1.2 nor TLSv1.3")),
    }
}

fn compress(from: &mut Annotations<'_>, args: &mut CompressArgs) {
    for (name, coding) in [("use-gzip", Coding::Gzip), ("enable-brotli", Coding::Br)] {
        let Some(is_on) = from.flag(name) else {
            continue;
        };
        args.compress.retain(|other| *other != coding);
        if is_on {
            args.compress.insert(0, coding);
        }
    }
    set(&mut args.gzip_level, from.number("gzip-level", 1..=9));
    set(&mut args.brotli_level, from.number("brotli-level", 0..=11));
    let mut length = |name| from.number(name, 0..=u64::MAX);
    let lengths = [length("gzip-min-length"), length("brotli-min-length")];
    let least = lengths.into_iter().flatten().min();
    set(&mut args.compress_min_length, least);
    let types = [from.text("gzip-types"), from.text("brotli-types")];
    let types = types.into_iter().flatten();
    let listed = types.flat_map(|types| types.split([' ', ',', '\n']));
    let listed: Vec<String> = listed
        .filter(|kind| !kind.is_empty())
        .map(str::to_owned)
        .collect();
    if !listed.is_empty() {
        // nginx compresses this one always.
        args.compress_types = [&["text/html".to_owned()], &listed[..]].concat();
    }
}

/// Whom to believe. Nobody is believed any more whom the arguments name once these keys say something of it.
fn proxies(from: &mut Annotations<'_>, args: &mut GatewayArgs) {
    let ranges = from.cidrs("proxy-real-ip-cidr");
    let ranges = ranges.or_else(|| value::cidrs("0.0.0.0/0,::/0").ok());
    let believed = |is_on| -> Vec<IpNetwork> {
        match is_on {
            true => ranges.clone().unwrap_or_default(),
            false => Vec::new(),
        }
    };
    let forwarded = from.flag("use-forwarded-headers").map(believed);
    set(&mut args.trusted_proxies, forwarded);
    let named = from.flag("use-proxy-protocol").map(believed);
    set(&mut args.proxy_protocol_from, named);
}

fn clients(from: &mut Annotations<'_>, args: &mut GatewayArgs) {
    let underscores = from.flag("enable-underscores-in-headers");
    set(&mut args.keep_underscore_headers, underscores);
    set(
        &mut args.header_timeout,
        time(from, "client-header-timeout"),
    );
    set(&mut args.client_timeout, time(from, "client-body-timeout"));
    let requests = from.number("keep-alive-requests", 1..=u32::MAX);
    set(&mut args.keep_alive_requests, requests);
    match from.seconds("keep-alive") {
        Some(Duration::ZERO) => args.keep_alive_requests = 1,
        time => set(&mut args.keep_alive_timeout, time),
    }
    set(
        &mut args.drain_timeout,
        time(from, "worker-shutdown-timeout"),
    );
    if let Some(connections) = from.number("max-worker-connections", 1..=1 << 24) {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = args.workers.unwrap_or_else(cores).max(1);
        args.max_connections = workers.saturating_mul(connections);
    }
}

fn backends(from: &mut Annotations<'_>, args: &mut GatewayArgs) {
    let idle = from.number("upstream-keepalive-connections", 0..=1 << 24);
    set(&mut args.upstream_keepalive_connections, idle);
    let requests = from.number("upstream-keepalive-requests", 1..=u32::MAX);
    set(&mut args.upstream_keepalive_requests, requests);
    let age = time(from, "upstream-keepalive-time");
    set(&mut args.upstream_keepalive_time, age);
    let kept = time(from, "upstream-keepalive-timeout");
    set(&mut args.upstream_keepalive_timeout, kept);
}

fn trace(from: &mut Annotations<'_>, args: &mut TraceArgs) {
    if let Some(host) = from.text("otlp-collector-host") {
        args.otlp_collector_host = Some(host.to_owned());
    }
    let port = from.number("otlp-collector-port", 1..=u16::MAX);
    set(&mut args.otlp_collector_port, port);
    let name = from.text("otel-service-name").map(str::to_owned);
    set(&mut args.otel_service_name, name);
    let sampler = from.get("otel-sampler", |text| RootSampler::from_str(text, false));
    set(&mut args.otel_sampler, sampler);
    let ratio = from.number("otel-sampler-ratio", 0.0..=1.0);
    set(&mut args.otel_sampler_ratio, ratio);
    let by_parent = from.flag("otel-sampler-parent-based");
    set(&mut args.otel_sampler_parent_based, by_parent);
    let most = from.number("otel-max-queuesize", 1..=1 << 24);
    set(&mut args.otel_max_queuesize, most);
    let delay = from.number("otel-schedule-delay-millis", 0..=3_600_000);
    set(&mut args.otel_schedule_delay_millis, delay);
    let batch = from.number("otel-max-export-batch-size", 1..=1 << 24);
    set(&mut args.otel_max_export_batch_size, batch);
}

fn log(from: &mut Annotations<'_>, args: &mut GatewayArgs, everywhere: &mut Everywhere) {
    let format = from.get("log-format-upstream", str::parse::<LogFormat>);
    set(&mut args.access_log_format, format);
    let off = [
        from.flag("disable-access-log"),
        from.flag("disable-http-access-log"),
    ];
    let off = off.into_iter().flatten().reduce(|one, other| one || other);
    set(&mut args.no_access_log, off);
    from.flag("enable-access-log-for-default-backend");
    let unlogged = from.get("skip-access-log-urls", Texts::parse);
    set(&mut everywhere.unlogged, unlogged);
}

fn limits(from: &mut Annotations<'_>, args: &mut GatewayArgs, everywhere: &mut Everywhere) {
    let mut status = |name| {
        let code = from.number(name, 400..=599)?;
        StatusCode::from_u16(code).ok()
    };
    set(&mut args.limit_status_code, status("limit-req-status-code"));
    everywhere.connection_limit_status = status("limit-conn-status-code");
    let redirects = [
        ("301", StatusCode::MOVED_PERMANENTLY),
        ("302", StatusCode::FOUND),
        ("307", StatusCode::TEMPORARY_REDIRECT),
        ("308", StatusCode::PERMANENT_REDIRECT),
    ];
    let redirect = from.choice("http-redirect-code", &redirects);
    set(&mut everywhere.redirect_status, redirect);
}

fn locations(from: &mut Annotations<'_>, everywhere: &mut Everywhere) {
    let paths = from.get("no-tls-redirect-locations", paths);
    set(&mut everywhere.no_https_redirect, paths);
    let paths = from.get("no-auth-locations", self::paths);
    set(&mut everywhere.unguarded, paths);
}

/// Beginnings of paths. The slash that they begin with may be missing.
fn paths(text: &str) -> Result<Box<[Box<str>]>, String> {
    let path = |path: &str| match path.starts_with('/') {
        true => path.into(),
        false => format!("/{path}").into(),
    };
    Ok(value::list(text)?.into_iter().map(path).collect())
}

fn names(text: &str) -> Result<Vec<HeaderName>, String> {
    value::list(text)?.into_iter().map(allowed).collect()
}

/// The fields in the ConfigMap that `name` names, as NAMESPACE/NAME. Those that cannot be set are reported and left out.
fn fields(from: &mut Annotations<'_>, name: &'static str) -> Vec<(HeaderName, HeaderValue)> {
    let Some(object) = from.get(name, object_name) else {
        return Vec::new();
    };
    let all = |data: &Data| Ok::<_, String>(data.iter().map(field).collect::<Vec<_>>());
    let all = from.content(name, Reference::ConfigMap(object), all);
    let (good, bad): (Vec<_>, Vec<_>) =
        all.unwrap_or_default().into_iter().partition(Result::is_ok);
    for error in bad.into_iter().filter_map(Result::err) {
        from.invalid(name, error);
    }
    good.into_iter().filter_map(Result::ok).collect()
}

fn field((name, text): (&String, &Vec<u8>)) -> Result<(HeaderName, HeaderValue), String> {
    let header = allowed(name)?;
    let text = std::str::from_utf8(text).map_err(|_| format!("{name} is not text"))?;
    if text.contains('$') {
        return Err(format!("{name}: values with variables are not set"));
    }
    Ok((header, value::header_value(text.trim())?))
}
