//! What upstream's server returns for small manifests.

use serde_json::{Value, json};

/// Applies the defaults of a kind, twice: the second time changes nothing.
#[track_caller]
fn check(kind: &str, mut object: Value, expected: Value) {
    let res = crate::resources()
        .iter()
        .find(|r| r.kind == kind)
        .expect("a served kind");
    super::apply(res, &mut object);
    assert_eq!(object, expected);
    super::apply(res, &mut object);
    assert_eq!(object, expected, "not stable");
}

#[test]
fn services() {
    check(
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}}),
        json!({"spec": {
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]},
            "status": {"loadBalancer": {}}}),
    );
    check(
        "Service",
        json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}}),
        json!({"spec": {
            "type": "LoadBalancer", "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true},
            "status": {"loadBalancer": {}}}),
    );
    check(
        "Service",
        json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}),
        json!({"spec": {"type": "ExternalName", "externalName": "example.com", "sessionAffinity": "None"}, "status": {"loadBalancer": {}}}),
    );
}

#[test]
fn deployments() {
    check(
        "Deployment",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "nginx"}]}}, "strategy": {"rollingUpdate": {"maxSurge": 0}}}}),
        json!({"spec": {
            "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "25%"}},
            "template": {"spec": {
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30,
                "containers": [{
                    "name": "a", "image": "nginx", "imagePullPolicy": "Always", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}]}}}}),
    );
}

#[test]
fn pods() {
    check(
        "Pod",
        json!({"spec": {
            "hostNetwork": true, "serviceAccountName": "robot",
            "volumes": [{"name": "e"}, {"name": "c", "configMap": {"name": "x"}}, {"name": "h", "hostPath": {"path": "/"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
            "containers": [{
                "name": "a", "image": "localhost:5000/nginx:1.27", "ports": [{"containerPort": 80}],
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}, "requests": {"cpu": "0.1"}},
                "readinessProbe": {"httpGet": {"port": 80}}}]}}),
        json!({"spec": {
            "hostNetwork": true, "serviceAccountName": "robot", "serviceAccount": "robot",
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "x", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/", "type": ""}},
                {"name": "p", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}],
            "containers": [{
                "name": "a", "image": "localhost:5000/nginx:1.27", "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "failureThreshold": 3,
                    "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1}}]},
            "status": {"phase": "Pending", "qosClass": "Burstable"}}),
    );
}

#[test]
fn the_rest() {
    check(
        "Namespace",
        json!({"metadata": {"name": "demo"}}),
        json!({"metadata": {"name": "demo", "labels": {"kubernetes.io/metadata.name": "demo"}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
    );
    check("Secret", json!({}), json!({"type": "Opaque"}));
    check(
        "Secret",
        json!({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"b": "y"}}),
        json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}),
    );
    check(
        "EndpointSlice",
        json!({"ports": [{"port": 80}]}),
        json!({"ports": [{"port": 80, "name": "", "protocol": "TCP"}]}),
    );
    check(
        "Ingress",
        json!({"spec": {"rules": [{"host": "a"}, {"http": {"paths": [{"path": "/"}]}}]}}),
        json!({"spec": {"rules": [{"host": "a"}, {"http": {"paths": [{"path": "/", "pathType": "ImplementationSpecific"}]}}]},
            "status": {"loadBalancer": {}}}),
    );
    check(
        "Node",
        json!({"status": {"capacity": {"cpu": "2"}}}),
        json!({"status": {"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}}}),
    );
}

#[test]
fn namespaces_that_are_going_keep_no_finalizer() {
    let going = json!({"metadata": {"deletionTimestamp": "2026-11-21T05:00:00Z"}, "status": {"phase": "Terminating"}});
    check("Namespace", going.clone(), going);
}

#[test]
fn qos_classes() {
    let class = |resources: Value| {
        super::pod::qos_class(
            json!({"containers": [{"resources": resources}]})
                .as_object()
                .expect("a map"),
        )
    };
    assert_eq!(class(json!({})), "BestEffort");
    assert_eq!(class(json!({"limits": {"cpu": "1"}})), "Burstable");
    assert_eq!(
        class(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}})),
        "Guaranteed"
    );
}

#[test]
fn services_drop_what_their_old_type_called_for() {
    let res = crate::by_plural("", "v1", "services").expect("services are served");
    let old = json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30080}]}});
    let changed = |spec: Value| {
        let mut new = crate::patch::merge(&old, &json!({"spec": spec}));
        super::drop_dependent(res, &mut new, &old);
        new["spec"].take()
    };
    assert_eq!(
        changed(json!({"type": "ClusterIP"})),
        json!({"type": "ClusterIP", "ports": [{"port": 80}]})
    );
    assert_eq!(
        changed(json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30081}]})),
        json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30081}]})
    );
    assert_eq!(
        changed(json!({"type": "LoadBalancer"}))["externalTrafficPolicy"],
        "Cluster"
    );
}
