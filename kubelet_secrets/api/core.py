"""The kinds of ``core/v1`` that the node reads and writes, as frozen structs.

Only the fields this project acts on; the embedded server keeps whole objects as plain dictionaries, so nothing unknown to
this file is lost there. Values of Secrets are :class:`~kubelet_secrets.sensitive.SensitiveBytes` from the moment of decoding.

Source: k8s.io/api/core/v1 types.go (v1.36).
"""

from __future__ import annotations

from typing import Any

import msgspec

from kubelet_secrets.api.meta import ApiStruct, ListMeta, LocalObjectReference, ObjectMeta, ObjectReference
from kubelet_secrets.sensitive import SensitiveBytes

Quantity = str | int | float
"""A resource quantity as it stands in JSON; ``api/quantity.py`` parses it."""
IntOrString = int | str


# --- Secret, ConfigMap ---------------------------------------------------------------------------------------------


class Secret(ApiStruct):
    api_version: str = "v1"
    kind: str = "Secret"
    metadata: ObjectMeta = ObjectMeta()
    type: str = "Opaque"
    immutable: bool | None = None
    data: dict[str, SensitiveBytes] = msgspec.field(default_factory=dict)
    string_data: dict[str, SensitiveBytes] = msgspec.field(default_factory=dict)  # write-only; merged by decode


class ConfigMap(ApiStruct):
    api_version: str = "v1"
    kind: str = "ConfigMap"
    metadata: ObjectMeta = ObjectMeta()
    immutable: bool | None = None
    data: dict[str, str] = msgspec.field(default_factory=dict)
    binary_data: dict[str, bytes] = msgspec.field(default_factory=dict)


class ServiceAccount(ApiStruct):
    api_version: str = "v1"
    kind: str = "ServiceAccount"
    metadata: ObjectMeta = ObjectMeta()
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()
    automount_service_account_token: bool | None = None


class ServicePort(ApiStruct):
    name: str = ""
    protocol: str = "TCP"
    port: int = 0


class ServiceSpec(ApiStruct):
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    ports: tuple[ServicePort, ...] = ()


class Service(ApiStruct):
    api_version: str = "v1"
    kind: str = "Service"
    metadata: ObjectMeta = ObjectMeta()
    spec: ServiceSpec = ServiceSpec()


# --- Volumes -------------------------------------------------------------------------------------------------------


class KeyToPath(ApiStruct):
    key: str = ""
    path: str = ""
    mode: int | None = None


class SecretVolumeSource(ApiStruct):
    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool | None = None


class ConfigMapVolumeSource(ApiStruct):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool | None = None


class ObjectFieldSelector(ApiStruct):
    api_version: str = "v1"
    field_path: str = ""


class ResourceFieldSelector(ApiStruct):
    container_name: str = ""
    resource: str = ""
    divisor: Quantity = "0"


class DownwardAPIVolumeFile(ApiStruct):
    path: str = ""
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardAPIVolumeSource(ApiStruct):
    items: tuple[DownwardAPIVolumeFile, ...] = ()
    default_mode: int | None = None


class SecretProjection(ApiStruct):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool | None = None


class ConfigMapProjection(ApiStruct):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool | None = None


class DownwardAPIProjection(ApiStruct):
    items: tuple[DownwardAPIVolumeFile, ...] = ()


class ServiceAccountTokenProjection(ApiStruct):
    audience: str = ""
    expiration_seconds: int | None = None
    path: str = ""


class ClusterTrustBundleProjection(ApiStruct):
    name: str | None = None
    signer_name: str | None = None
    label_selector: dict[str, Any] | None = None
    optional: bool | None = None
    path: str = ""


class VolumeProjection(ApiStruct):
    secret: SecretProjection | None = None
    config_map: ConfigMapProjection | None = None
    downward_api: DownwardAPIProjection | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: ServiceAccountTokenProjection | None = None
    cluster_trust_bundle: ClusterTrustBundleProjection | None = None
    pod_certificate: dict[str, Any] | None = None


class ProjectedVolumeSource(ApiStruct):
    sources: tuple[VolumeProjection, ...] = ()
    default_mode: int | None = None


class EmptyDirVolumeSource(ApiStruct):
    medium: str = ""
    size_limit: Quantity | None = None


class HostPathVolumeSource(ApiStruct):
    path: str = ""
    type: str = ""


class Volume(ApiStruct):
    """One entry of ``spec.volumes``; exactly one source is set."""

    name: str = ""
    secret: SecretVolumeSource | None = None
    config_map: ConfigMapVolumeSource | None = None
    downward_api: DownwardAPIVolumeSource | None = msgspec.field(default=None, name="downwardAPI")
    projected: ProjectedVolumeSource | None = None
    empty_dir: EmptyDirVolumeSource | None = None
    host_path: HostPathVolumeSource | None = None
    csi: dict[str, Any] | None = None
    persistent_volume_claim: dict[str, Any] | None = None
    ephemeral: dict[str, Any] | None = None
    image: dict[str, Any] | None = None
    nfs: dict[str, Any] | None = None
    iscsi: dict[str, Any] | None = None
    flex_volume: dict[str, Any] | None = None
    azure_file: dict[str, Any] | None = None
    cephfs: dict[str, Any] | None = None
    cinder: dict[str, Any] | None = None
    rbd: dict[str, Any] | None = None
    scale_io: dict[str, Any] | None = msgspec.field(default=None, name="scaleIO")
    storageos: dict[str, Any] | None = None


class VolumeMount(ApiStruct):
    name: str = ""
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""
    read_only: bool = False
    recursive_read_only: str | None = None
    mount_propagation: str | None = None


# --- Environment ---------------------------------------------------------------------------------------------------


class SecretKeySelector(ApiStruct):
    name: str = ""
    key: str = ""
    optional: bool | None = None


class ConfigMapKeySelector(ApiStruct):
    name: str = ""
    key: str = ""
    optional: bool | None = None


class FileKeySelector(ApiStruct):
    volume_name: str = ""
    path: str = ""
    key: str = ""
    optional: bool | None = None


class EnvVarSource(ApiStruct):
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: ConfigMapKeySelector | None = None
    secret_key_ref: SecretKeySelector | None = None
    file_key_ref: FileKeySelector | None = None


class EnvVar(ApiStruct):
    name: str = ""
    value: str = ""
    value_from: EnvVarSource | None = None


class SecretEnvSource(ApiStruct):
    name: str = ""
    optional: bool | None = None


class ConfigMapEnvSource(ApiStruct):
    name: str = ""
    optional: bool | None = None


class EnvFromSource(ApiStruct):
    prefix: str = ""
    config_map_ref: ConfigMapEnvSource | None = None
    secret_ref: SecretEnvSource | None = None


# --- Pod -----------------------------------------------------------------------------------------------------------


class ResourceRequirements(ApiStruct):
    limits: dict[str, Quantity] = msgspec.field(default_factory=dict)
    requests: dict[str, Quantity] = msgspec.field(default_factory=dict)


class Capabilities(ApiStruct):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SeccompProfile(ApiStruct):
    type: str = ""
    localhost_profile: str = ""


class AppArmorProfile(ApiStruct):
    type: str = ""
    localhost_profile: str = ""


class SecurityContext(ApiStruct):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    privileged: bool | None = None
    proc_mount: str | None = None
    capabilities: Capabilities | None = None
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None


class Sysctl(ApiStruct):
    name: str = ""
    value: str = ""


class PodSecurityContext(ApiStruct):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: str | None = None  # "Merge" (the default) or "Strict"
    fs_group: int | None = None
    fs_group_change_policy: str | None = None
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None
    sysctls: tuple[Sysctl, ...] = ()


class ExecAction(ApiStruct):
    command: tuple[str, ...] = ()


class HTTPHeader(ApiStruct):
    name: str = ""
    value: str = ""


class HTTPGetAction(ApiStruct):
    path: str = ""
    port: IntOrString = 0
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPSocketAction(ApiStruct):
    port: IntOrString = 0
    host: str = ""


class SleepAction(ApiStruct):
    seconds: int = 0


class LifecycleHandler(ApiStruct):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(ApiStruct):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None
    stop_signal: str = ""  # "SIGUSR1"; empty: the image's, else SIGTERM


class GRPCAction(ApiStruct):
    port: int = 0
    service: str = ""


class Probe(ApiStruct):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class ContainerPort(ApiStruct):
    name: str = ""
    container_port: int = 0
    host_port: int = 0
    protocol: str = "TCP"
    host_ip: str = msgspec.field(default="", name="hostIP")


class ContainerRestartRuleOnExitCodes(ApiStruct):
    operator: str = ""  # "In" or "NotIn"
    values: tuple[int, ...] = ()


class ContainerRestartRule(ApiStruct):
    action: str = ""  # "Restart"
    exit_codes: ContainerRestartRuleOnExitCodes | None = None


class ContainerResizePolicy(ApiStruct):
    resource_name: str = ""
    restart_policy: str = ""


class Container(ApiStruct):
    name: str = ""
    image: str = ""
    image_pull_policy: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFromSource, ...] = ()
    resources: ResourceRequirements = ResourceRequirements()
    volume_mounts: tuple[VolumeMount, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    security_context: SecurityContext | None = None
    restart_policy: str | None = None  # "Always" on an init container makes it a sidecar
    restart_policy_rules: tuple[ContainerRestartRule, ...] = ()
    resize_policy: tuple[ContainerResizePolicy, ...] = ()
    target_container_name: str = ""  # of an ephemeral container: whose processes it sees
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False


class HostAlias(ApiStruct):
    ip: str = ""
    hostnames: tuple[str, ...] = ()


class Toleration(ApiStruct):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class PodReadinessGate(ApiStruct):
    condition_type: str = ""


class PodSpec(ApiStruct):
    volumes: tuple[Volume, ...] = ()
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[Container, ...] = ()
    node_name: str = ""
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    affinity: dict[str, Any] | None = None
    os: dict[str, str] | None = None
    overhead: dict[str, Quantity] = msgspec.field(default_factory=dict)
    runtime_class_name: str | None = None
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    restart_policy: str = "Always"
    termination_grace_period_seconds: int | None = None  # the API server defaults it to 30
    active_deadline_seconds: int | None = None
    enable_service_links: bool | None = None  # the API server defaults it to true
    security_context: PodSecurityContext = PodSecurityContext()
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()
    host_network: bool = False
    host_pid: bool = msgspec.field(default=False, name="hostPID")
    host_ipc: bool = msgspec.field(default=False, name="hostIPC")
    host_users: bool | None = None
    share_process_namespace: bool | None = None
    hostname: str = ""
    subdomain: str = ""
    set_hostname_as_fqdn: bool | None = msgspec.field(default=None, name="setHostnameAsFQDN")
    host_aliases: tuple[HostAlias, ...] = ()
    dns_policy: str = "ClusterFirst"
    dns_config: dict[str, Any] | None = None
    tolerations: tuple[Toleration, ...] = ()
    readiness_gates: tuple[PodReadinessGate, ...] = ()
    resources: ResourceRequirements | None = None  # pod-level resources
    priority: int | None = None
    priority_class_name: str = ""


class ContainerStateWaiting(ApiStruct):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(ApiStruct):
    started_at: str | None = None


class ContainerStateTerminated(ApiStruct, frozen=True, kw_only=True, omit_defaults=False):
    exit_code: int = 0
    reason: str = ""
    message: str | msgspec.UnsetType = msgspec.UNSET
    started_at: str | None = None
    finished_at: str | None = None
    container_id: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="containerID")


class ContainerState(ApiStruct):
    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class VolumeMountStatus(ApiStruct):
    name: str = ""
    mount_path: str = ""
    read_only: bool = False
    recursive_read_only: str | None = None


class LinuxContainerUser(ApiStruct, frozen=True, kw_only=True, omit_defaults=False):
    uid: int = 0
    gid: int = 0
    supplemental_groups: tuple[int, ...] = ()


class ContainerUser(ApiStruct):
    linux: LinuxContainerUser | None = None


class ContainerStatus(ApiStruct, frozen=True, kw_only=True, omit_defaults=False):
    name: str = ""
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    container_id: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="containerID")
    started: bool | None = None
    allocated_resources: dict[str, Quantity] | msgspec.UnsetType = msgspec.UNSET
    resources: ResourceRequirements | msgspec.UnsetType = msgspec.UNSET
    volume_mounts: tuple[VolumeMountStatus, ...] = ()
    user: ContainerUser | msgspec.UnsetType = msgspec.UNSET


class PodIP(ApiStruct):
    ip: str = ""


class PodCondition(ApiStruct):
    type: str = ""
    status: str = ""
    observed_generation: int = 0
    last_probe_time: str | None = None
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class PodStatus(ApiStruct):
    observed_generation: int = 0
    phase: str = ""
    conditions: tuple[PodCondition, ...] = ()
    message: str = ""
    reason: str = ""
    host_ip: str = msgspec.field(default="", name="hostIP")
    host_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="hostIPs")
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="podIPs")
    start_time: str | None = None
    qos_class: str = ""
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    ephemeral_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(ApiStruct):
    api_version: str = "v1"
    kind: str = "Pod"
    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


# --- Node, Lease, Event, Status ------------------------------------------------------------------------------------


class NodeAddress(ApiStruct):
    type: str = ""
    address: str = ""


class DaemonEndpoint(ApiStruct):
    port: int = msgspec.field(default=0, name="Port")


class NodeDaemonEndpoints(ApiStruct):
    kubelet_endpoint: DaemonEndpoint = DaemonEndpoint()


class NodeSwapStatus(ApiStruct):
    capacity: int = 0  # bytes


class NodeSystemInfo(ApiStruct, frozen=True, kw_only=True, omit_defaults=False):
    machine_id: str = msgspec.field(default="", name="machineID")
    system_uuid: str = msgspec.field(default="", name="systemUUID")
    boot_id: str = msgspec.field(default="", name="bootID")
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""
    kube_proxy_version: str = ""
    operating_system: str = "linux"
    architecture: str = ""
    swap: NodeSwapStatus | msgspec.UnsetType = msgspec.UNSET


class NodeCondition(ApiStruct):
    type: str = ""
    status: str = ""
    last_heartbeat_time: str | None = None
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class Taint(ApiStruct):
    key: str = ""
    value: str = ""
    effect: str = ""


class ContainerImage(ApiStruct):
    names: tuple[str, ...] = ()
    size_bytes: int = 0


class NodeRuntimeHandlerFeatures(ApiStruct):
    recursive_read_only_mounts: bool | None = None
    user_namespaces: bool | None = None


class NodeRuntimeHandler(ApiStruct, frozen=True, kw_only=True, omit_defaults=False):
    name: str = ""  # the default one
    features: NodeRuntimeHandlerFeatures = NodeRuntimeHandlerFeatures()


class NodeFeatures(ApiStruct):
    supplemental_groups_policy: bool | None = None


class NodeStatus(ApiStruct):
    capacity: dict[str, Quantity] = msgspec.field(default_factory=dict)
    allocatable: dict[str, Quantity] = msgspec.field(default_factory=dict)
    conditions: tuple[NodeCondition, ...] = ()
    addresses: tuple[NodeAddress, ...] = ()
    daemon_endpoints: NodeDaemonEndpoints = NodeDaemonEndpoints()
    node_info: NodeSystemInfo = NodeSystemInfo()
    images: tuple[ContainerImage, ...] = ()
    runtime_handlers: tuple[NodeRuntimeHandler, ...] = ()
    features: NodeFeatures | None = None


class NodeSpec(ApiStruct):
    provider_id: str = msgspec.field(default="", name="providerID")
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False


class Node(ApiStruct):
    api_version: str = "v1"
    kind: str = "Node"
    metadata: ObjectMeta = ObjectMeta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class LeaseSpec(ApiStruct):
    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: str | None = None
    renew_time: str | None = None


class Lease(ApiStruct):
    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"
    metadata: ObjectMeta = ObjectMeta()
    spec: LeaseSpec = LeaseSpec()


class EventSource(ApiStruct):
    component: str = ""
    host: str = ""


class Event(ApiStruct):
    api_version: str = "v1"
    kind: str = "Event"
    metadata: ObjectMeta = ObjectMeta()
    involved_object: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    source: EventSource = EventSource()
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    count: int = 0
    type: str = ""
    reporting_component: str = ""
    reporting_instance: str = ""


class Status(ApiStruct):
    """An error body. ``details`` is left out on purpose: nothing here decides by it."""

    kind: str = "Status"
    api_version: str = "v1"
    metadata: ListMeta = ListMeta()
    status: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0


# --- ClusterTrustBundle ---------------------------------------------------------------------------------------------


class ClusterTrustBundleSpec(ApiStruct):
    signer_name: str = ""
    trust_bundle: str = ""  # PEM certificates


class ClusterTrustBundle(ApiStruct):
    """Source: k8s.io/api/certificates/v1beta1; off by default in clusters and here."""

    api_version: str = "certificates.k8s.io/v1beta1"
    kind: str = "ClusterTrustBundle"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: ClusterTrustBundleSpec = msgspec.field(default_factory=ClusterTrustBundleSpec)
