//! Every annotation there is, and what becomes of it.
//!
//! The table is the contract with those who move from ingress-nginx: `lint` prints it for their objects. A row that says
//! an annotation is read is checked against the parsers, so the two cannot drift apart.

use super::{LEGACY_PREFIX, OWN_PREFIX, PREFIX};

/// An annotation that we know.
#[derive(Debug)]
pub struct Known {
    /// Its name: ingress-nginx's without prefix, our own with it.
    pub name: &'static str,
    /// What becomes of it.
    pub meaning: Meaning,
    /// Whether it keeps requests out. If such a one cannot be carried out, its routes are closed: answered with 503.
    pub is_guard: bool,
    /// Whether requests are served as well without it, so that its being refused is no reason to refuse its Ingress.
    pub is_harmless: bool,
}

/// What becomes of an annotation that is set to something sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It is read and means what it means to ingress-nginx.
    Same,
    /// It is read and means something else.
    Differs(&'static str),
    /// It is not read, as there is nothing here that it would set, and why.
    Moot(&'static str),
    /// It is not read.
    Refused {
        /// Why.
        why: &'static str,
        /// What there is in its place; empty if there is nothing.
        instead: &'static str,
    },
}

pub(crate) const fn same(name: &'static str) -> Known {
    Known {
        name,
        meaning: Meaning::Same,
        is_guard: false,
        is_harmless: false,
    }
}

pub(crate) const fn differs(name: &'static str, how: &'static str) -> Known {
    Known {
        name,
        meaning: Meaning::Differs(how),
        is_guard: false,
        is_harmless: false,
    }
}

pub(crate) const fn moot(name: &'static str, why: &'static str) -> Known {
    Known {
        name,
        meaning: Meaning::Moot(why),
        is_guard: false,
        is_harmless: true,
    }
}

/// One of ours.
const fn own(name: &'static str) -> Known {
    differs(name, "an annotation of Portolan")
}

pub(crate) const fn refused(name: &'static str, why: &'static str, instead: &'static str) -> Known {
    Known {
        name,
        meaning: Meaning::Refused { why, instead },
        is_guard: false,
        is_harmless: false,
    }
}

pub(crate) const fn guard(known: Known) -> Known {
    Known {
        is_guard: true,
        ..known
    }
}

const fn harmless(known: Known) -> Known {
    Known {
        is_harmless: true,
        ..known
    }
}

const STREAMED: &str = "bodies pass through as they come, so there are no buffers to set";
const KEPT: &str = "connections to the service are always kept";
const LIMITED: &str = "refused with 429, or what --limit-status-code says";
pub(crate) const SNIPPET: &str = "text is never made part of a configuration";
pub(crate) const SNIPPET_INSTEAD: &str = "portolan.dev/set-request-headers and its like, portolan.dev/return and portolan.dev/deny-paths do what snippets are mostly used for";
pub(crate) const WAF: &str = "there is no ModSecurity here";
pub(crate) const WAF_INSTEAD: &str =
    "put a web application firewall in front, or before the application";
const FASTCGI: &str = "FastCGI is not spoken";
const FASTCGI_INSTEAD: &str = "let a web server beside the application speak it";

/// All of them, by name.
#[rustfmt::skip]
pub const ALL: &[Known] = &[
    same("affinity"),
    same("affinity-canary-behavior"),
    same("affinity-mode"),
    guard(same("allowlist-source-range")),
    same("app-root"),
    same("auth-always-set-cookie"),
    same("auth-cache-duration"),
    same("auth-cache-key"),
    differs("auth-keepalive", KEPT),
    differs("auth-keepalive-requests", KEPT),
    differs("auth-keepalive-share-vars", KEPT),
    differs("auth-keepalive-timeout", KEPT),
    guard(same("auth-method")),
    guard(same("auth-proxy-set-headers")),
    same("auth-realm"),
    same("auth-request-redirect"),
    guard(same("auth-response-headers")),
    guard(same("auth-secret")),
    guard(same("auth-secret-type")),
    same("auth-signin"),
    same("auth-signin-redirect-param"),
    refused("auth-snippet", SNIPPET, SNIPPET_INSTEAD),
    same("auth-tls-error-page"),
    guard(same("auth-tls-match-cn")),
    same("auth-tls-pass-certificate-to-upstream"),
    guard(differs("auth-tls-secret", "holds for the paths of this Ingress, not for all of the host, and over plain HTTP too")),
    guard(same("auth-tls-verify-client")),
    guard(differs("auth-tls-verify-depth", "counts the certificates that a client sends beside its own")),
    guard(same("auth-type")),
    guard(same("auth-url")),
    same("backend-protocol"),
    same("canary"),
    same("canary-by-cookie"),
    same("canary-by-header"),
    same("canary-by-header-pattern"),
    same("canary-by-header-value"),
    same("canary-weight"),
    same("canary-weight-total"),
    differs("client-body-buffer-size", STREAMED),
    refused("configuration-snippet", SNIPPET, SNIPPET_INSTEAD),
    same("connection-proxy-header"),
    same("cors-allow-credentials"),
    same("cors-allow-headers"),
    same("cors-allow-methods"),
    same("cors-allow-origin"),
    same("cors-expose-headers"),
    same("cors-max-age"),
    differs("custom-headers", "no list of allowed names is needed; those that frame and route messages are refused"),
    differs("custom-http-errors", "the default backend is asked with GET; without one our own answer replaces the backend's"),
    same("default-backend"),
    guard(same("denylist-source-range")),
    same("disable-proxy-intercept-errors"),
    same("enable-access-log"),
    same("enable-cors"),
    same("enable-global-auth"),
    refused("enable-modsecurity", WAF, WAF_INSTEAD),
    same("enable-opentelemetry"),
    refused("enable-owasp-core-rules", WAF, WAF_INSTEAD),
    harmless(refused("enable-rewrite-log", "there is no rewrite engine to log", "`portolan-ingress explain URL` shows what becomes of a request")),
    refused("fastcgi-index", FASTCGI, FASTCGI_INSTEAD),
    refused("fastcgi-params-configmap", FASTCGI, FASTCGI_INSTEAD),
    same("force-ssl-redirect"),
    same("from-to-www-redirect"),
    harmless(refused("http2-push-preload", "browsers have given up server push", "the Link header reaches them unchanged")),
    same("limit-allowlist"),
    same("limit-burst-multiplier"),
    differs("limit-connections", LIMITED),
    same("limit-rate"),
    same("limit-rate-after"),
    differs("limit-rpm", LIMITED),
    differs("limit-rps", LIMITED),
    same("load-balance"),
    same("mirror-host"),
    same("mirror-request-body"),
    same("mirror-target"),
    refused("modsecurity-snippet", WAF, WAF_INSTEAD),
    refused("modsecurity-transaction-id", WAF, WAF_INSTEAD),
    same("opentelemetry-operation-name"),
    same("opentelemetry-trust-incoming-span"),
    same("permanent-redirect"),
    same("permanent-redirect-code"),
    own("portolan.dev/compat"),
    guard(own("portolan.dev/deny-paths")),
    own("portolan.dev/remove-request-headers"),
    own("portolan.dev/remove-response-headers"),
    same("portolan.dev/request-timeout"),
    guard(own("portolan.dev/return")),
    own("portolan.dev/set-request-headers"),
    own("portolan.dev/set-response-headers"),
    same("preserve-trailing-slash"),
    same("proxy-body-size"),
    differs("proxy-buffer-size", STREAMED),
    differs("proxy-buffering", STREAMED),
    differs("proxy-buffers-number", STREAMED),
    differs("proxy-busy-buffers-size", STREAMED),
    same("proxy-connect-timeout"),
    same("proxy-cookie-domain"),
    same("proxy-cookie-path"),
    differs("proxy-http-version", "backends are spoken to in HTTP/1.1 or, where backend-protocol says so, HTTP/2"),
    differs("proxy-max-temp-file-size", STREAMED),
    same("proxy-next-upstream"),
    same("proxy-next-upstream-timeout"),
    same("proxy-next-upstream-tries"),
    same("proxy-read-timeout"),
    same("proxy-redirect-from"),
    same("proxy-redirect-to"),
    differs("proxy-request-buffering", STREAMED),
    same("proxy-send-timeout"),
    same("proxy-ssl-ciphers"),
    same("proxy-ssl-name"),
    same("proxy-ssl-protocols"),
    guard(same("proxy-ssl-secret")),
    same("proxy-ssl-server-name"),
    same("proxy-ssl-verify"),
    same("proxy-ssl-verify-depth"),
    same("relative-redirects"),
    same("rewrite-target"),
    guard(same("satisfy")),
    same("secure-backends"),
    differs("server-alias", "only this Ingress's own rules are served under the alias; expressions (~) are refused"),
    refused("server-snippet", SNIPPET, SNIPPET_INSTEAD),
    same("service-upstream"),
    same("session-cookie-change-on-failure"),
    same("session-cookie-conditional-samesite-none"),
    same("session-cookie-domain"),
    same("session-cookie-expires"),
    same("session-cookie-max-age"),
    same("session-cookie-name"),
    same("session-cookie-partitioned"),
    same("session-cookie-path"),
    same("session-cookie-samesite"),
    same("session-cookie-secure"),
    harmless(refused("ssl-ciphers", "only suites without known weakness are offered", "nothing is needed in its place")),
    differs("ssl-passthrough", "needs no flag of the controller"),
    harmless(refused("ssl-prefer-server-ciphers", "all suites that are offered are sound, so the client chooses", "nothing is needed in its place")),
    same("ssl-redirect"),
    refused("stream-snippet", SNIPPET, "expose the port by a Service of type LoadBalancer or NodePort"),
    same("temporal-redirect"),
    same("temporal-redirect-code"),
    same("upstream-hash-by"),
    same("upstream-hash-by-subset"),
    same("upstream-hash-by-subset-size"),
    same("upstream-vhost"),
    same("use-port-in-redirects"),
    same("use-regex"),
    same("x-forwarded-prefix"),
];

/// Other names of some, of older versions.
const ALIASES: [(&str, &str); 3] = [
    ("body-size", "proxy-body-size"),
    ("limit-whitelist", "limit-allowlist"),
    ("whitelist-source-range", "allowlist-source-range"),
];

/// A key that concerns us, apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'k> {
    /// The name that the table has it under, if it has.
    pub name: &'k str,
    /// Of two keys for one name, the one of higher rank decides: newer prefix, then newer name.
    pub rank: (bool, bool),
}

/// The name that `key` gives, if its prefix concerns us.
pub fn name(key: &str) -> Option<Name<'_>> {
    if key.starts_with(OWN_PREFIX) {
        return Some(Name {
            name: key,
            rank: (true, true),
        });
    }
    let newer = key.strip_prefix(PREFIX);
    let name = newer.or_else(|| key.strip_prefix(LEGACY_PREFIX))?;
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    Some(Name {
        name: alias.map_or(name, |(_, name)| name),
        rank: (newer.is_some(), alias.is_none()),
    })
}

/// The key of the annotation `name`, the one that is preferred.
pub fn key(name: &str) -> String {
    match name.starts_with(OWN_PREFIX) {
        true => name.to_owned(),
        false => format!("{PREFIX}{name}"),
    }
}

/// The annotation `name`.
pub fn find(name: &str) -> Option<&'static Known> {
    let at = ALL.binary_search_by(|known| known.name.cmp(name)).ok()?;
    Some(&ALL[at])
}

/// The annotation whose name is so much like `name` that it may have been meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let likeness = |known: &&Known| (1000.0 * strsim::jaro_winkler(known.name, name)) as u32;
    let nearest = ALL.iter().max_by_key(likeness)?;
    (likeness(&nearest) >= 900).then_some(nearest.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_aliases_lead_into_it() {
        assert!(ALL.is_sorted_by(|one, next| one.name < next.name));
        for (alias, name) in ALIASES {
            assert!(find(alias).is_none() && find(name).is_some(), "{alias}");
        }
    }

    #[test]
    fn names_are_told_from_keys() {
        let rows = [
            (
                "nginx.ingress.kubernetes.io/affinity",
                Some(("affinity", (true, true))),
            ),
            (
                "ingress.kubernetes.io/affinity",
                Some(("affinity", (false, true))),
            ),
            (
                "ingress.kubernetes.io/body-size",
                Some(("proxy-body-size", (false, false))),
            ),
            (
                "nginx.ingress.kubernetes.io/whitelist-source-range",
                Some(("allowlist-source-range", (true, false))),
            ),
            (
                "portolan.dev/compat",
                Some(("portolan.dev/compat", (true, true))),
            ),
            ("kubernetes.io/ingress.class", None),
            ("affinity", None),
        ];
        for (key, expected) in rows {
            assert_eq!(
                name(key).map(|found| (found.name, found.rank)),
                expected,
                "{key}"
            );
        }
    }

    #[test]
    fn slips_of_the_pen_are_recognised() {
        assert_eq!(nearest("rewrite-targets"), Some("rewrite-target"));
        assert_eq!(nearest("proxy-body-sise"), Some("proxy-body-size"));
        assert_eq!(nearest("influxdb-host"), None);
    }
}
