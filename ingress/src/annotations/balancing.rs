//! Which endpoint a request goes to: `load-balance`, `upstream-hash-by`, and affinity, each outweighing those before it;
//! and `service-upstream`, which leaves it to the Service's own address.

use super::Annotations;
use super::affinity::Affinity;
use crate::message::variables::Facts;
use crate::upstream::Reach;
use crate::upstream::balance::{Balance, MOST_IN_SUBSET};
use crate::upstream::hash_key::HashKey;

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balancing {
    /// `service-upstream`.
    pub reach: Reach,
    /// `load-balance`.
    pub balance: Balance,
    /// `upstream-hash-by`.
    pub hash: Option<Hash>,
    /// `affinity`.
    pub affinity: Option<Affinity>,
}

/// That a key decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash {
    /// The key.
    pub by: HashKey,
    /// Among how many endpoints the requests of a key are spread.
    pub subset: u8,
}

impl Balancing {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        let balances = [
            ("round_robin", Balance::RoundRobin),
            ("ewma", Balance::Latency),
            ("least_conn", Balance::LeastRequests),
        ];
        let by_address = from.flag("service-upstream").unwrap_or_default();
        Self {
            reach: match by_address {
                true => Reach::ClusterAddress,
                false => Reach::Endpoints,
            },
            balance: from.choice("load-balance", &balances).unwrap_or_default(),
            hash: Hash::parse(from),
            affinity: Affinity::parse(from),
        }
    }

    /// The choice for a request, as far as its session does not decide.
    pub fn balance(&self, facts: Facts<'_>) -> Balance {
        match &self.hash {
            Some(hash) => Balance::Hash {
                key: hash.by.hash(facts),
                subset: hash.subset,
            },
            None => self.balance,
        }
    }
}

impl Hash {
    fn parse(from: &mut Annotations<'_>) -> Option<Self> {
        let by = from.get("upstream-hash-by", HashKey::parse);
        let is_subset = from.flag("upstream-hash-by-subset").unwrap_or_default();
        let size = from.number("upstream-hash-by-subset-size", 1..=MOST_IN_SUBSET);
        let subset = if is_subset { size.unwrap_or(3) } else { 1 };
        by.map(|by| Self { by, subset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::read;

    fn balancing(given: &[(&'static str, &str)]) -> Balancing {
        let policy = read(given).policy.unwrap_or_default();
        policy.balancing.as_deref().cloned().unwrap_or_default()
    }

    #[test]
    fn load_balance_names_the_way_to_choose() {
        for (name, expected) in [
            ("round_robin", Balance::RoundRobin),
            ("ewma", Balance::Latency),
            ("least_conn", Balance::LeastRequests),
            ("fair", Balance::RoundRobin),
        ] {
            assert_eq!(
                balancing(&[("load-balance", name)]).balance,
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn a_key_is_hashed_to_one_endpoint_or_to_a_few() {
        let by = ("upstream-hash-by", "$request_uri");
        let subset = ("upstream-hash-by-subset", "true");
        let size = |size| ("upstream-hash-by-subset-size", size);
        for (given, expected) in [
            (&[by][..], Some(1)),
            (&[by, subset], Some(3)),
            (&[by, subset, size("5")], Some(5)),
            (&[by, subset, size("1000")], Some(3)),
            (&[by, size("5")], Some(1)),
            (&[subset], None),
            (&[("upstream-hash-by", "constant")], None),
            (&[("upstream-hash-by", "$nonsense")], None),
        ] {
            let hash = balancing(given).hash;
            assert_eq!(hash.map(|hash| hash.subset), expected, "{given:?}");
        }
    }
}
