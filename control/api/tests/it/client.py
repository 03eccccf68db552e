"""Uses the API as Python programs do: typed, watching, patching, and through the dynamic client."""

import sys

from kubernetes import client, config, dynamic, watch

api_client = config.new_client_from_config(sys.argv[1])
core = client.CoreV1Api(api_client)
apps = client.AppsV1Api(api_client)

assert client.VersionApi(api_client).get_code().major == "1"
assert {"default", "kube-system"} <= {n.metadata.name for n in core.list_namespace().items}

body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"l": "1"}), data={"k": "v"})
made = core.create_namespaced_config_map("default", body)
assert core.read_namespaced_config_map("a", "default").data == {"k": "v"}
core.patch_namespaced_config_map("a", "default", {"data": {"m": "n"}})
made = core.read_namespaced_config_map("a", "default")
assert made.data == {"k": "v", "m": "n"}, made.data
made.data = {"x": "y"}
assert core.replace_namespaced_config_map("a", "default", made).data == {"x": "y"}
try:
    core.create_namespaced_config_map("default", body)
    raise AssertionError("created twice")
except client.ApiException as error:
    assert error.status == 409, error

labels = {"app": "web"}
container = client.V1Container(name="c", image="i", ports=[client.V1ContainerPort(container_port=80)])
template = client.V1PodTemplateSpec(
    metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container])
)
spec = client.V1DeploymentSpec(selector=client.V1LabelSelector(match_labels=labels), template=template, replicas=2)
apps.create_namespaced_deployment("default", client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec))
apps.patch_namespaced_deployment_scale("web", "default", {"spec": {"replicas": 5}})
assert apps.read_namespaced_deployment_scale("web", "default").spec.replicas == 5
change = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}}
changed = apps.patch_namespaced_deployment("web", "default", change)
assert changed.spec.template.spec.containers[0].image == "j"
assert changed.spec.template.spec.containers[0].ports[0].container_port == 80

service = client.V1Service(
    metadata=client.V1ObjectMeta(name="web"), spec=client.V1ServiceSpec(selector=labels, ports=[client.V1ServicePort(port=80)])
)
assert core.create_namespaced_service("default", service).spec.cluster_ip.startswith("10.96.")

seen = []
for event in watch.Watch().stream(core.list_namespaced_config_map, "default", timeout_seconds=20, label_selector="l"):
    seen.append((event["type"], event["object"].metadata.name))
    if seen[-1] == ("ADDED", "a"):
        core.delete_namespaced_config_map("a", "default")
    if seen[-1] == ("DELETED", "a"):
        break
assert seen == [("ADDED", "a"), ("DELETED", "a")], seen

resources = dynamic.DynamicClient(api_client).resources
maps = resources.get(api_version="v1", kind="ConfigMap")
maps.create(namespace="default", body={"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "d"}, "data": {"a": "b"}})
assert maps.get(name="d", namespace="default").data.a == "b"
assert resources.get(api_version="apps/v1", kind="Deployment").get(name="web", namespace="default").spec.replicas == 5
maps.delete(name="d", namespace="default")

pod = client.V1Pod(metadata=client.V1ObjectMeta(name="p"), spec=client.V1PodSpec(containers=[container]))
assert core.create_namespaced_pod("default", pod).status.phase == "Pending"
core.delete_namespaced_pod("p", "default")
print("done")
