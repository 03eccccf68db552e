//! The PROXY protocol: a load balancer's word, before the first byte of a connection, for whose connection it is
//! (versions 1 and 2, <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
//!
//! Here it is only found out where the header ends and whether it may be that long; what is in it is `ppp`'s to read.
//! Whether a peer's word is taken at all is decided by its address, never by what it sends.

use std::net::SocketAddr;

use ppp::{v1, v2};

/// The longest header of version 1, from the specification.
const MAX_TEXT: usize = 107;
/// The longest header of version 2 that is taken. Addresses need 232 bytes at most; the rest is for extensions, which
/// are skipped.
const MAX_BINARY: usize = 4096;
const TEXT: &[u8] = b"PROXY ";
const END_OF_TEXT: &[u8] = b"\r\n";
/// Signature, version, family and length.
const BINARY_HEAD: usize = 16;

/// What the beginning of a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it takes.
    pub length: usize,
    /// Whose connection it is; nothing if it is the load balancer's own.
    pub client: Option<Ends>,
}

/// The two ends of a client's connection to the load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// Why there is no telling whose connection this is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// It begins in another way.
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    /// It is longer than any sound one.
    #[error("the PROXY protocol header is too long")]
    TooLong,
    /// It is broken.
    #[error("the PROXY protocol header is broken: {0}")]
    Broken(String),
    /// It is for datagrams.
    #[error("the PROXY protocol header is not about a TCP connection")]
    NotTcp,
}

/// Reads the header at the beginning of `bytes`; nothing if more bytes are needed.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    if begins(bytes, v2::PROTOCOL_PREFIX) {
        return binary(bytes);
    }
    if begins(bytes, TEXT) {
        return text(bytes);
    }
    Err(BadHeader::Missing)
}

/// Whether `bytes` begin with `prefix`, as far as they go.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    let common = bytes.len().min(prefix.len());
    bytes[..common] == prefix[..common]
}

fn text(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    let candidate = &bytes[..bytes.len().min(MAX_TEXT)];
    let end = candidate
        .windows(END_OF_TEXT.len())
        .position(|window| window == END_OF_TEXT);
    let Some(end) = end else {
        return match candidate.len() {
            MAX_TEXT => Err(BadHeader::TooLong),
            _ => Ok(None),
        };
    };
    let length = end + END_OF_TEXT.len();
    let header = v1::Header::try_from(&bytes[..length]);
    let header = header.map_err(|error| BadHeader::Broken(error.to_string()))?;
    let client = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ends) => Some(Ends {
            source: (ends.source_address, ends.source_port).into(),
            destination: (ends.destination_address, ends.destination_port).into(),
        }),
        v1::Addresses::Tcp6(ends) => Some(Ends {
            source: (ends.source_address, ends.source_port).into(),
            destination: (ends.destination_address, ends.destination_port).into(),
        }),
    };
    Ok(Some(Header { length, client }))
}

fn binary(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    let Some(head) = bytes.get(..BINARY_HEAD) else {
        return Ok(None);
    };
    let length = BINARY_HEAD + usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > MAX_BINARY {
        return Err(BadHeader::TooLong);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    let header = v2::Header::try_from(header);
    let header = header.map_err(|error| BadHeader::Broken(error.to_string()))?;
    let client = match (header.command, header.addresses) {
        (v2::Command::Local, _) => None,
        (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
        _ if header.protocol != v2::Protocol::Stream => return Err(BadHeader::NotTcp),
        (_, v2::Addresses::IPv4(ends)) => Some(Ends {
            source: (ends.source_address, ends.source_port).into(),
            destination: (ends.destination_address, ends.destination_port).into(),
        }),
        (_, v2::Addresses::IPv6(ends)) => Some(Ends {
            source: (ends.source_address, ends.source_port).into(),
            destination: (ends.destination_address, ends.destination_port).into(),
        }),
    };
    Ok(Some(Header { length, client }))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use ppp::v2::{Builder, Command, Protocol, Version};
    use proptest::prelude::*;

    fn binary_header(command: Command, protocol: Protocol, ends: Ends, more: usize) -> Vec<u8> {
        let addresses: v2::Addresses = (ends.source, ends.destination).into();
        let builder = Builder::with_addresses(Version::Two | command, protocol, addresses);
        let extension = vec![7; more];
        let header = builder.write_tlv(v2::Type::NoOp, &extension).unwrap();
        header.build().unwrap()
    }

    fn ends(source: &str, destination: &str) -> Ends {
        Ends {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    fn check(bytes: &[u8], client: Option<Ends>) {
        let length = bytes.len();
        let expected = Ok(Some(Header { length, client }));
        assert_eq!(parse(bytes), expected, "{bytes:?}");
        let followed = [bytes, b"\x16\x03\x01\xff"].concat();
        assert_eq!(parse(&followed), expected, "{followed:?}");
        for end in 0..length {
            assert_eq!(parse(&bytes[..end]), Ok(None), "{:?}", &bytes[..end]);
        }
    }

    #[test]
    fn both_versions_name_the_client() {
        let four = ends("192.0.2.1:50000", "198.51.100.1:443");
        let six = ends("[2001:db8::1]:50000", "[2001:db8::2]:443");
        check(
            b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 443\r\n",
            Some(four),
        );
        check(
            b"PROXY TCP6 2001:db8::1 2001:db8::2 50000 443\r\n",
            Some(six),
        );
        for ends in [four, six] {
            for more in [0, 2000] {
                let header = binary_header(Command::Proxy, Protocol::Stream, ends, more);
                check(&header, Some(ends));
                check(
                    &binary_header(Command::Local, Protocol::Stream, ends, more),
                    None,
                );
            }
        }
    }

    #[test]
    fn a_load_balancers_own_connection_has_no_client() {
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None);
    }

    #[test]
    fn what_is_no_sound_header_is_refused() {
        let four = ends("192.0.2.1:50000", "198.51.100.1:443");
        let datagrams = binary_header(Command::Proxy, Protocol::Datagram, four, 0);
        assert_eq!(parse(&datagrams), Err(BadHeader::NotTcp));
        let long = binary_header(Command::Proxy, Protocol::Stream, four, MAX_BINARY);
        assert_eq!(parse(&long), Err(BadHeader::TooLong));
        assert_eq!(
            parse(&[b"PROXY ", &[b'a'; 200][..]].concat()),
            Err(BadHeader::TooLong)
        );
        for missing in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"proxy TCP4",
            b"\x16\x03\x01",
            b"\r\n\r\nGET",
        ] {
            assert_eq!(parse(missing), Err(BadHeader::Missing), "{missing:?}");
        }
        for broken in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 50000\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 50000 65536\r\n",
            "PROXY TCP4 192.0.2.999 198.51.100.1 50000 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 50000 443\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 50000 443\r\n",
            "PROXY \r\n",
        ] {
            let parsed = parse(broken.as_bytes());
            assert!(
                matches!(parsed, Err(BadHeader::Broken(_))),
                "{broken:?}: {parsed:?}"
            );
        }
    }

    proptest! {
        /// Whatever comes, there is an answer, and it does not change once it is there.
        #[test]
        fn more_bytes_never_change_an_answer(
            start in prop_oneof![Just(&b""[..]), Just(TEXT), Just(v2::PROTOCOL_PREFIX), Just(&b"PROXY TCP4 "[..])],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &rest].concat();
            let answers: Vec<_> = (0..=bytes.len()).map(|end| parse(&bytes[..end])).collect();
            let given: Vec<_> = answers.iter().filter(|answer| **answer != Ok(None)).collect();
            prop_assert!(given.iter().all(|answer| *answer == given[0]));
            let waited = answers.iter().take_while(|answer| **answer == Ok(None)).count();
            prop_assert_eq!(waited + given.len(), answers.len());
            if let Some(Ok(Some(header))) = given.first() {
                prop_assert!(header.length <= MAX_BINARY);
            }
        }

        /// Every pair of addresses survives, in both versions.
        #[test]
        fn addresses_survive(source: [u8; 4], destination: [u8; 16], port: u16) {
            let four = Ends { source: (source, port).into(), destination: ([10, 0, 0, 1], 443).into() };
            let six = Ends { source: (destination, port).into(), destination: ([1; 16], 443).into() };
            for ends in [four, six] {
                let bytes = binary_header(Command::Proxy, Protocol::Stream, ends, 3);
                prop_assert_eq!(parse(&bytes).unwrap().unwrap().client, Some(ends));
                let family = if ends.source.is_ipv4() { "TCP4" } else { "TCP6" };
                let (from, to) = (ends.source.ip(), ends.destination.ip());
                let bytes = format!("PROXY {family} {from} {to} {port} 443\r\n");
                prop_assert_eq!(parse(bytes.as_bytes()).unwrap().unwrap().client, Some(ends));
            }
        }
    }
}
