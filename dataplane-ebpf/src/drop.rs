//! Why a packet or a call went no further. Every reason has a counter and a name, and says what the sender is told.

/// A reason to stop. The index of `DROPS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Drop {
    /// The headers contradict the packet's length or themselves.
    Malformed = 0,
    /// A fragment of a service's packet whose first fragment, which has the ports, was not seen before it.
    Fragment = 1,
    /// The service has no backend at all: refused.
    NoBackend = 2,
    /// The service has backends, but its traffic policy allows none from here: dropped.
    NoPolicyBackend = 3,
    /// A port that no service has, on an address that belongs to one: refused.
    UnknownPort = 4,
    /// The backend of an established connection is gone: refused.
    BackendGone = 5,
    /// Every port tried for source translation was taken.
    NoPort = 6,
    /// The node has no address of this family to translate the source to.
    NoSource = 7,
    /// The node has no route to the backend or back to the client.
    NoRoute = 8,
    /// The packet does not fit the next link: answered with the link's MTU.
    TooBig = 9,
    /// The packet's time to live ran out here: answered.
    Expired = 10,
    /// The kernel refused to record the connection.
    TableFull = 11,
    /// The kernel refused to change the packet.
    Rewrite = 12,
    /// The maps contradict each other: a service names a slot, or a slot a backend, that is not there.
    Inconsistent = 13,
    /// The client is in none of the service's source ranges (`loadBalancerSourceRanges`): dropped.
    SourceRange = 14,
    /// An address inside the cluster's ServiceCIDRs that no service has: dropped.
    Unallocated = 15,
}

/// What the sender of a dropped packet is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Silence,
    /// A TCP reset or an ICMP port unreachable; `ECONNREFUSED` from a system call.
    Refusal,
    /// ICMP fragmentation needed (packet too big for IPv6), with the next link's MTU.
    TooBig,
    /// ICMP time exceeded.
    Expired,
}

impl Drop {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 16] = [
        Self::Malformed,
        Self::Fragment,
        Self::NoBackend,
        Self::NoPolicyBackend,
        Self::UnknownPort,
        Self::BackendGone,
        Self::NoPort,
        Self::NoSource,
        Self::NoRoute,
        Self::TooBig,
        Self::Expired,
        Self::TableFull,
        Self::Rewrite,
        Self::Inconsistent,
        Self::SourceRange,
        Self::Unallocated,
    ];

    /// What the sender is told.
    #[inline(always)]
    pub const fn answer(self) -> Answer {
        match self {
            Self::NoBackend | Self::UnknownPort | Self::BackendGone => Answer::Refusal,
            Self::TooBig => Answer::TooBig,
            Self::Expired => Answer::Expired,
            _ => Answer::Silence,
        }
    }

    /// Its name in metrics and in output for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::NoBackend => "no-backend",
            Self::NoPolicyBackend => "no-policy-backend",
            Self::UnknownPort => "unknown-port",
            Self::BackendGone => "backend-gone",
            Self::NoPort => "no-port",
            Self::NoSource => "no-source",
            Self::NoRoute => "no-route",
            Self::TooBig => "too-big",
            Self::Expired => "expired",
            Self::TableFull => "table-full",
            Self::Rewrite => "rewrite",
            Self::Inconsistent => "inconsistent",
            Self::SourceRange => "source-range",
            Self::Unallocated => "unallocated",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_and_named_apart() {
        for (number, reason) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert!(
                Drop::ALL
                    .iter()
                    .all(|other| *other == reason || other.name() != reason.name())
            );
        }
    }

    /// Only what a kube-proxy in the same place would reject is refused; policies and limits stay silent.
    #[test]
    fn only_absence_is_refused() {
        let refused: std::vec::Vec<_> = Drop::ALL
            .into_iter()
            .filter(|r| r.answer() == Answer::Refusal)
            .collect();
        assert_eq!(
            refused,
            [Drop::NoBackend, Drop::UnknownPort, Drop::BackendGone]
        );
    }
}
