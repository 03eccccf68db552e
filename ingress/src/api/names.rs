//! Looking up names outside the cluster in DNS, in the background, for as long as somebody wants to know.
//!
//! An answer is good for as long as its records say, within bounds. One that fails takes nothing away: the last good one
//! stays, and it is tried again soon. No request ever waits for any of this.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::time::sleep;

use crate::upstream::external::{ExternalNameArgs, Resolution};

/// How long an answer counts at least and at most, whatever its records say.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
/// How soon a name that cannot be looked up is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Who asks DNS.
#[derive(Clone)]
pub struct Resolver(TokioResolver);

/// What DNS says of a name.
struct Answer {
    addresses: Vec<IpAddr>,
    lifetime: Duration,
}

/// A name that is looked up again and again.
struct Followed {
    resolver: Resolver,
    name: Box<str>,
    last: Option<Resolution>,
    rest: Duration,
}

impl Resolver {
    /// Who asks the name servers that `settings` name, else those of /etc/resolv.conf.
    pub fn new(settings: &ExternalNameArgs) -> Result<Self, NetError> {
        let mut builder = match &settings.external_name_dns[..] {
            [] => TokioResolver::builder_tokio()?,
            servers => {
                let servers = servers.iter().map(name_server).collect();
                let config = ResolverConfig::from_name_servers(servers);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        // As ingress-nginx does it, and as Services of two families are reached here.
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        // What this pod calls its neighbours is nobody else's business.
        options.use_hosts_file = ResolveHosts::Never;
        // It is asked when an answer has expired, and by nobody twice.
        options.cache_size = 0;
        builder.build().map(Self)
    }

    async fn look_up(&self, name: &str) -> Result<Answer, NetError> {
        if let Ok(address) = name.parse() {
            return Ok(Answer {
                addresses: vec![address],
                lifetime: LONGEST,
            });
        }
        let found = self.0.lookup_ip(name).await?;
        let mut addresses: Vec<IpAddr> = found.iter().map(|ip| ip.to_canonical()).collect();
        // Name servers shuffle them, which is no change.
        addresses.sort();
        addresses.dedup();
        let records = found.as_lookup().answers();
        let lifetime = records.iter().map(|record| record.ttl).min();
        Ok(Answer {
            addresses,
            lifetime: lifetime_of(lifetime.unwrap_or_default()),
        })
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.into_iter().map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.collect())
}

/// How long an answer counts whose records say so many seconds.
fn lifetime_of(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into()).clamp(SHORTEST, LONGEST)
}

/// What looking up `name` comes to, now and whenever that changes.
pub fn follow(resolver: Resolver, name: Box<str>) -> impl Stream<Item = Resolution> + Send {
    let followed = Followed {
        resolver,
        name,
        last: None,
        rest: Duration::ZERO,
    };
    unfold(followed, |mut followed| async {
        let next = followed.change().await;
        Some((next, followed))
    })
}

impl Followed {
    /// Waits until looking it up comes to something else than last.
    async fn change(&mut self) -> Resolution {
        loop {
            sleep(self.rest).await;
            let next = self.look_up().await;
            if self.last.as_ref() != Some(&next) {
                self.tell(&next);
                self.last = Some(next.clone());
                return next;
            }
        }
    }

    async fn look_up(&mut self) -> Resolution {
        match self.resolver.look_up(&self.name).await {
            Ok(Answer {
                addresses,
                lifetime,
            }) => {
                self.rest = lifetime;
                Resolution {
                    addresses,
                    failure: None,
                }
            }
            Err(error) => {
                self.rest = AGAIN;
                let last = self.last.clone().unwrap_or_default();
                Resolution {
                    addresses: last.addresses,
                    failure: Some(describe(&error)),
                }
            }
        }
    }

    /// Says so when looking it up begins to fail, and when it works again.
    fn tell(&self, next: &Resolution) {
        let failed = self
            .last
            .as_ref()
            .is_some_and(|last| last.failure.is_some());
        let name = &self.name;
        match (&next.failure, failed.cmp(&next.failure.is_some())) {
            (Some(why), Ordering::Less) => tracing::warn!(name, why, "cannot look up a name"),
            (_, Ordering::Greater) => tracing::info!(name, "a name can be looked up again"),
            _ => tracing::debug!(name, addresses = ?next.addresses, "looked up a name"),
        }
    }
}

/// Why a name cannot be looked up, in words that stay the same from one time to the next.
fn describe(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no name server answers in time".to_owned(),
        error if error.is_nx_domain() => "there is no such name".to_owned(),
        error if error.is_no_records_found() => "it has no address".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_as_long_as_it_says_within_bounds() {
        let rows = [(0, 1), (1, 1), (30, 30), (300, 300), (86_400, 300)];
        for (says, counts) in rows {
            assert_eq!(lifetime_of(says), Duration::from_secs(counts));
        }
    }
}
