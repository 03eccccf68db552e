//! Change under load: routes, endpoints and certificates come and go while requests run, and none fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::StatusCode;
use serde_json::json;

use crate::backend::Backend;
use crate::client::Http;
use crate::harness::{Gateway, eventually, ingress, service_of, slice, slice_with};

/// Clients that ask without a pause until told to stop, and tell how often that went well and what else came.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Vec<StatusCode>>>,
}

impl Load {
    fn start(gateway: &Gateway, host: &'static str) -> Self {
        let (stop, good) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = |_| {
            let (stop, good, address) = (stop.clone(), good.clone(), gateway.http);
            tokio::spawn(async move {
                let mut client = Http::connect(address).await;
                let mut bad = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    match client.get(host, "/").await.status {
                        StatusCode::OK => drop(good.fetch_add(1, Ordering::SeqCst)),
                        status => bad.push(status),
                    }
                }
                bad
            })
        };
        let clients = (0..4).map(client).collect();
        Self {
            stop,
            good,
            clients,
        }
    }

    /// Waits for some more good answers.
    async fn go_on(&self) {
        let before = self.good.load(Ordering::SeqCst);
        eventually("more answers", async || {
            (self.good.load(Ordering::SeqCst) >= before + 20).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            assert_eq!(client.await.unwrap(), Vec::<StatusCode>::new());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_replaced_one_by_one_without_a_failed_request() {
    let mut old = vec![Backend::echo("a").await, Backend::echo("b").await];
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[old[0].address, old[1].address]));
    let mut gateway = Gateway::start(&objects, &[]);
    let load = Load::start(&gateway, "a.org");
    load.go_on().await;
    for round in 0..6 {
        let new = Backend::echo("new").await;
        gateway.apply(slice("s", &format!("new-{round}"), new.address));
        // The old one is taken out of rotation before it goes, as by its readiness.
        let gone = old.remove(0);
        let name = format!("s-{}", gone.address.port());
        let name = if round < 2 {
            name
        } else {
            format!("new-{}", round - 2)
        };
        let leaving = json!({"ready": false, "serving": true, "terminating": true});
        gateway.apply(slice_with("s", &name, gone.address, leaving));
        load.go_on().await;
        gateway.delete_slice(slice("s", &name, gone.address));
        drop(gone);
        load.go_on().await;
        old.push(new);
    }
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_change_without_a_failed_request() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let mut gateway = Gateway::start(&objects, &[]);
    let load = Load::start(&gateway, "a.org");
    for round in 0..50 {
        let host = format!("h{round}.org");
        gateway.apply(ingress("i", &[("a.org", "/", "s"), (&host, "/", "s")]));
        gateway.apply(ingress(&format!("i{round}"), &[(&host, "/x", "s")]));
        let answer = Http::connect(gateway.http).await.get(&host, "/x").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    load.go_on().await;
    load.stop().await;
}
