//! Rows as kubectl users know them.

use super::*;

const NOW: &str = "2026-11-21T05:10:00Z";

/// Compares the cells of the columns shown without `-o wide`, joined with `|`.
#[track_caller]
fn check(kind: &str, mut object: Value, expected: &str) {
    object["metadata"]["name"] = json!("web");
    object["metadata"]["creationTimestamp"] = json!("2026-11-21T05:07:30Z");
    let row = row(kind, &object);
    let shown: Vec<String> = row
        .iter()
        .filter(|(c, _)| c.priority == 0)
        .map(|(_, cell)| plain(cell))
        .collect();
    assert_eq!(shown.join("|"), expected);
}

fn row(kind: &str, object: &Value) -> Vec<(&'static Column, Value)> {
    let res = crate::resources()
        .iter()
        .find(|r| r.kind == kind)
        .expect("a served kind");
    let cells = cells(res, object, NOW.parse().expect("a time"));
    assert_eq!(cells.len(), columns(res).len(), "{kind}");
    columns(res).iter().zip(cells).collect()
}

fn plain(cell: &Value) -> String {
    cell.as_str()
        .map_or_else(|| cell.to_string(), str::to_owned)
}

#[track_caller]
fn check_pod(spec: Value, status: Value, expected: &str) {
    check(
        "Pod",
        json!({"spec": spec, "status": status}),
        &format!("web|{expected}|2m30s"),
    );
}

#[test]
fn every_kind_fills_its_columns() {
    for res in crate::resources() {
        let definitions = column_definitions(res);
        assert_eq!(
            definitions.as_array().map(Vec::len),
            Some(columns(res).len())
        );
        row(res.kind, &json!({}));
    }
}

#[test]
fn pods_say_what_they_wait_for() {
    let two = || json!({"containers": [{"name": "a"}, {"name": "b"}]});
    check_pod(two(), json!({"phase": "Pending"}), "0/2|Pending|0");
    check_pod(
        two(),
        json!({"phase": "Failed", "reason": "Evicted"}),
        "0/2|Evicted|0",
    );
    check_pod(
        two(),
        json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}},
            {"name": "b", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"finishedAt": "2026-11-21T05:05:00Z"}}}]}),
        "1/2|CrashLoopBackOff|3 (5m ago)",
    );
    check_pod(
        two(),
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
            {"name": "a", "ready": true, "state": {"running": {}}},
            {"name": "b", "ready": false, "state": {"terminated": {"reason": "Completed"}}}]}),
        "1/2|Running|0",
    );
    check_pod(
        two(),
        json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 3}}}]}),
        "0/2|ExitCode:3|0",
    );
    check_pod(
        two(),
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
        "0/2|SchedulingGated|0",
    );
}

#[test]
fn pods_show_how_far_they_are_initialized() {
    let spec =
        || json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let waiting = |state: Value| json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": state, "restartCount": 2}]});
    check_pod(spec(), waiting(json!({"running": {}})), "0/1|Init:0/2|2");
    check_pod(
        spec(),
        waiting(json!({"waiting": {"reason": "PodInitializing"}})),
        "0/1|Init:0/2|2",
    );
    check_pod(
        spec(),
        waiting(json!({"waiting": {"reason": "ErrImagePull"}})),
        "0/1|Init:ErrImagePull|2",
    );
    check_pod(
        spec(),
        waiting(json!({"terminated": {"exitCode": 1, "reason": "Error"}})),
        "0/1|Init:Error|2",
    );
    check_pod(
        spec(),
        waiting(json!({"terminated": {"exitCode": 0, "reason": "Completed"}})),
        "0/1|Pending|0",
    );
    let sidecar = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    check_pod(
        sidecar,
        json!({"phase": "Running",
            "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
            "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}),
        "2/2|Running|1",
    );
}

#[test]
fn pods_that_are_going_say_so() {
    let going = |status: Value| json!({"metadata": {"deletionTimestamp": NOW}, "status": status, "spec": {"containers": [{}]}});
    check(
        "Pod",
        going(json!({"phase": "Running"})),
        "web|0/1|Terminating|0|2m30s",
    );
    check(
        "Pod",
        going(json!({"phase": "Running", "reason": "NodeLost"})),
        "web|0/1|Unknown|0|2m30s",
    );
    check(
        "Pod",
        going(json!({"phase": "Succeeded"})),
        "web|0/1|Succeeded|0|2m30s",
    );
}

#[test]
fn workloads() {
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
        "template": {"spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:2"}]}}});
    let status =
        json!({"replicas": 4, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2});
    let object = json!({"spec": spec, "status": status});
    check("Deployment", object.clone(), "web|2/3|1|2|2m30s");
    check("ReplicaSet", object.clone(), "web|3|4|2|2m30s");
    let wide: Vec<String> = row("Deployment", &object)
        .iter()
        .skip(5)
        .map(|(_, c)| plain(c))
        .collect();
    assert_eq!(wide, ["a,b", "a:1,b:2", "app=web"]);
}

#[test]
fn services_show_how_they_are_reached() {
    check(
        "Service",
        json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
        "web|NodePort|10.96.0.7|<none>|80:30080/TCP,53/UDP|2m30s",
    );
    check(
        "Service",
        json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}}),
        "web|ClusterIP|None|<none>|<none>|2m30s",
    );
    check(
        "Service",
        json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}),
        "web|ExternalName|<none>|a.b|<none>|2m30s",
    );
    let balanced = |status: Value| json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.8", "ports": [{"port": 1}]}, "status": status});
    check(
        "Service",
        balanced(json!({})),
        "web|LoadBalancer|10.96.0.8|<pending>|1/TCP|2m30s",
    );
    check(
        "Service",
        balanced(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb"}]}})),
        "web|LoadBalancer|10.96.0.8|192.0.2.1,lb|1/TCP|2m30s",
    );
}

#[test]
fn endpoints_list_three_at_most() {
    let address = |n: u8| json!({"ip": format!("10.244.0.{n}")});
    check(
        "Endpoints",
        json!({"subsets": [{"addresses": [address(1), address(2), address(3), address(4)], "ports": [{"port": 80}]}]}),
        "web|10.244.0.1:80,10.244.0.2:80,10.244.0.3:80 + 1 more...|2m30s",
    );
    check("Endpoints", json!({}), "web|<none>|2m30s");
    check(
        "EndpointSlice",
        json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}], "endpoints": [{"addresses": ["10.244.0.1"]}]}),
        "web|IPv4|80,x,*|10.244.0.1|2m30s",
    );
    check(
        "EndpointSlice",
        json!({"addressType": "IPv6"}),
        "web|IPv6|<unset>|<unset>|2m30s",
    );
}

#[test]
fn ingresses_and_classes() {
    check(
        "Ingress",
        json!({"spec": {"ingressClassName": "portolan", "rules": [{"host": "a"}, {}], "tls": [{}]}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
        "web|portolan|a|192.0.2.1|80, 443|2m30s",
    );
    check("Ingress", json!({"spec": {}}), "web|<none>|*||80|2m30s");
    check(
        "IngressClass",
        json!({"spec": {"controller": "portolan.dev/ingress", "parameters": {"apiGroup": "x.y", "kind": "P", "name": "n"}}}),
        "web|portolan.dev/ingress|P.x.y/n|2m30s",
    );
    check(
        "ServiceCIDR",
        json!({"spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]}}),
        "web|10.96.0.0/16,fd00:10:96::/112|2m30s",
    );
}

#[test]
fn nodes_show_whether_they_take_pods() {
    check(
        "Node",
        json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.0"}}}),
        "web|Ready,SchedulingDisabled|control-plane,worker|2m30s|v1.36.0",
    );
    check(
        "Node",
        json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "nodeInfo": {"kubeletVersion": ""}}}),
        "web|NotReady|<none>|2m30s|",
    );
}

#[test]
fn events_and_the_small_kinds() {
    check(
        "Event",
        json!({"type": "Warning", "reason": "BackOff", "message": "Back-off \n", "count": 5, "lastTimestamp": "2026-11-21T05:09:50Z",
            "involvedObject": {"kind": "Pod", "name": "web-1"}}),
        "10s|Warning|BackOff|pod/web-1|Back-off",
    );
    check(
        "Namespace",
        json!({"status": {"phase": "Active"}}),
        "web|Active|2m30s",
    );
    check(
        "Secret",
        json!({"type": "Opaque", "data": {"a": ""}}),
        "web|Opaque|1|2m30s",
    );
    check(
        "ConfigMap",
        json!({"data": {"a": ""}, "binaryData": {"b": ""}}),
        "web|2|2m30s",
    );
    check("ServiceAccount", json!({}), "web|2m30s");
    check(
        "Lease",
        json!({"spec": {"holderIdentity": "node-1"}}),
        "web|node-1|2m30s",
    );
}
