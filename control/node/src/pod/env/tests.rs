//! Environments of containers, resolved.

#![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

use serde_json::{Value, json};

use super::*;

fn sources() -> Sources {
    let map = json!({"data": {"color": "blue", "size": "xl"}});
    let secret = json!({"data": {"password": "aHVudGVyMg=="}});
    Sources {
        config_maps: [("map".to_owned(), serde_json::from_value(map).unwrap())].into(),
        secrets: [("secret".to_owned(), serde_json::from_value(secret).unwrap())].into(),
    }
}

fn check(container: Value, expected: Result<&[&str], &str>) {
    let container: Container = serde_json::from_value(container).unwrap();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "1", "b": "2"}},
        "spec": {"containers": [container]},
    }))
    .unwrap();
    let place = Place {
        node_name: "node-1".into(),
        host_ips: vec!["10.0.0.1".parse().unwrap()],
        pod_ips: vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        capacity: (2000, 1 << 30),
    };
    let base = vec![("BASE".to_owned(), "base".to_owned())];
    let found = resolve(&container, &pod, &place, &sources(), base);
    let found = found.map(|pairs| {
        pairs
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
    });
    let expected = expected.map(|pairs| {
        pairs
            .iter()
            .map(|&pair| pair.to_owned())
            .collect::<Vec<_>>()
    });
    assert_eq!(
        found.map_err(|error| error.to_string()),
        expected.map_err(str::to_owned)
    );
}

#[test]
fn values_are_expanded_in_order() {
    check(
        json!({"name": "a", "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)$(BASE) $(C) $$(A) $x $"},
            {"name": "C", "value": "late"},
            {"name": "BASE", "value": "over"},
        ]}),
        Ok(&["BASE=over", "A=1", "B=1base $(C) $(A) $x $", "C=late"]),
    );
}

#[test]
fn values_come_from_objects_and_fields() {
    check(
        json!({"name": "a", "resources": {"limits": {"cpu": "1500m"}}, "envFrom": [
            {"prefix": "M_", "configMapRef": {"name": "map"}},
            {"secretRef": {"name": "none", "optional": true}},
        ], "env": [
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "password"}}},
            {"name": "ABSENT", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "x", "optional": true}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['b']"}}},
            {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ]}),
        Ok(&[
            "BASE=base",
            "M_color=blue",
            "M_size=xl",
            "PASSWORD=hunter2",
            "NODE=node-1",
            "IPS=10.244.1.2,fd00::2",
            "LABEL=2",
            "CPUS=2",
            "MEMORY=1024",
        ]),
    );
}

#[test]
fn what_is_missing_is_named() {
    let env = |from: Value| json!({"name": "a", "env": [{"name": "X", "valueFrom": from}]});
    check(
        env(json!({"configMapKeyRef": {"name": "no", "key": "k"}})),
        Err("configmap \"no\" not found"),
    );
    check(
        env(json!({"configMapKeyRef": {"name": "map", "key": "k"}})),
        Err("couldn't find key k in ConfigMap n/map"),
    );
    check(
        env(json!({"secretKeyRef": {"name": "no", "key": "k"}})),
        Err("secret \"no\" not found"),
    );
    check(
        json!({"name": "a", "envFrom": [{"secretRef": {"name": "no"}}]}),
        Err("secret \"no\" not found"),
    );
    check(
        env(json!({"fieldRef": {"fieldPath": "spec.x"}})),
        Err("unsupported fieldPath: spec.x"),
    );
}

#[test]
fn services_are_told_by_environment() {
    let service = |namespace: &str, name: &str, ip: &str| -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "ports": [{"name": "web-ui", "port": 80, "protocol": "TCP"}]},
        }))
        .unwrap()
    };
    let services = [
        service("n", "my-svc", "10.96.0.9"),
        service("n", "headless", "None"),
        service("default", "kubernetes", "10.96.0.1"),
        service("other", "x", "10.96.0.7"),
    ];
    let found = of_services(services.iter(), "n", &PodSpec::default());
    let get = |name: &str| {
        found
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(get("KUBERNETES_SERVICE_HOST"), Some("10.96.0.1"));
    assert_eq!(get("MY_SVC_SERVICE_PORT_WEB_UI"), Some("80"));
    assert_eq!(get("MY_SVC_PORT"), Some("tcp://10.96.0.9:80"));
    assert_eq!(get("MY_SVC_PORT_80_TCP_ADDR"), Some("10.96.0.9"));
    assert!(
        !found
            .iter()
            .any(|(name, _)| name.starts_with("X_") || name.starts_with("HEADLESS"))
    );
    let spec = PodSpec {
        enable_service_links: Some(false),
        ..PodSpec::default()
    };
    assert!(
        of_services(services.iter(), "n", &spec)
            .iter()
            .all(|(name, _)| name.starts_with("KUBERNETES_"))
    );
}
