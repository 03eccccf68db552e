#!/usr/bin/env python3
"""Generates ../data/types.txt, the table of API types that control-schema reads at start.

Sources, both Apache-2.0:
  - the JSON definitions of Kubernetes 1.36 in the PyPI package kubernetes-validate 1.37.0 (field names, types,
    required fields, x-kubernetes-* keys);
  - the protobuf field numbers in the attributes of the crate k8s-pb 0.9.0.
What neither tells, which scalars are pointers in the Go types, is the table POINTERS below.

Run it with `make -C control/schema/generate`, which fetches both, or:
  generate.py <_definitions.json> <directory of the k8s-pb crate> > ../data/types.txt
"""

import json
import re
import sys
from pathlib import Path

# The kinds that requests may carry; every type reachable from them goes into the table.
ROOTS = """
core.v1: Binding ConfigMap Endpoints Event Namespace Node Pod Secret Service ServiceAccount
apps.v1: Deployment ReplicaSet
authentication.v1: SelfSubjectReview TokenRequest TokenReview
authorization.v1: LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
autoscaling.v1: Scale
coordination.v1: Lease
discovery.v1: EndpointSlice
meta.v1: DeleteOptions Status
networking.v1: Ingress IngressClass ServiceCIDR
policy.v1: Eviction
"""

SCALARS = {
    "meta.v1.Time": "time",
    "meta.v1.MicroTime": "microtime",
    "meta.v1.FieldsV1": "raw",
    "runtime.RawExtension": "raw",
    "resource.Quantity": "quantity",
    "intstr.IntOrString": "intorstring",
}

# Optional scalars that are pointers in Go: their zero is a value, whereas any other zero means absent.
POINTERS = """
apps.v1.DeploymentSpec: progressDeadlineSeconds replicas revisionHistoryLimit
apps.v1.DeploymentStatus: collisionCount terminatingReplicas
apps.v1.ReplicaSetSpec: replicas
apps.v1.ReplicaSetStatus: terminatingReplicas
authentication.v1.TokenRequestSpec: expirationSeconds
coordination.v1.LeaseSpec: holderIdentity leaseDurationSeconds leaseTransitions preferredHolder strategy
core.v1.AppArmorProfile: localhostProfile
core.v1.AzureDiskVolumeSource: cachingMode fsType kind readOnly
core.v1.CSIVolumeSource: fsType readOnly
core.v1.ClientIPConfig: timeoutSeconds
core.v1.ClusterTrustBundleProjection: name optional signerName
core.v1.ConfigMap: immutable
core.v1.ConfigMapEnvSource: optional
core.v1.ConfigMapKeySelector: optional
core.v1.ConfigMapProjection: optional
core.v1.ConfigMapVolumeSource: defaultMode optional
core.v1.Container: restartPolicy
core.v1.ContainerStatus: started stopSignal
core.v1.DownwardAPIVolumeFile: mode
core.v1.DownwardAPIVolumeSource: defaultMode
core.v1.EndpointAddress: nodeName
core.v1.EndpointPort: appProtocol
core.v1.EphemeralContainer: restartPolicy
core.v1.FCVolumeSource: lun
core.v1.FileKeySelector: optional
core.v1.GRPCAction: service
core.v1.HostPathVolumeSource: type
core.v1.ISCSIVolumeSource: initiatorName
core.v1.KeyToPath: mode
core.v1.Lifecycle: stopSignal
core.v1.LoadBalancerIngress: ipMode
core.v1.NodeFeatures: supplementalGroupsPolicy
core.v1.NodeRuntimeHandlerFeatures: recursiveReadOnlyMounts userNamespaces
core.v1.NodeSwapStatus: capacity
core.v1.PersistentVolumeClaimSpec: storageClassName volumeAttributesClassName volumeMode
core.v1.PodCertificateProjection: maxExpirationSeconds
core.v1.PodDNSConfigOption: value
core.v1.PodResourceClaim: resourceClaimName resourceClaimTemplateName
core.v1.PodResourceClaimStatus: resourceClaimName
core.v1.PodSchedulingGroup: podGroupName
core.v1.PodSecurityContext: fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seLinuxChangePolicy
  supplementalGroupsPolicy
core.v1.PodSpec: activeDeadlineSeconds automountServiceAccountToken enableServiceLinks hostUsers
  hostnameOverride preemptionPolicy priority runtimeClassName setHostnameAsFQDN shareProcessNamespace
  terminationGracePeriodSeconds
core.v1.PortStatus: error
core.v1.Probe: terminationGracePeriodSeconds
core.v1.ProjectedVolumeSource: defaultMode
core.v1.ResourceHealth: message
core.v1.SeccompProfile: localhostProfile
core.v1.Secret: immutable
core.v1.SecretEnvSource: optional
core.v1.SecretKeySelector: optional
core.v1.SecretProjection: optional
core.v1.SecretVolumeSource: defaultMode optional
core.v1.SecurityContext: allowPrivilegeEscalation privileged procMount readOnlyRootFilesystem runAsGroup
  runAsNonRoot runAsUser
core.v1.ServiceAccount: automountServiceAccountToken
core.v1.ServiceAccountTokenProjection: expirationSeconds
core.v1.ServicePort: appProtocol
core.v1.ServiceSpec: allocateLoadBalancerNodePorts internalTrafficPolicy ipFamilyPolicy loadBalancerClass
  trafficDistribution
core.v1.Toleration: tolerationSeconds
core.v1.TopologySpreadConstraint: minDomains nodeAffinityPolicy nodeTaintsPolicy
core.v1.TypedLocalObjectReference: apiGroup
core.v1.TypedObjectReference: apiGroup namespace
core.v1.VolumeMount: mountPropagation recursiveReadOnly
core.v1.VolumeMountStatus: recursiveReadOnly
core.v1.WindowsSecurityContextOptions: gmsaCredentialSpec gmsaCredentialSpecName hostProcess runAsUserName
discovery.v1.Endpoint: hostname nodeName zone
discovery.v1.EndpointConditions: ready serving terminating
discovery.v1.EndpointPort: appProtocol name port protocol
meta.v1.DeleteOptions: gracePeriodSeconds ignoreStoreReadErrorWithClusterBreakingPotential orphanDependents
  propagationPolicy
meta.v1.ListMeta: remainingItemCount
meta.v1.ObjectMeta: deletionGracePeriodSeconds
meta.v1.OwnerReference: blockOwnerDeletion controller
meta.v1.Preconditions: resourceVersion uid
networking.v1.HTTPIngressPath: pathType
networking.v1.IngressClassParametersReference: apiGroup namespace scope
networking.v1.IngressPortStatus: error
networking.v1.IngressSpec: ingressClassName
"""

# Objects held by value in Go, so that they are always there, if empty: field names, then the exceptions.
BY_VALUE = """
backend conditions daemonEndpoints involvedObject kubeletEndpoint lastState loadBalancer metadata nodeInfo
podAffinityTerm port preference resources source spec state status strategy target template user userInfo
""".split()
BY_POINTER = """
core.v1.ContainerStatus: resources user
core.v1.PodSpec: resources
core.v1.PodStatus: resources
"""

# Fields younger than the crate.
YOUNGER = """
core.v1.ImageVolumeStatus: imageRef=1
core.v1.NodeAllocatableResourceClaimStatus: resourceClaimName=1 containers=2 resources=3
core.v1.PodSchedulingGroup: podGroupName=1
core.v1.PodSpec: schedulingGroup=43
core.v1.PodStatus: nodeAllocatableResourceClaimStatuses=21
core.v1.ResourceHealth: message=6
core.v1.VolumeMountStatus: volumeStatus=5
core.v1.VolumeStatus: image=1
meta.v1.ListMeta: shardInfo=5
meta.v1.ShardInfo: selector=1
"""


def words_by_type(text):
    """`type: word word`, continued on indented lines -> {type: [word]}"""
    lines = text.replace("\n  ", " ").strip().splitlines()
    return {name: words.split() for name, _, words in (line.partition(":") for line in lines)}


def short(name):
    """io.k8s.api.core.v1.Pod -> core.v1.Pod"""
    parts = name.rsplit("/", 1)[-1].split(".")
    return ".".join(parts[-3:] if re.fullmatch(r"v\d\w*", parts[-2]) else parts[-2:])


def plain(name):
    """A spelling that JSON and Rust names share."""
    return name.replace("_", "").lower()


class Protobuf:
    """Field numbers by module and struct, read from prost's attributes."""

    FIELD = re.compile(r'#\[prost\((.*?)\btag = "(\d+)"\)\]\s*pub (?:r#)?(\w+):\s*(.*?),\n(?=\s*(?:///|#\[|\Z))', re.S)

    def __init__(self, crate):
        self.structs = {}
        self.younger = words_by_type(YOUNGER)
        for module in Path(crate, "src").rglob("mod.rs"):
            parts = module.parent.parts
            for name, body in re.findall(r"^pub struct (\w+) \{\n(.*?)^\}", module.read_text(), re.M | re.S):
                fields = {plain(f[2]): (int(f[1]), f[3]) for f in self.FIELD.findall(body)}
                self.structs[(parts[-2], parts[-1], plain(name))] = fields

    def fields(self, type_name):
        group, version, name = type_name.split(".")
        fields = dict(self.structs.get((group, version, plain(name)), {}))
        for word in self.younger.get(type_name, ()):
            field, _, tag = word.partition("=")
            fields[plain(field)] = (int(tag), "")
        return fields

    def tags(self, type_name, json_names):
        """JSON name -> `7`, or `2.7` for a field of the message inlined as field 2; `0` if not in the message."""
        group, version, _ = type_name.split(".")
        own = self.fields(type_name)
        tags = {plain(j): str(own[plain(j)][0]) for j in json_names if plain(j) in own}
        for field, (tag, rust) in own.items():
            if field in tags or field in map(plain, json_names):
                continue
            inner = re.search(r"(\w+)>*$", rust)[1]
            for name, (inner_tag, _) in self.structs.get((group, version, plain(inner)), {}).items():
                tags.setdefault(name, f"{tag}.{inner_tag}")
        return tags


def kind_of(schema):
    """The JSON type without null."""
    kind = schema.get("type")
    return next(k for k in kind if k != "null") if isinstance(kind, list) else kind


class Table:
    def __init__(self, definitions, protobuf):
        self.definitions = {short(name): schema for name, schema in definitions.items()}
        self.protobuf = protobuf
        self.pointers = words_by_type(POINTERS)
        self.by_pointer = words_by_type(BY_POINTER)
        self.lines = {}

    def spell(self, schema):
        """The type of a field: a scalar, `@reference`, `[]element` or `{}value`."""
        if "$ref" in schema:
            name = short(schema["$ref"])
            if name in SCALARS:
                return SCALARS[name]
            self.add(name)
            return "@" + name
        kind = kind_of(schema)
        if kind == "array":
            return "[]" + self.spell(schema["items"])
        if kind == "object":
            return "{}" + self.spell(schema["additionalProperties"])
        if kind == "string":
            return "bytes" if schema.get("format") == "byte" else "string"
        if kind == "integer":
            return schema["format"]
        return {"boolean": "bool", "number": "double"}[kind]

    def add(self, name):
        if name in self.lines:
            return
        self.lines[name] = []
        schema = self.definitions[name]
        properties = schema.get("properties", {})
        tags = self.protobuf.tags(name, properties)
        self.lines[name] = [self.head(name, schema)] + [
            self.field(name, field, inner, tags.get(plain(field), "0"), field in schema.get("required", ()))
            for field, inner in properties.items()
        ]

    def head(self, name, schema):
        words = [":" + name]
        if schema.get("x-kubernetes-map-type") == "atomic":
            words.append("atomic")
        for gvk in schema.get("x-kubernetes-group-version-kind", ())[:1]:
            words.append("kind=" + "/".join(filter(None, (gvk["group"], gvk["version"], gvk["kind"]))))
        return " ".join(words)

    def field(self, type_name, name, schema, tag, required):
        words = [name, tag, self.spell(schema)]
        if tag == "0" and name not in ("apiVersion", "kind"):
            raise SystemExit(f"{type_name}.{name} has no field number")
        if required:
            words.append("required")
        if name in self.pointers.get(type_name, ()):
            words.append("pointer")
        is_object = words[2].startswith("@")
        if is_object and name in BY_VALUE and name not in self.by_pointer.get(type_name, ()):
            words.append("value")
        if schema.get("x-kubernetes-map-type") == "atomic":
            words.append("atomic")
        if kind := schema.get("x-kubernetes-list-type"):
            words.append("list=" + ",".join([kind] + schema.get("x-kubernetes-list-map-keys", [])))
        if strategy := schema.get("x-kubernetes-patch-strategy"):
            words.append("patch=" + strategy)
        if key := schema.get("x-kubernetes-patch-merge-key"):
            words.append("key=" + key)
        return " ".join(words)


def main():
    definitions = json.loads(Path(sys.argv[1]).read_text())["$defs"]
    table = Table(definitions, Protobuf(sys.argv[2]))
    for group, kinds in words_by_type(ROOTS).items():
        for kind in kinds:
            table.add(f"{group}.{kind}")
    print("# Generated by ../generate/generate.py; do not edit. Format: see src/types.rs.")
    print("# Facts about the Kubernetes API 1.36, Copyright The Kubernetes Authors, Apache License 2.0,")
    print("# by way of kubernetes-validate 1.37.0 (Apache-2.0) and k8s-pb 0.9.0 (Apache-2.0).")
    for name in sorted(table.lines):
        print("\n".join(table.lines[name]))


if __name__ == "__main__":
    main()
