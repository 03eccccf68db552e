//! Addresses and ports of Services.

use serde_json::{Value, json};

use crate::support::{Answer, Server, Wire};

const PATH: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut whole = json!({"ports": [{"port": 80}], "selector": {"app": name}});
    whole
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": whole})
}

async fn create(wire: &Wire, name: &str, spec: Value) -> Answer {
    wire.post(PATH, service(name, spec)).await
}

async fn created(wire: &Wire, name: &str, spec: Value) -> Value {
    let made = create(wire, name, spec).await;
    assert_eq!(made.code, 201, "{}", made.text);
    made.json()["spec"].clone()
}

#[tokio::test]
async fn the_servers_own_service_leads_to_it() {
    let server = Server::start_with(&["--advertise-address", "192.0.2.1"]).await;
    let wire = server.wire().await;
    let own = wire.get(&format!("{PATH}/kubernetes")).await.json();
    assert_eq!(
        (&own["spec"]["clusterIP"], &own["spec"]["ports"][0]["name"]),
        (&json!("10.96.0.1"), &json!("https"))
    );
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = wire.get(slice).await.json();
    assert_eq!(slice["endpoints"][0]["addresses"][0], "192.0.2.1");
    assert_eq!(slice["ports"][0]["port"], server.address().port());
    let endpoints = wire
        .get("/api/v1/namespaces/default/endpoints/kubernetes")
        .await
        .json();
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.1");
}

#[tokio::test]
async fn the_ranges_of_cluster_addresses_can_be_read_and_not_changed() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let path = "/apis/networking.k8s.io/v1/servicecidrs";
    let mut own = wire.get(&format!("{path}/kubernetes")).await.json();
    assert_eq!(
        own["spec"]["cidrs"],
        json!(["10.96.0.0/16", "fd00:10:96::/112"])
    );
    own["spec"]["cidrs"] = json!(["10.97.0.0/16"]);
    let changed = wire.put(&format!("{path}/kubernetes"), own).await;
    assert_eq!(changed.code, 422, "{}", changed.text);
    assert!(
        changed.text.contains("field is immutable"),
        "{}",
        changed.text
    );
    let other = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/16"]}});
    let other = wire.post(path, other).await;
    assert_eq!(other.code, 403, "{}", other.text);
    assert!(other.text.contains("--service-cidr"), "{}", other.text);
}

#[tokio::test]
async fn a_service_gets_an_address_of_each_family_it_wants() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let single = created(&wire, "single", json!({})).await;
    assert_eq!(
        (&single["ipFamilies"], &single["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &json!("SingleStack"))
    );
    assert_eq!(single["clusterIPs"], json!([single["clusterIP"]]));
    let dual = created(&wire, "dual", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    assert_eq!(dual["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(
        dual["clusterIPs"][1]
            .as_str()
            .unwrap()
            .starts_with("fd00:10:96::"),
        "{dual}"
    );
    let six = created(&wire, "six", json!({"ipFamilies": ["IPv6"]})).await;
    assert!(
        six["clusterIP"]
            .as_str()
            .unwrap()
            .starts_with("fd00:10:96::"),
        "{six}"
    );
    let headless = created(&wire, "headless", json!({"clusterIP": "None"})).await;
    assert_eq!(headless["clusterIPs"], json!(["None"]));
    let elsewhere =
        wire.post(PATH, json!({"metadata": {"name": "e"}, "spec": {"type": "ExternalName", "externalName": "a.example"}})).await;
    assert_eq!(
        (elsewhere.code, elsewhere.json()["spec"].get("clusterIP")),
        (201, None)
    );
}

#[tokio::test]
async fn an_address_asked_for_is_given_once() {
    let server = Server::start().await;
    let wire = server.wire().await;
    created(&wire, "a", json!({"clusterIP": "10.96.0.10"})).await;
    let refused = create(&wire, "b", json!({"clusterIP": "10.96.0.10"})).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .text
            .contains("failed to allocate IP 10.96.0.10: provided IP is already allocated"),
        "{}",
        refused.text
    );
    let refused = create(&wire, "b", json!({"clusterIP": "10.97.0.1"})).await;
    assert!(
        refused
            .text
            .contains("the provided IP (10.97.0.1) is not in the valid range"),
        "{}",
        refused.text
    );
    wire.delete(&format!("{PATH}/a"), json!({})).await;
    created(&wire, "b", json!({"clusterIP": "10.96.0.10"})).await;
    // What a refused or dry creation took is given back.
    let dry = wire
        .post(
            &format!("{PATH}?dryRun=All"),
            service("c", json!({"clusterIP": "10.96.0.11"})),
        )
        .await;
    assert_eq!(dry.code, 201, "{}", dry.text);
    created(&wire, "c", json!({"clusterIP": "10.96.0.11"})).await;
}

#[tokio::test]
async fn node_ports_are_given_kept_and_taken_back() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let made = created(&wire, "a", json!({"type": "NodePort"})).await;
    let port = made["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30086..=32767).contains(&port), "{port}");

    let path = format!("{PATH}/a");
    let mut careless = service("a", json!({"type": "NodePort"}));
    careless["metadata"]["labels"] = json!({"a": "b"});
    let kept = wire.put(&path, careless).await.json();
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], port);
    assert_eq!(kept["spec"]["clusterIP"], made["clusterIP"]);

    let refused = create(
        &wire,
        "b",
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}),
    )
    .await;
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .text
            .contains("spec.ports[0].nodePort: Invalid value:"),
        "{}",
        refused.text
    );
    assert!(
        refused.text.contains("provided port is already allocated"),
        "{}",
        refused.text
    );
    let refused = create(
        &wire,
        "b",
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
    )
    .await;
    assert!(
        refused
            .text
            .contains("The range of valid ports is 30000-32767"),
        "{}",
        refused.text
    );

    let changed = wire
        .merge(&path, json!({"spec": {"type": "ClusterIP"}}))
        .await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    let changed = changed.json();
    assert!(
        changed["spec"]["ports"][0].get("nodePort").is_none(),
        "{changed}"
    );
    created(
        &wire,
        "b",
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}),
    )
    .await;
}

#[tokio::test]
async fn two_protocols_of_one_port_share_a_node_port() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let ports = json!([{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let made = created(&wire, "dns", json!({"type": "NodePort", "ports": ports})).await;
    assert_eq!(made["ports"][0]["nodePort"], made["ports"][1]["nodePort"]);
}

#[tokio::test]
async fn a_second_family_comes_and_goes() {
    let server = Server::start().await;
    let wire = server.wire().await;
    created(&wire, "a", json!({})).await;
    let path = format!("{PATH}/a");
    let more = wire
        .merge(
            &path,
            json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}}),
        )
        .await;
    assert_eq!(more.code, 200, "{}", more.text);
    let six = more.json()["spec"]["clusterIPs"][1].clone();
    let fewer = wire
        .merge(&path, json!({"spec": {"ipFamilyPolicy": "SingleStack"}}))
        .await;
    assert_eq!(fewer.code, 200, "{}", fewer.text);
    assert_eq!(
        fewer.json()["spec"]["clusterIPs"].as_array().unwrap().len(),
        1
    );
    created(&wire, "b", json!({"clusterIP": six})).await;
}

#[tokio::test]
async fn what_is_allocated_is_known_after_a_restart() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let made = created(&wire, "a", json!({"type": "NodePort"})).await;
    let server = Server::start_on(server.stop().await, &[]).await;
    let wire = server.wire().await;
    let refused = create(&wire, "b", json!({"clusterIP": made["clusterIP"]})).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    let ports = json!([{"port": 80, "nodePort": made["ports"][0]["nodePort"]}]);
    assert_eq!(
        create(&wire, "b", json!({"type": "NodePort", "ports": ports}))
            .await
            .code,
        422
    );
}
