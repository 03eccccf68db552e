//! Many objects: a change costs what it touches, not what there is.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::client::Http;
use crate::harness::{Gateway, ingress, service_of};

const INGRESSES: usize = 10_000;
const CHANGES: usize = 20;
/// What a change may take at most until it is served. Reading everything anew takes fifty times as long.
const BOUND: Duration = Duration::from_millis(20);

/// An Ingress with five paths of a host of its own, all of which lead to Service `s`.
fn with_paths(number: usize, last: &str) -> Value {
    let host = host(number);
    let paths = ["/a", "/b", "/c", "/d", last].map(|path| (&*host, path, "s"));
    ingress(&format!("i{number}"), &paths)
}

fn host(number: usize) -> String {
    format!("h{number}.example.org")
}

/// Asks until `path` is there, and tells when that was.
async fn served(mut client: Http, host: String, path: &'static str) -> Instant {
    loop {
        if client.get(&host, path).await.status == StatusCode::OK {
            return Instant::now();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_among_ten_thousand_ingresses_is_served_within_20_ms() {
    let backend = Backend::echo("b").await;
    let mut objects: Vec<Value> = (0..INGRESSES)
        .map(|number| with_paths(number, "/e"))
        .collect();
    objects.extend(service_of("s", &[backend.address]));
    let mut gateway = Gateway::start(&objects, &[]);
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let number = change * INGRESSES / CHANGES;
        let client = Http::connect(gateway.http).await;
        let served = tokio::spawn(served(client, host(number), "/new"));
        let object = with_paths(number, "/new");
        let begun = Instant::now();
        gateway.apply(object);
        times.push(served.await.unwrap() - begun);
    }
    times.sort();
    println!("a change took {:?} to {:?}", times[0], times[CHANGES - 1]);
    // Others use this machine, too: the median is ours to answer for, the worst is not.
    assert!(times[CHANGES / 2] <= BOUND, "{times:?}");

    // What was not touched is as it was.
    let mut client = Http::connect(gateway.http).await;
    assert_eq!(client.get(&host(1), "/e").await.status, StatusCode::OK);
    assert_eq!(
        client.get(&host(0), "/e").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_that_goes_takes_its_routes_along() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![with_paths(0, "/e"), with_paths(1, "/e")];
    objects.extend(service_of("s", &[backend.address]));
    let mut gateway = Gateway::start(&objects, &[]);
    let mut client = Http::connect(gateway.http).await;
    let mut empty = with_paths(0, "/e");
    empty["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "another"});
    assert_eq!(client.get(&host(0), "/a").await.status, StatusCode::OK);
    gateway.apply(empty);
    assert_eq!(
        client.get(&host(0), "/a").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(client.get(&host(1), "/a").await.status, StatusCode::OK);
}
