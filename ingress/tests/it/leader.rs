//! Several gateways with one leader: who writes statuses, and who does when that one is gone.

use serde_json::{Value, json};

use crate::api::{Api, CLASSES, INGRESSES, Program, of_class, our_class};
use crate::harness::{eventually, ingress};

const LEASE: &str = "portolan-ingress-leader";

/// A gateway called `name` that publishes `address`.
async fn gateway(api: &Api, name: &str, address: &str) -> Program {
    let name = format!("--pod-name={name}");
    let address = format!("--publish-status-address={address}");
    let arguments = ["--election-ttl=1s", "--election-namespace=default"];
    let arguments: Vec<_> = arguments.into_iter().chain([&*name, &*address]).collect();
    let program = Program::start(api, &arguments).await;
    program.ready().await;
    program
}

/// Waits until `ingress` has `address` and nothing else in its status.
async fn shows(api: &Api, ingress: &str, address: &str) {
    let wanted = json!({"loadBalancer": {"ingress": [{"ip": address}]}});
    eventually(&format!("{address} on {ingress}"), async || {
        let statuses = api.statuses();
        let mut of_ingress = statuses.iter().filter(|(name, _)| name == ingress);
        let last: Option<&(String, Value)> = of_ingress.next_back();
        (last?.1 == wanted).then_some(())
    })
    .await;
}

async fn holds(api: &Api, name: &str) {
    eventually(&format!("{name} to lead"), async || {
        let holder = api.holder(LEASE)?;
        holder.starts_with(&format!("{name}_")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_gateways_writes_statuses_and_another_takes_over() {
    let api = Api::start().await;
    api.secrets.send_replace(true);
    api.put(CLASSES, our_class());
    api.put(
        INGRESSES,
        of_class(ingress("web", &[("a.org", "/", "s")]), "ours"),
    );
    // One that vanished without a word is waited for, and not for ever.
    api.put_lease(json!({
        "metadata": {"name": LEASE, "namespace": "default"},
        "spec": {"holderIdentity": "gone", "leaseDurationSeconds": 1},
    }));
    let first = gateway(&api, "first", "192.0.2.1").await;
    shows(&api, "web", "192.0.2.1").await;
    let second = gateway(&api, "second", "192.0.2.2").await;
    let third = gateway(&api, "third", "192.0.2.2").await;

    // Others see the change, too, and leave it to the leader.
    api.put(
        INGRESSES,
        of_class(ingress("more", &[("b.org", "/", "s")]), "ours"),
    );
    shows(&api, "more", "192.0.2.1").await;
    assert_eq!(api.statuses().len(), 2);
    holds(&api, "first").await;

    // A leader that ends lets go.
    first.end().await;
    shows(&api, "web", "192.0.2.2").await;
    shows(&api, "more", "192.0.2.2").await;
    drop((second, third));
}
