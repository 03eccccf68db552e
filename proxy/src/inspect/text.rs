//! How values of the maps are called, in text and in JSON alike.

use std::fmt;
use std::net::SocketAddr;

use dataplane_ebpf::abi::{Kind, Run, SourceRange};
use dataplane_ebpf::addr::{Addr, Port};
use nix::net::if_::if_indextoname;
use serde::{Serialize, Serializer};

/// A value that JSON has as its text, without a copy of the text for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shown<T>(pub(super) T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a service was addressed.
pub(super) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::ADDRESS => "address",
        Kind::CLUSTER_IP => "cluster-ip",
        Kind::NODE_PORT => "node-port",
        Kind::EXTERNAL_IP => "external-ip",
        Kind::LOAD_BALANCER => "load-balancer",
        _ => "unknown",
    }
}

/// The verdict of a run that has backends.
pub(super) const FORWARD: &str = "forward";

/// What becomes of a client that gets `run`.
pub(super) fn verdict(run: Run) -> &'static str {
    match run {
        Run::REFUSE => "refuse",
        Run::DROP => "drop",
        _ => FORWARD,
    }
}

/// A traffic policy as Kubernetes calls it.
pub(super) fn policy(is_local: bool) -> &'static str {
    if is_local { "Local" } else { "Cluster" }
}

/// A prefix of client addresses, of IPv4 not in its mapped form.
pub(super) fn source_range(key: &SourceRange) -> String {
    let length = key.bits.saturating_sub(32);
    let length = match key.address.is_v4() {
        true => length.saturating_sub(96),
        false => length,
    };
    format!("{}/{length}", key.address)
}

/// An address and port, with brackets where IPv6 needs them.
pub(super) fn socket(address: Addr, port: Port) -> String {
    SocketAddr::new(address.ip(), port.number()).to_string()
}

/// An address in text and a port.
pub(super) fn endpoint_alone(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// An address in text, a port and a protocol.
pub(super) fn endpoint(address: &str, port: u16, protocol: &str) -> String {
    format!("{}/{protocol}", endpoint_alone(address, port))
}

/// The name of the device with `index`, or its index where this network namespace has no such device.
pub(super) fn device(index: u32) -> String {
    let name = if_indextoname(index).unwrap_or_default();
    match name.to_str() {
        Ok(name) if !name.is_empty() => name.to_owned(),
        _ => format!("#{index}"),
    }
}

/// A service's name, or its id where the daemon has written no name.
pub(super) fn service(name: Option<&str>, id: u32) -> String {
    name.map_or_else(|| format!("(id {id})"), str::to_owned)
}

/// Yes or nothing, so that what is true stands out in a column.
pub(super) fn yes(value: bool) -> String {
    let text = if value { "yes" } else { "" };
    text.to_owned()
}

/// A time span in seconds, as short as it can be read: `42s`, `3m5s`, `2h10m`, `5d3h`.
pub(super) fn seconds(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv6Addr};

    #[test]
    fn times_have_two_units_at_most() {
        for (number, text) in [
            (0, "0s"),
            (59, "59s"),
            (185, "3m5s"),
            (7800, "2h10m"),
            (442_800, "5d3h"),
        ] {
            assert_eq!(seconds(number), text);
        }
    }

    #[test]
    fn ipv6_addresses_have_brackets_before_a_port() {
        let address = Addr::from(IpAddr::V6(Ipv6Addr::LOCALHOST));
        assert_eq!(socket(address, Port::new(80)), "[::1]:80");
    }
}
