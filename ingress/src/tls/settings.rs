//! How TLS is spoken: versions and suites, as far as rustls leaves a choice.
//!
//! What ingress-nginx's ConfigMap sets beyond that (`ssl-dh-param`, `ssl-ecdh-curve`, `ssl-session-*`, ...) has nothing to
//! choose here: every key exchange is ephemeral, and tickets are sealed with keys that change every few hours.

use clap::ValueEnum;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

/// Arguments about TLS with clients.
#[derive(clap::Args, Debug, Clone, PartialEq, Eq)]
#[group(skip)]
pub struct TlsArgs {
    /// Oldest version of TLS that clients may speak (ssl-protocols of ingress-nginx's ConfigMap).
    #[arg(long, value_name = "VERSION", value_enum, default_value_t)]
    pub tls_min_version: Version,

    /// Suites of TLS 1.2 to offer to clients, by OpenSSL's names and with colons between them (ssl-ciphers). Those without
    /// forward secrecy or authenticated encryption are passed over. Without it: all others. Those of TLS 1.3 are always
    /// offered.
    #[arg(long, value_name = "SUITES", value_parser = suites)]
    pub tls_ciphers: Option<Suites>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Version {
    /// RFC 5246.
    #[default]
    #[value(name = "1.2")]
    V12,
    /// RFC 8446.
    #[value(name = "1.3")]
    V13,
}

/// Suites of TLS 1.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suites(Vec<CipherSuite>);

impl TlsArgs {
    /// The versions that clients may speak.
    pub fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
        match self.tls_min_version {
            Version::V12 => &ALL,
            Version::V13 => &ALL[1..],
        }
    }
}

/// The cryptography of TLS with all suites of 1.3, and of 1.2 those that are `chosen`, or all.
pub fn provider(chosen: Option<&Suites>) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if let Some(Suites(chosen)) = chosen {
        let is_13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
        let is_chosen = |suite: &SupportedCipherSuite| chosen.contains(&suite.suite());
        provider
            .cipher_suites
            .retain(|suite| is_13(suite) || is_chosen(suite));
    }
    provider
}

/// The suites of TLS 1.2 in a list of OpenSSL's names; those of TLS 1.3 are not chosen this way, there as here. Names that
/// are not known are left out, as OpenSSL does.
pub fn suites(text: &str) -> Result<Suites, &'static str> {
    const KNOWN: [(&str, CipherSuite); 6] = [
        (
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ),
        (
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ),
        (
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        (
            "ECDHE-RSA-AES128-GCM-SHA256",
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ),
        (
            "ECDHE-RSA-AES256-GCM-SHA384",
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ),
        (
            "ECDHE-RSA-CHACHA20-POLY1305",
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    ];
    const ALL: [&str; 3] = ["DEFAULT", "HIGH", "ALL"];
    let names: Vec<&str> = text.split(':').map(str::trim).collect();
    let is_all = names.iter().any(|name| ALL.contains(name));
    let chosen = KNOWN
        .iter()
        .filter(|(name, _)| is_all || names.contains(name));
    let chosen: Vec<CipherSuite> = chosen.map(|(_, suite)| *suite).collect();
    match chosen.is_empty() {
        true => Err("names no suite with forward secrecy and authenticated encryption"),
        false => Ok(Suites(chosen)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites_of(text: &str) -> Option<usize> {
        let chosen = suites(text).ok()?;
        let is_12 = |suite: &&SupportedCipherSuite| suite.tls13().is_none();
        Some(
            provider(Some(&chosen))
                .cipher_suites
                .iter()
                .filter(is_12)
                .count(),
        )
    }

    #[test]
    fn suites_have_the_names_of_openssl() {
        for (text, expected) in [
            ("DEFAULT", Some(6)),
            ("ECDHE-RSA-AES128-GCM-SHA256", Some(1)),
            ("ECDHE-RSA-AES128-GCM-SHA256:AES128-SHA:!aNULL", Some(1)),
            ("ECDHE-RSA-AES128-GCM-SHA256:HIGH", Some(6)),
            ("AES128-SHA", None),
            ("", None),
        ] {
            assert_eq!(suites_of(text), expected, "{text}");
        }
    }
}
