//! Every key of ingress-nginx's ConfigMap, and what becomes of it.
//!
//! A key is an annotation that holds for all Ingresses, or one about external authentication that is asked of all
//! requests, or one of its own. As with annotations, a row that says a key is read is checked against what reads it.

use crate::annotations::known::{
    self, Known, Meaning, SNIPPET, SNIPPET_INSTEAD, WAF, WAF_INSTEAD, differs, guard, moot,
    refused, same,
};

/// How a key is read.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// As this annotation of all Ingresses that do not have it.
    Annotation(&'static Known),
    /// As this annotation of an Ingress, to make up the external authentication of all.
    GlobalAuth(&'static Known),
    /// By itself.
    Own(&'static Known),
}

/// Keys that are annotations of the same name.
#[rustfmt::skip]
const ANNOTATIONS: &[&str] = &[
    "allowlist-source-range", "app-root", "client-body-buffer-size", "custom-http-errors", "denylist-source-range",
    "disable-proxy-intercept-errors", "enable-opentelemetry", "force-ssl-redirect", "limit-rate", "limit-rate-after",
    "load-balance", "opentelemetry-operation-name", "opentelemetry-trust-incoming-span", "preserve-trailing-slash",
    "proxy-body-size", "proxy-buffer-size", "proxy-buffering", "proxy-buffers-number", "proxy-busy-buffers-size",
    "proxy-connect-timeout", "proxy-cookie-domain", "proxy-cookie-path", "proxy-http-version",
    "proxy-max-temp-file-size", "proxy-next-upstream", "proxy-next-upstream-timeout", "proxy-next-upstream-tries",
    "proxy-read-timeout", "proxy-redirect-from", "proxy-redirect-to", "proxy-request-buffering", "proxy-send-timeout",
    "relative-redirects", "service-upstream", "ssl-redirect", "upstream-hash-by", "upstream-hash-by-subset",
    "upstream-hash-by-subset-size", "use-port-in-redirects",
];
/// What ingress-nginx calls it here still.
const ALLOWLIST: (&str, &str) = ("whitelist-source-range", "allowlist-source-range");
/// Keys that are annotations without this, but of no Ingress.
const GLOBAL: &str = "global-";
#[rustfmt::skip]
const GLOBAL_AUTH: &[&str] = &[
    "global-auth-always-set-cookie", "global-auth-cache-duration", "global-auth-cache-key", "global-auth-method",
    "global-auth-request-redirect", "global-auth-response-headers", "global-auth-signin",
    "global-auth-signin-redirect-param", "global-auth-url",
];
/// Keys that count at the start only: a change of theirs waits for the next one.
pub const AT_THE_START: &[&str] = &[
    "max-worker-connections",
    "otel-max-export-batch-size",
    "otel-max-queuesize",
    "otel-sampler",
    "otel-sampler-parent-based",
    "otel-sampler-ratio",
    "otel-schedule-delay-millis",
    "otel-service-name",
    "otlp-collector-host",
    "otlp-collector-port",
    "upstream-keepalive-connections",
    "upstream-keepalive-requests",
    "upstream-keepalive-time",
    "upstream-keepalive-timeout",
];

const HASHES: &str = "there are no hash tables to size";
const STREAM: &str = "TCP and UDP Services are not served here";
const JAEGER: &str = "traces go out by OpenTelemetry only";
const JAEGER_INSTEAD: &str = "set otlp-collector-host and enable-opentelemetry";
const STDOUT: &str = "the access log goes to standard output";
const GEO: &str = "there is no database of places here";
const HEAD: &str = "a head of a request has up to 64 KiB and 100 fields";
const RESUMED: &str = "sessions are resumed by tickets under keys that change every few hours";
const RISK: &str = "values are typed and none becomes part of a configuration, so all annotations are safe to read";
const ONE_TYPE_LIST: &str = "one list and one least length hold for all codings";
const FIXED_NAME: &str = "has the one name that everybody knows";

/// Keys of their own, by name.
#[rustfmt::skip]
pub const OWN: &[Known] = &[
    moot("access-log-params", STDOUT),
    moot("access-log-path", STDOUT),
    differs("add-headers", "is set in answers of backends, and not in those that the gateway gives itself; values with variables are left out"),
    moot("allow-backend-server-header", "a backend's Server header always passes; hide-headers can remove it"),
    refused("allow-cross-namespace-resources", "whoever may write Ingresses in one namespace need not be allowed to read another", "copy the object into the Ingress's namespace"),
    refused("allow-snippet-annotations", SNIPPET, SNIPPET_INSTEAD),
    moot("annotation-value-word-blocklist", RISK),
    moot("annotations-risk-level", RISK),
    refused("bind-address", "sockets are bound before any ConfigMap is read", "set --http-bind and --https-bind"),
    guard(same("block-cidrs")),
    guard(same("block-referers")),
    guard(same("block-user-agents")),
    same("brotli-level"),
    differs("brotli-min-length", ONE_TYPE_LIST),
    differs("brotli-types", ONE_TYPE_LIST),
    same("client-body-timeout"),
    moot("client-header-buffer-size", HEAD),
    same("client-header-timeout"),
    moot("compute-full-forwarded-for", "what a trusted proxy says is always added to"),
    moot("debug-connections", "RUST_LOG says what is logged"),
    moot("default-type", "an answer without a type passes without one"),
    same("disable-access-log"),
    same("disable-http-access-log"),
    moot("disable-ipv6", "--http-bind and --https-bind say where to listen"),
    moot("disable-ipv6-dns", "endpoints come from the API and not from DNS"),
    moot("disable-stream-access-log", STREAM),
    differs("enable-access-log-for-default-backend", "requests for the default backend are always written down"),
    moot("enable-aio-write", "nothing is written to files"),
    moot("enable-auth-access-log", "questions to a service for authentication are not written down"),
    same("enable-brotli"),
    refused("enable-modsecurity", WAF, WAF_INSTEAD),
    moot("enable-multi-accept", "accepting needs no tuning"),
    refused("enable-ocsp", "OCSP stapling is not done, and public authorities are giving it up", ""),
    refused("enable-owasp-modsecurity-crs", WAF, WAF_INSTEAD),
    refused("enable-real-ip", "a client's address in a header is believed together with all that a proxy says, or not at all", "set use-forwarded-headers and proxy-real-ip-cidr"),
    moot("enable-serial-reloads", "there are no reloads"),
    refused("enable-syslog", STDOUT, "have the node's log collector send it on"),
    same("enable-underscores-in-headers"),
    moot("error-log-level", "RUST_LOG says what is logged"),
    moot("error-log-path", "errors go to standard error"),
    moot("forwarded-for-header", FIXED_NAME),
    moot("forwarded-for-proxy-protocol-header", FIXED_NAME),
    moot("forwarded-host-header", FIXED_NAME),
    moot("generate-request-id", "a request without X-Request-ID always gets one"),
    moot("geoip2-autoreload-in-minutes", GEO),
    moot("global-allowed-response-headers", "custom-headers needs no list of allowed names"),
    refused("global-auth-snippet", SNIPPET, ""),
    moot("grpc-buffer-size-kb", "bodies pass through as they come"),
    moot("gzip-disable", "clients are taken at their word in Accept-Encoding"),
    same("gzip-level"),
    differs("gzip-min-length", ONE_TYPE_LIST),
    differs("gzip-types", ONE_TYPE_LIST),
    differs("hide-headers", "is removed from answers of backends"),
    same("hsts"),
    same("hsts-include-subdomains"),
    same("hsts-max-age"),
    same("hsts-preload"),
    moot("http-access-log-path", STDOUT),
    same("http-redirect-code"),
    refused("http-snippet", SNIPPET, SNIPPET_INSTEAD),
    moot("http2-max-concurrent-streams", "a connection always has as many as are safe"),
    moot("http2-max-field-size", HEAD),
    moot("http2-max-header-size", HEAD),
    moot("http2-max-requests", "keep-alive-requests counts for HTTP/2, too"),
    moot("ignore-invalid-headers", "a request with a header that breaks the rules is answered with 400"),
    refused("jaeger-baggage-header", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-collector-host", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-collector-port", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-debug-header", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-endpoint", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-propagation-format", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-sampler-host", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-sampler-param", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-sampler-port", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-sampler-type", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-service-name", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-trace-baggage-header-prefix", JAEGER, JAEGER_INSTEAD),
    refused("jaeger-trace-context-header-name", JAEGER, JAEGER_INSTEAD),
    differs("keep-alive", "0 closes a connection after one request of HTTP/1.1"),
    same("keep-alive-requests"),
    moot("large-client-header-buffers", HEAD),
    same("limit-conn-status-code"),
    moot("limit-conn-zone-variable", "a client is an address, or the network of one of IPv6 (--limit-ipv6-prefix)"),
    same("limit-req-status-code"),
    refused("location-snippet", SNIPPET, SNIPPET_INSTEAD),
    refused("log-format-escape-json", "values are escaped as nginx does by default", "--access-log-format json writes sound JSON"),
    refused("log-format-escape-none", "what a client says must not forge lines of the log", ""),
    moot("log-format-stream", STREAM),
    same("log-format-upstream"),
    moot("lua-shared-dicts", "there is no Lua here"),
    refused("main-snippet", SNIPPET, SNIPPET_INSTEAD),
    moot("map-hash-bucket-size", HASHES),
    differs("max-worker-connections", "counts clients' connections alone, for each core"),
    moot("max-worker-open-files", "the process has as many as it is allowed"),
    refused("modsecurity-snippet", WAF, WAF_INSTEAD),
    moot("nginx-status-ipv4-whitelist", "--admin-bind says where metrics are served"),
    moot("nginx-status-ipv6-whitelist", "--admin-bind says where metrics are served"),
    same("no-auth-locations"),
    differs("no-tls-redirect-locations", "goes by the path of the request, not of the rule"),
    refused("opentelemetry-config", "no other file is read for traces", "the keys otlp-* and otel-* say it all"),
    same("otel-max-export-batch-size"),
    same("otel-max-queuesize"),
    same("otel-sampler"),
    same("otel-sampler-parent-based"),
    same("otel-sampler-ratio"),
    same("otel-schedule-delay-millis"),
    same("otel-service-name"),
    same("otlp-collector-host"),
    same("otlp-collector-port"),
    moot("proxy-add-original-uri-header", "a backend gets the path as it is routed and no other"),
    moot("proxy-headers-hash-bucket-size", HASHES),
    moot("proxy-headers-hash-max-size", HASHES),
    moot("proxy-protocol-header-timeout", "it has the time that the head of a request has (client-header-timeout)"),
    differs("proxy-real-ip-cidr", "counts where use-forwarded-headers or use-proxy-protocol is true; by default it is all of IPv4 and IPv6"),
    differs("proxy-set-headers", "values with variables and headers that frame or route requests are left out"),
    moot("proxy-ssl-location-only", "TLS to backends is always a matter of one Ingress"),
    moot("proxy-stream-next-upstream", STREAM),
    moot("proxy-stream-next-upstream-timeout", STREAM),
    moot("proxy-stream-next-upstream-tries", STREAM),
    moot("proxy-stream-responses", STREAM),
    moot("proxy-stream-timeout", STREAM),
    same("retry-non-idempotent"),
    moot("reuse-port", "every thread has sockets of its own"),
    moot("server-name-hash-bucket-size", HASHES),
    moot("server-name-hash-max-size", HASHES),
    refused("server-snippet", SNIPPET, SNIPPET_INSTEAD),
    moot("server-tokens", "the Server header never tells the version"),
    same("skip-access-log-urls"),
    moot("ssl-buffer-size", "records grow with what there is to send"),
    differs("ssl-ciphers", "those without forward secrecy or authenticated encryption are passed over; the client chooses"),
    refused("ssl-dh-param", "key exchange is by elliptic curves only", ""),
    refused("ssl-early-data", "what comes with the first flight of TLS 1.3 can be played again", ""),
    moot("ssl-ecdh-curve", "only sound groups are offered"),
    differs("ssl-protocols", "TLS before 1.2 is never spoken, and 1.3 always is"),
    same("ssl-reject-handshake"),
    moot("ssl-session-cache", RESUMED),
    moot("ssl-session-cache-size", RESUMED),
    moot("ssl-session-ticket-key", RESUMED),
    moot("ssl-session-tickets", RESUMED),
    moot("ssl-session-timeout", RESUMED),
    moot("stream-access-log-path", STREAM),
    refused("stream-snippet", SNIPPET, "expose the port by a Service of type LoadBalancer or NodePort"),
    moot("strict-validate-path-type", "paths are always held to the API's rules"),
    moot("syslog-host", STDOUT),
    moot("syslog-port", STDOUT),
    same("upstream-keepalive-connections"),
    same("upstream-keepalive-requests"),
    same("upstream-keepalive-time"),
    same("upstream-keepalive-timeout"),
    differs("use-forwarded-headers", "what proxies say is removed unless they are among proxy-real-ip-cidr"),
    refused("use-geoip", GEO, ""),
    refused("use-geoip2", GEO, ""),
    same("use-gzip"),
    moot("use-http2", "clients that ask for HTTP/2 get it"),
    differs("use-proxy-protocol", "clients outside proxy-real-ip-cidr must not send a PROXY header"),
    moot("variables-hash-bucket-size", HASHES),
    moot("variables-hash-max-size", HASHES),
    moot("worker-cpu-affinity", "the kernel places threads"),
    moot("worker-processes", "--workers says how many threads there are"),
    same("worker-shutdown-timeout"),
];

/// How `key` is read, if there is such a key.
pub fn find(key: &str) -> Option<Way> {
    let annotation = match key == ALLOWLIST.0 {
        true => Some(ALLOWLIST.1),
        false => ANNOTATIONS.contains(&key).then_some(key),
    };
    if let Some(annotation) = annotation {
        return known::find(annotation).map(Way::Annotation);
    }
    if GLOBAL_AUTH.contains(&key) {
        let annotation = key.strip_prefix(GLOBAL)?;
        return known::find(annotation).map(Way::GlobalAuth);
    }
    let at = OWN.binary_search_by(|known| known.name.cmp(key)).ok()?;
    Some(Way::Own(&OWN[at]))
}

/// All keys.
pub fn all() -> impl Iterator<Item = &'static str> {
    let own = OWN.iter().map(|known| known.name);
    let others = ANNOTATIONS.iter().chain(GLOBAL_AUTH).copied();
    own.chain(others).chain([ALLOWLIST.0])
}

/// The key whose name is so much like `name` that it may have been meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let likeness = |key: &&str| (1000.0 * strsim::jaro_winkler(key, name)) as u32;
    let nearest = all().max_by_key(likeness)?;
    (likeness(&nearest) >= 900).then_some(nearest)
}

impl Way {
    /// What is known of it.
    pub fn known(self) -> &'static Known {
        match self {
            Self::Annotation(known) | Self::GlobalAuth(known) | Self::Own(known) => known,
        }
    }

    /// Whether it is refused whatever its value.
    pub fn is_refused(self) -> bool {
        matches!(self.known().meaning, Meaning::Refused { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_no_two_are_one() {
        assert!(OWN.is_sorted_by(|one, next| one.name < next.name));
        let all: std::collections::BTreeSet<_> = all().collect();
        assert_eq!(
            all.len(),
            OWN.len() + ANNOTATIONS.len() + GLOBAL_AUTH.len() + 1
        );
        for key in all.iter().chain(AT_THE_START) {
            assert!(find(key).is_some(), "{key}");
        }
        assert!(find("auth-url").is_none() && find("rewrite-target").is_none());
        assert_eq!(nearest("proxy-body-sise"), Some("proxy-body-size"));
    }
}
