//! The node's own resolvers, as resolv.conf(5) names them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where systemd-resolved writes the resolvers that its loopback stub hides.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// As many as the C library takes.
const MAX_SERVERS: usize = 3;
const DNS_PORT: u16 = 53;

/// The resolvers named in `path`, without those at `own` addresses.
///
/// A resolver on a loopback address is a stub of another network namespace, most often systemd-resolved's: then the
/// servers behind it are taken, and the stub itself only if nobody else is known.
pub(crate) fn servers(path: &Path, own: &[IpAddr]) -> Vec<SocketAddr> {
    let named = without(read(path), own);
    let (stubs, real): (Vec<IpAddr>, Vec<IpAddr>) =
        named.into_iter().partition(IpAddr::is_loopback);
    let chosen = [
        real,
        without(read(&PathBuf::from(BEHIND_THE_STUB)), own),
        stubs,
    ]
    .into_iter()
    .find(|servers| !servers.is_empty())
    .unwrap_or_default();
    let chosen = chosen.into_iter().take(MAX_SERVERS);
    chosen.map(|ip| SocketAddr::new(ip, DNS_PORT)).collect()
}

fn without(mut servers: Vec<IpAddr>, own: &[IpAddr]) -> Vec<IpAddr> {
    servers.retain(|server| !own.contains(server));
    servers
}

/// The addresses in a file; none if it cannot be read, as the C library has it.
fn read(path: &Path) -> Vec<IpAddr> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "no resolvers");
            Vec::new()
        }
    }
}

/// The addresses on `nameserver` lines. One with a scope (`fe80::1%eth0`) is left out: it has no meaning elsewhere.
fn parse(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split_whitespace());
    lines
        .filter_map(|mut words| match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => address.parse().ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, own: &[&str], expected: &[&str]) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, text).expect("a file");
        let own: Vec<IpAddr> = own.iter().filter_map(|ip| ip.parse().ok()).collect();
        let found: Vec<String> = servers(&path, &own)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn nameserver_lines_name_the_servers() {
        check(
            "# nameserver 9.9.9.9\nsearch a.example\nnameserver 192.0.2.1\n\tnameserver\t2001:db8::1 # two\nnameserver fe80::1%eth0\nnameserver\n",
            &[],
            &["192.0.2.1:53", "[2001:db8::1]:53"],
        );
    }

    #[test]
    fn our_own_address_and_stubs_are_left_out_if_there_are_others() {
        check(
            "nameserver 169.254.20.10\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n",
            &["169.254.20.10"],
            &["192.0.2.1:53"],
        );
    }

    #[test]
    fn three_servers_are_enough() {
        check(
            "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
            &[],
            &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"],
        );
    }
}
