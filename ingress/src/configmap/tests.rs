//! Tables and properties of what keys come to.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::annotations::{Seen, known as annotation};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: GatewayArgs,
}

fn args(more: &[&str]) -> GatewayArgs {
    let arguments = ["portolan-ingress"].iter().chain(more);
    Cli::try_parse_from(arguments).unwrap().args
}

fn entries(entries: &[(&str, &str)]) -> Entries {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    entries.iter().map(owned).collect()
}

fn reading(given: &[(&str, &str)]) -> Reading {
    read(
        "ns",
        &entries(given),
        &args(&[]),
        Some(&Referenced::default()),
    )
}

fn verdict(reading: &Reading, key: &str) -> (&'static str, String) {
    let finding = reading
        .findings
        .iter()
        .find(|finding| finding.annotation == key);
    let verdict = &finding
        .unwrap_or_else(|| panic!("nothing is said about {key}"))
        .verdict;
    (verdict.name(), verdict.to_string())
}

#[test]
fn every_known_key_is_read_or_said_not_to_be() {
    for key in known::all() {
        let reading = reading(&[(key, "x")]);
        let (word, text) = verdict(&reading, key);
        assert_ne!(
            text,
            Verdict::unsupported().to_string(),
            "nobody reads {key}"
        );
        let is_refused = known::find(key).unwrap().is_refused();
        assert_eq!(word == "refused", is_refused, "{key}: {word}: {text}");
    }
    let all: Vec<_> = known::all().map(|key| (key, "")).collect();
    let empty = reading(&all);
    assert_eq!(empty.defaults, Defaults::default());
    assert_eq!(empty.everywhere, Everywhere::default());
    assert!(empty.unusable.is_empty());
}

#[test]
fn keys_that_are_annotations_hold_where_an_ingress_says_nothing() {
    let said = [
        ("proxy-body-size", "8m"),
        ("custom-http-errors", "503"),
        ("whitelist-source-range", "10.0.0.0/8"),
        ("proxy-next-upstream", "error"),
        ("proxy-next-upstream-tries", "many"),
        ("retry-non-idempotent", "true"),
    ];
    let reading = reading(&said);
    let policy = |annotations: &[(&str, &str)]| {
        let mut object = serde_json::json!({"metadata": {"name": "i", "namespace": "ns"}});
        for (name, value) in annotations {
            object["metadata"]["annotations"][annotation::key(name)] = (*value).into();
        }
        let object = serde_json::from_value(object).unwrap();
        Policy::read_over(&reading.defaults, &object, None)
    };
    let size = |given: &[(&str, &str)]| policy(given).policy.unwrap().body.as_deref().unwrap().size;
    assert_eq!(size(&[]), Some(8 << 20));
    assert_eq!(size(&[("ssl-redirect", "true")]), Some(8 << 20));
    assert_eq!(size(&[("proxy-body-size", "1k")]), Some(1024));
    assert_eq!(size(&[("proxy-body-size", "large")]), Some(8 << 20));
    let plain = policy(&[]).policy.unwrap();
    assert!(
        !plain
            .access
            .as_deref()
            .unwrap()
            .admits([192, 0, 2, 1].into())
    );
    assert_eq!(plain.errors.as_deref().unwrap().intercepted.len(), 1);
    let retries = plain.retries.as_deref().unwrap();
    assert_eq!((retries.tries, retries.repeats_all), (3, true));
    // Nothing is said of what an Ingress has not said, and its own mistakes stay its own.
    assert!(policy(&[]).findings.is_empty());
    let bad = policy(&[("proxy-body-size", "large")]);
    assert_eq!(bad.findings.len(), 1);
    assert_eq!(verdict(&reading, "proxy-next-upstream-tries").0, "invalid");
    assert_eq!(verdict(&reading, "whitelist-source-range").0, "same");
}

#[test]
fn keys_go_over_arguments() {
    let given = [
        "--compress=gzip,zstd",
        "--trusted-proxies=10.0.0.0/8",
        "--hsts=false",
    ];
    let map = [
        ("hsts", "true"),
        ("hsts-max-age", "60"),
        ("ssl-protocols", "TLSv1.1 TLSv1.3"),
        ("enable-brotli", "true"),
        ("use-gzip", "false"),
        ("brotli-level", "11"),
        ("brotli-min-length", "20"),
        ("gzip-types", "text/css image/svg+xml"),
        ("use-forwarded-headers", "true"),
        ("use-proxy-protocol", "true"),
        ("proxy-real-ip-cidr", "192.0.2.0/24"),
        ("keep-alive", "0"),
        ("client-body-timeout", "5"),
        ("limit-conn-status-code", "429"),
        ("http-redirect-code", "301"),
        ("no-tls-redirect-locations", "plain,/other"),
        ("otel-sampler", "TraceIdRatioBased"),
    ];
    let read = read("ns", &entries(&map), &args(&given), None);
    let set = &read.args;
    assert_eq!(set.hsts().unwrap(), "max-age=60; includeSubDomains");
    assert_eq!(set.tls.tls_min_version, crate::tls::settings::Version::V13);
    use crate::filters::compress::Coding;
    assert_eq!(set.compress.compress, [Coding::Br, Coding::Zstd]);
    assert_eq!(
        (set.compress.brotli_level, set.compress.compress_min_length),
        (11, 20)
    );
    assert_eq!(
        set.compress.compress_types,
        ["text/html", "text/css", "image/svg+xml"]
    );
    let proxies = ["192.0.2.0/24".parse().unwrap()];
    assert_eq!(
        (&set.trusted_proxies[..], &set.proxy_protocol_from[..]),
        (&proxies[..], &proxies[..])
    );
    assert_eq!(set.keep_alive_requests, 1);
    assert_eq!(set.client_timeout.as_secs(), 5);
    let everywhere = &read.everywhere;
    assert_eq!(everywhere.connection_limit_status.unwrap(), 429);
    assert_eq!(everywhere.redirect_status, 301);
    assert_eq!(everywhere.no_https_redirect.join(" "), "/plain /other");
    assert_eq!(everywhere.unguarded, Everywhere::default().unguarded);
    assert!(
        read.findings.iter().all(|finding| !finding.is_bad()),
        "{:?}",
        read.findings
    );
    // Where nothing is said, what was given stays.
    let read = super::read("ns", &Entries::new(), &args(&given), None);
    assert_eq!(read.args.compress.compress, [Coding::Gzip, Coding::Zstd]);
    assert_eq!(read.args.trusted_proxies.len(), 1);
    let off = entries(&[("use-forwarded-headers", "false")]);
    assert!(
        super::read("ns", &off, &args(&given), None)
            .args
            .trusted_proxies
            .is_empty()
    );
}

#[test]
fn bad_values_change_nothing_and_those_of_guards_are_named() {
    let bad = [
        ("hsts", "perhaps"),
        ("hsts-max-age", "long"),
        ("ssl-protocols", "TLSv1.1"),
        ("ssl-ciphers", "RC4-SHA"),
        ("gzip-level", "10"),
        ("client-header-timeout", "0"),
        ("http-redirect-code", "200"),
        ("limit-req-status-code", "200"),
        ("log-format-upstream", "$nothing"),
        ("otel-sampler-ratio", "2"),
        ("proxy-real-ip-cidr", "x"),
        ("proxy-set-headers", "name"),
        ("hide-headers", "content-length"),
        ("skip-access-log-urls", "~("),
        ("proxy-body-sise", "1m"),
    ];
    let guards = [
        ("block-cidrs", "x"),
        ("block-user-agents", "~("),
        ("block-referers", "~*["),
        ("denylist-source-range", "10.0.0.0/33"),
        ("whitelist-source-range", "me"),
        ("global-auth-url", "nowhere"),
        ("global-auth-method", "CONNECT"),
    ];
    let all: Vec<_> = bad.iter().chain(&guards).copied().collect();
    let reading = reading(&all);
    for (key, _) in all {
        assert_eq!(verdict(&reading, key).0, "invalid", "{key}");
    }
    assert_eq!(
        verdict(&reading, "proxy-body-sise").1,
        "no such key; is proxy-body-size meant?"
    );
    assert_eq!(reading.everywhere, Everywhere::default());
    assert_eq!(reading.defaults, Defaults::default());
    assert_eq!(format!("{:?}", reading.args), format!("{:?}", args(&[])));
    let expected: BTreeSet<_> = guards.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(reading.unusable, expected);
}

#[test]
fn headers_come_from_other_config_maps() {
    let reference = |name| Reference::ConfigMap(model::ObjectName::new("other", name));
    let data = |entries: &[(&str, &str)]| {
        let entries = entries.iter();
        let entries = entries.map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        Seen::Present(entries.collect())
    };
    let mut objects = Referenced::default();
    let request = [("X-A", "1"), ("X-B", "$host"), ("Host", "x")];
    objects.put(reference("request"), data(&request));
    objects.put(reference("response"), data(&[("X-C", "3")]));
    let map = entries(&[
        ("proxy-set-headers", "other/request"),
        ("add-headers", "other/response"),
        ("hide-headers", "Server, x-powered-by"),
    ]);
    let read = read("ns", &map, &args(&[]), Some(&objects));
    assert_eq!(read.references.len(), 2);
    let (request, response) = (&read.defaults.request, &read.defaults.response);
    assert_eq!(request.set.len(), 1);
    assert_eq!(request.set[0].0, "x-a");
    assert_eq!((response.set.len(), response.removed.len()), (1, 2));
    let bad = read.findings.iter().filter(|finding| finding.is_bad());
    assert_eq!(bad.count(), 2, "{:?}", read.findings);
    assert!(read.defaults.policy().unwrap().headers.is_some());
}

proptest! {
    #[test]
    fn any_value_of_any_key_is_read_or_refused(
        key in prop::sample::select(known::all().collect::<Vec<_>>()),
        value in "[a-z0-9/,.:~*$( -]{0,24}|\\PC{0,12}",
    ) {
        let reading = reading(&[(key, &value)]);
        prop_assert!(!reading.findings.is_empty());
        prop_assert!(reading.unusable.is_empty() || known::find(key).unwrap().known().is_guard);
    }
}
