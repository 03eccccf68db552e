//! The beginning of a connection, as a load balancer or somebody who plays one sends it.
#![no_main]

use ingress::connection::proxy_protocol::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(header)) = parse(bytes) else {
        return;
    };
    assert!((1..=bytes.len()).contains(&header.length));
    // It is the same however much has come behind it, and incomplete however little of it has.
    assert_eq!(parse(&bytes[..header.length]), Ok(Some(header)));
    assert_eq!(parse(&bytes[..header.length - 1]), Ok(None));
});
