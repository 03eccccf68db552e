//! The usual mistakes, and what people read about them.

use serde_json::{Value, json};

use super::*;

fn res(kind: &str) -> &'static Resource {
    crate::resources()
        .iter()
        .find(|r| r.kind == kind)
        .expect("a served kind")
}

/// A complete object: defaults and metadata filled in.
fn complete(kind: &str, mut object: Value) -> Value {
    crate::defaults::apply(res(kind), &mut object);
    for (key, value) in [("name", "web"), ("namespace", "default")] {
        if object["metadata"][key].is_null() && (key == "name" || res(kind).namespaced) {
            object["metadata"][key] = json!(value);
        }
    }
    object
}

fn lines(causes: &[Cause]) -> Vec<String> {
    causes
        .iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

#[track_caller]
fn check(kind: &str, object: Value, expected: &[&str]) {
    assert_eq!(lines(&create(res(kind), &complete(kind, object))), expected);
}

#[track_caller]
fn check_update(kind: &str, old: Value, new: Value, expected: &[&str]) {
    let (old, new) = (complete(kind, old), complete(kind, new));
    assert_eq!(lines(&update(res(kind), &new, &old)), expected);
}

#[track_caller]
fn check_container(container: Value, expected: &[&str]) {
    let mut object = json!({"spec": {"containers": [{"name": "a", "image": "b"}]}});
    for (key, value) in container.as_object().expect("a map") {
        object["spec"]["containers"][0][key] = value.clone();
    }
    let expected: Vec<String> = expected
        .iter()
        .map(|line| format!("spec.containers[0]{line}"))
        .collect();
    check(
        "Pod",
        object,
        &expected.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

fn deployment(spec: Value) -> Value {
    let mut object = json!({"spec": {"selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}}});
    crate::patch::merge(&object.take(), &json!({"spec": spec}))
}

#[test]
fn metadata() {
    check("ConfigMap", json!({}), &[]);
    assert_eq!(
        lines(&create(
            res("ConfigMap"),
            &json!({"metadata": {"namespace": "default"}})
        )),
        ["metadata.name: Required value: name or generateName is required"]
    );
    check(
        "Namespace",
        json!({"metadata": {"name": "a.b"}}),
        &[
            "metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label must consist of lower case alphanumeric \
           characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex \
           used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
    check(
        "ConfigMap",
        json!({"metadata": {"labels": {"a": "b c"}, "finalizers": ["orphan", "foregroundDeletion"]}}),
        &[
            "metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
             'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer foregroundDeletion and orphan \
             cannot be both set",
        ],
    );
    check_update(
        "ConfigMap",
        json!({"metadata": {"uid": "1", "deletionTimestamp": "2026-11-21T05:00:00Z"}}),
        json!({"metadata": {"uid": "2", "finalizers": ["a/b"]}}),
        &[
            "metadata.uid: Invalid value: \"2\": field is immutable",
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
             finalizers []string{\"a/b\"}",
        ],
    );
    check(
        "Pod",
        json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "a", "image": "b"}]}}),
        &[],
    );
}

#[test]
fn messages_list_all_causes_once() {
    let cause = |field: &str| Cause {
        reason: "FieldValueRequired",
        message: "Required value".to_owned(),
        field: field.to_owned(),
    };
    assert_eq!(
        message(res("Service"), "web", &[cause("spec.ports")]),
        "Service \"web\" is invalid: spec.ports: Required value"
    );
    assert_eq!(
        message(
            res("Deployment"),
            "web",
            &[cause("a"), cause("b"), cause("a")]
        ),
        "Deployment.apps \"web\" is invalid: [a: Required value, b: Required value]"
    );
}

#[test]
fn containers_need_names_and_images() {
    check(
        "Pod",
        json!({"spec": {}}),
        &["spec.containers: Required value"],
    );
    check_container(
        json!({"name": "", "image": ""}),
        &[".name: Required value", ".image: Required value"],
    );
    check_container(
        json!({"image": " b"}),
        &[".image: Invalid value: \" b\": must not have leading or trailing whitespace"],
    );
    check_container(
        json!({"imagePullPolicy": "Sometimes"}),
        &[
            ".imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ],
    );
    check(
        "Pod",
        json!({"spec": {"containers": [{"name": "a", "image": "b"}, {"name": "a", "image": "b"}]}}),
        &["spec.containers[1].name: Duplicate value: \"a\""],
    );
}

#[test]
fn container_ports() {
    check_container(
        json!({"ports": [{"containerPort": 0}, {"containerPort": 70000, "name": "http"}, {"containerPort": 1, "name": "http", "protocol": "tcp"}]}),
        &[
            ".ports[0].containerPort: Required value",
            ".ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ".ports[2].name: Duplicate value: \"http\"",
            ".ports[2].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    check_container(
        json!({"ports": [{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 80}]}),
        &[".ports[1].hostPort: Duplicate value: \"TCP//80\""],
    );
}

#[test]
fn environment_and_mounts() {
    check_container(
        json!({"env": [
            {"name": ""}, {"name": "A=B"}, {"name": "C", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "D", "valueFrom": {}}, {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
            {"name": "F", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}),
        &[
            ".env[0].name: Required value",
            ".env[1].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII \
             characters other than '='",
            ".env[2].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ".env[3].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` \
             or `secretKeyRef`",
            ".env[5].valueFrom.secretKeyRef.key: Required value",
        ],
    );
    check_container(
        json!({"volumeMounts": [{"name": "data", "mountPath": "/x"}, {"name": "data", "mountPath": "/x", "subPath": "../y"}]}),
        &[
            ".volumeMounts[0].name: Not found: \"data\"",
            ".volumeMounts[1].name: Not found: \"data\"",
            ".volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique",
            ".volumeMounts[1].subPath: Invalid value: \"../y\": must not contain '..'",
        ],
    );
}

#[test]
fn resources_and_probes() {
    check_container(
        json!({"resources": {"limits": {"cpu": "1", "disk": "1"}, "requests": {"cpu": "2", "memory": "-1"}}}),
        &[
            ".resources.limits[disk]: Invalid value: \"disk\": must be a standard resource for containers",
            ".resources.requests[disk]: Invalid value: \"disk\": must be a standard resource for containers",
            ".resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            ".resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ],
    );
    check_container(
        json!({"livenessProbe": {"successThreshold": 2, "tcpSocket": {"port": 0}}, "readinessProbe": {"timeoutSeconds": -1},
            "startupProbe": {"exec": {}, "httpGet": {"port": "http"}}}),
        &[
            ".livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ".livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ".readinessProbe: Required value: must specify a handler type",
            ".readinessProbe.timeoutSeconds: Invalid value: -1: must be greater than or equal to 0",
            ".startupProbe.httpGet: Forbidden: may not specify more than 1 handler type",
            ".startupProbe.exec.command: Required value",
        ],
    );
}

#[test]
fn volumes_and_policies() {
    check(
        "Pod",
        json!({"spec": {
            "containers": [{"name": "a", "image": "b", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "restartPolicy": "Sometimes", "dnsPolicy": "None", "activeDeadlineSeconds": 0, "hostname": "A",
            "tolerations": [{"operator": "Equal"}],
            "volumes": [{"name": "v", "secret": {}}, {"name": "v", "emptyDir": {}, "hostPath": {"path": ""}}]}}),
        &[
            "spec.volumes[0].secret.secretName: Required value",
            "spec.volumes[1].name: Duplicate value: \"v\"",
            "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.hostname: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric \
             characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex \
             used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \
             \"match all values and all keys\"",
        ],
    );
}

#[test]
fn pods_hardly_change() {
    let pod = |image: &str, extra: Value| {
        crate::patch::merge(
            &json!({"spec": {"containers": [{"name": "a", "image": image}]}}),
            &json!({"spec": extra}),
        )
    };
    check_update(
        "Pod",
        pod("a:1", json!({})),
        pod("a:2", json!({"activeDeadlineSeconds": 5, "nodeName": "n"})),
        &[],
    );
    check_update(
        "Pod",
        pod("a", json!({"nodeName": "n"})),
        pod("a", json!({"nodeName": "m"})),
        &[
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
           `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
           tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ],
    );
    check_update(
        "Pod",
        pod("a", json!({})),
        json!({"spec": {"containers": [{"name": "a", "image": "a"}, {"name": "b", "image": "b"}]}}),
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
}

#[test]
fn deployments() {
    check("Deployment", deployment(json!({})), &[]);
    check(
        "Deployment",
        deployment(json!({"template": {"metadata": {"labels": {"app": "db"}}}, "replicas": -1})),
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"db\"}: `selector` does not match template `labels`",
        ],
    );
    check(
        "Deployment",
        deployment(json!({"selector": null})),
        &["spec.selector: Required value"],
    );
    check(
        "Deployment",
        deployment(
            json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}, "minReadySeconds": 600}),
        ),
        &[
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
        ],
    );
    check(
        "Deployment",
        deployment(
            json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}, "template": {"spec": {"restartPolicy": "Never"}}}),
        ),
        &[
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ],
    );
    check_update(
        "Deployment",
        deployment(json!({})),
        deployment(
            json!({"selector": {"matchLabels": {"app": "web", "x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}}}}),
        ),
        &[
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"x\":\"y\"}}: field is immutable",
        ],
    );
}

#[test]
fn services() {
    check("Service", json!({"spec": {"ports": [{"port": 80}]}}), &[]);
    check(
        "Service",
        json!({"spec": {}}),
        &["spec.ports: Required value"],
    );
    check("Service", json!({"spec": {"clusterIP": "None"}}), &[]);
    check(
        "Service",
        json!({"spec": {"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}}),
        &[
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ],
    );
    check(
        "Service",
        json!({"metadata": {"name": "1web"}, "spec": {"type": "Internal", "ports": [{"port": 80}]}}),
        &[
            "metadata.name: Invalid value: \"1web\": a DNS-1035 label must consist of lower case alphanumeric characters or \
             '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', \
             regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
            "spec.type: Unsupported value: \"Internal\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \
             \"NodePort\"",
        ],
    );
    check(
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 80, "name": "b", "nodePort": 30000}, {"port": 0, "name": "b", "targetPort": "TOO_BIG"}]}}),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            "spec.ports[2].name: Duplicate value: \"b\"",
            "spec.ports[2].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[2].targetPort: Invalid value: \"TOO_BIG\": must contain only alpha-numeric characters (a-z, 0-9), \
             and hyphens (-)",
            "spec.ports[2].targetPort: Invalid value: \"TOO_BIG\": must contain at least one letter (a-z)",
            "spec.ports[1]: Duplicate value: {\"AppProtocol\":null,\"Name\":\"\",\"NodePort\":0,\"Port\":80,\"Protocol\":\"TCP\",\
             \"TargetPort\":0}",
        ],
    );
    check(
        "Service",
        json!({"spec": {"type": "ExternalName"}}),
        &["spec.externalName: Required value"],
    );
    check_update(
        "Service",
        json!({"spec": {"ports": [{"port": 80}], "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"]}}),
        json!({"spec": {"ports": [{"port": 80}], "clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"]}}),
        &["spec.clusterIPs[0]: Invalid value: [\"10.96.0.2\"]: may not change once set"],
    );
}

#[test]
fn endpoints_and_slices() {
    check(
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}]}, {}]}),
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
        ],
    );
    check(
        "EndpointSlice",
        json!({"addressType": "IPv4", "endpoints": [{"addresses": []}, {"addresses": ["fd00::1"]}], "ports": [{"port": 80}, {"port": 81}]}),
        &[
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "endpoints[1].addresses[0]: Invalid value: \"fd00::1\": must be an IPv4 address",
            "ports[1].name: Duplicate value: \"\"",
        ],
    );
    check_update(
        "EndpointSlice",
        json!({"addressType": "IPv4", "endpoints": []}),
        json!({"addressType": "IPv6", "endpoints": []}),
        &["addressType: Invalid value: \"IPv6\": field is immutable"],
    );
}

#[test]
fn ingresses() {
    let with_path = |path: Value| json!({"spec": {"rules": [{"host": "a.example", "http": {"paths": [path]}}]}});
    let backend = || json!({"service": {"name": "web", "port": {"number": 80}}});
    check(
        "Ingress",
        with_path(json!({"path": "/", "pathType": "Prefix", "backend": backend()})),
        &[],
    );
    check(
        "Ingress",
        json!({"spec": {}}),
        &["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"],
    );
    check(
        "Ingress",
        with_path(json!({"path": "a//b", "pathType": "Exact", "backend": {}})),
        &[
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path",
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//'",
            "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
        ],
    );
    check(
        "Ingress",
        with_path(
            json!({"path": "/", "pathType": "Regex", "backend": {"service": {"name": "web", "port": {}}}}),
        ),
        &[
            "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \
             \"ImplementationSpecific\", \"Prefix\"",
            "spec.rules[0].http.paths[0].backend: Required value: port name or number is required",
        ],
    );
    check(
        "Ingress",
        json!({"spec": {"defaultBackend": backend(), "rules": [{"host": "192.0.2.1"}]}}),
        &[
            "spec.rules[0].host: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
        ],
    );
    check(
        "IngressClass",
        json!({"spec": {"controller": "portolan.dev/ingress"}}),
        &[],
    );
    check(
        "IngressClass",
        json!({"spec": {"controller": "portolan"}}),
        &[
            "spec.controller: Invalid value: \"portolan\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ],
    );
}

#[test]
fn service_ranges() {
    check(
        "ServiceCIDR",
        json!({"spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]}}),
        &[],
    );
    check(
        "ServiceCIDR",
        json!({"spec": {}}),
        &["spec.cidrs: Required value: at least one CIDR required"],
    );
    check(
        "ServiceCIDR",
        json!({"spec": {"cidrs": ["10.96.0.0/16", "10.97.0.0/16"]}}),
        &[
            "spec.cidrs[1]: Invalid value: \"10.97.0.0/16\": must be of another IP family than the first",
        ],
    );
    check(
        "ServiceCIDR",
        json!({"spec": {"cidrs": ["10.96.0.1/16"]}}),
        &[
            "spec.cidrs[0]: Invalid value: \"10.96.0.1/16\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
             2001:db8::/64)",
        ],
    );
}

#[test]
fn configuration() {
    check(
        "ConfigMap",
        json!({"data": {"a/b": ""}, "binaryData": {"c": ""}}),
        &[
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' \
           (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ],
    );
    check(
        "Secret",
        json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
        &["data[tls.key]: Required value"],
    );
    check_update(
        "Secret",
        json!({"type": "a"}),
        json!({"type": "b"}),
        &["type: Invalid value: \"b\": field is immutable"],
    );
    check_update(
        "ConfigMap",
        json!({"immutable": true, "data": {"a": "1"}}),
        json!({"immutable": true, "data": {"a": "2"}}),
        &["data: Forbidden: field is immutable when `immutable` is set"],
    );
}

#[test]
fn the_rest() {
    check(
        "Node",
        json!({"spec": {"taints": [{"key": "a", "effect": "Never"}]}}),
        &[
            "spec.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoExecute\", \"NoSchedule\", \
           \"PreferNoSchedule\"",
        ],
    );
    check_update(
        "Node",
        json!({"spec": {"podCIDRs": ["10.244.1.0/24"]}}),
        json!({"spec": {"podCIDRs": ["10.244.2.0/24"]}}),
        &[
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
        ],
    );
    check(
        "Lease",
        json!({"spec": {"leaseDurationSeconds": 0}}),
        &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
    );
    check(
        "Event",
        json!({"involvedObject": {"namespace": "other"}}),
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    let status = json!({"metadata": {"name": "web", "namespace": "default"}, "status": {"loadBalancer": {"ingress": [{"ip": "x"}]}}});
    assert_eq!(
        lines(&status_update(res("Ingress"), &status, &status)),
        [
            "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        ]
    );
}
