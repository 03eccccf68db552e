//! How many connections to backends are kept, and for how much.

use crate::backend::Backend;
use crate::client::{Http, get};
use crate::harness::{Gateway, eventually, ingress, service_of};
use crate::http2::{self, H2C};

/// A gateway of one thread where `a.org` leads to `one` and `b.org` to `other`.
fn gateway(one: &Backend, other: &Backend, more: &[&str]) -> Gateway {
    let mut objects = vec![ingress("i", &[("a.org", "/", "s"), ("b.org", "/", "t")])];
    objects.extend(service_of("s", &[one.address]));
    objects.extend(service_of("t", &[other.address]));
    let more: Vec<_> = ["--workers=1"].iter().chain(more).copied().collect();
    Gateway::start(&objects, &more)
}

#[tokio::test]
async fn a_connection_ends_after_so_many_requests() {
    let (one, two) = (
        Backend::echo("one").await,
        http2::backend(h2::server::Builder::new(), http2::tell).await,
    );
    let limit = "--upstream-keepalive-requests=3";
    let over_one = gateway(&one, &one, &[limit]);
    let more = ["--workers=1", limit];
    let over_two = Gateway::start(&http2::objects(H2C, two.address), &more);
    for (gateway, backend) in [(&over_one, &one), (&over_two, &two)] {
        let mut client = Http::connect(gateway.http).await;
        for _ in 0..7 {
            assert_eq!(client.get("a.org", "/").await.status, 200);
        }
        assert_eq!((backend.requests(), backend.connections()), (7, 3));
    }
}

#[tokio::test]
async fn a_connection_ends_after_so_long() {
    let (one, two) = (
        Backend::echo("one").await,
        http2::backend(h2::server::Builder::new(), http2::tell).await,
    );
    let limit = "--upstream-keepalive-time=100ms";
    let over_one = gateway(&one, &one, &[limit]);
    let more = ["--workers=1", limit];
    let over_two = Gateway::start(&http2::objects(H2C, two.address), &more);
    for (gateway, backend) in [(&over_one, &one), (&over_two, &two)] {
        let mut client = Http::connect(gateway.http).await;
        eventually("another connection", async || {
            assert_eq!(client.get("a.org", "/").await.status, 200);
            (backend.connections() > 2).then_some(())
        })
        .await;
        assert!(backend.requests() > backend.connections());
    }
}

#[tokio::test]
async fn of_too_many_the_one_that_was_idle_for_longest_ends() {
    let (a, b) = (Backend::echo("a").await, Backend::echo("b").await);
    let two = gateway(&a, &b, &["--upstream-keepalive-connections=2"]);
    for host in ["a.org", "b.org", "a.org", "b.org"] {
        assert_eq!(get(two.http, host, "/").await.status, 200);
    }
    assert_eq!((a.connections(), b.connections()), (1, 1));
    let one = gateway(&a, &b, &["--upstream-keepalive-connections=1"]);
    for host in ["a.org", "b.org", "b.org", "a.org"] {
        assert_eq!(get(one.http, host, "/").await.status, 200);
    }
    assert_eq!((a.connections(), b.connections()), (3, 2));
}
