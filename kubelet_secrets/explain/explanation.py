"""``explain``: manifests in, answer out. Puts the parts of this room together.

Pure. Called by ``cli/explain.py`` and tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from kubelet_secrets.api.core import Container, Service
from kubelet_secrets.explain.files import explain_files
from kubelet_secrets.explain.inventory import Inventory, PodManifest, take_inventory
from kubelet_secrets.explain.lookup import ManifestSource
from kubelet_secrets.explain.model import ContainerView, Explanation, PodView, Problem, Severity
from kubelet_secrets.explain.objects import object_problems
from kubelet_secrets.explain.rules import object_rule_problems, pod_rule_problems, without_repetitions
from kubelet_secrets.explain.variables import explain_variables, known_services
from kubelet_secrets.explain.volumes import Volumes, explain_volumes
from kubelet_secrets.manifests import ManifestObject

EXPIRES_WITHIN = timedelta(days=30)


def explain(
    manifests: Sequence[ManifestObject],
    *,
    now: datetime,
    namespace: str = "default",
    expires_within: timedelta = EXPIRES_WITHIN,
    projects_trust_bundles: bool = False,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Explanation:
    """Say what each container of *manifests* would see.

    Args:
        now: with a time zone; certificates and bootstrap tokens are held against it.
        namespace: of objects that name none.
        expires_within: certificates that end sooner are warned of.
        projects_trust_bundles: whether the node's gate ClusterTrustBundleProjection is on.
        tell: called after each pod with how many are done, of how many.

    Raises:
        UsageError: an object cannot be read at all: a field of the wrong type, no name. Names file and field.
    """
    inventory = take_inventory(manifests, namespace=namespace, projects_trust_bundles=projects_trust_bundles)
    services = known_services(tuple(inventory.services.values()))
    pods = []
    for given in inventory.pods:
        pods.append(_explain_pod(given, inventory, services))
        tell(len(pods), len(inventory.pods))
    return Explanation(
        pods=tuple(pods),
        problems=tuple(_explain_objects(inventory, now, expires_within)),
    )


def _explain_objects(inventory: Inventory, now: datetime, expires_within: timedelta) -> Iterator[Problem]:
    refused = [problem for manifest in inventory.manifests for problem in object_rule_problems(manifest)]
    yield from refused
    own = list(object_problems(inventory, now=now, expires_within=expires_within))
    yield from without_repetitions(own, refused)


def _explain_pod(given: PodManifest, inventory: Inventory, services: tuple[Service, ...]) -> PodView:
    manifest, pod = given.manifest, given.pod
    source = ManifestSource(inventory, manifest.namespace)
    where = f"{manifest.where}: {given.path}"
    refused = tuple(pod_rule_problems(given))
    volumes = explain_volumes(pod, where=where, source=source)
    containers = []
    for kind, field, members in (
        ("init", "initContainers", pod.spec.init_containers),
        ("container", "containers", pod.spec.containers),
        ("ephemeral", "ephemeralContainers", pod.spec.ephemeral_containers),
    ):
        for index, container in enumerate(members):
            spot = f"{where}.{field}[{index}]"
            containers.append(_explain_container(given, kind, container, volumes, services, spot, source, refused))
    return PodView(
        kind=manifest.kind,
        namespace=manifest.namespace,
        name=manifest.name,
        source=manifest.source,
        containers=tuple(containers),
        problems=(
            *refused,
            *without_repetitions(volumes.problems, refused),
            *_pull_secret_problems(given, where, source),
        ),
    )


def _explain_container(
    given: PodManifest,
    kind: str,
    container: Container,
    volumes: Volumes,
    services: tuple[Service, ...],
    where: str,
    source: ManifestSource,
    refused: tuple[Problem, ...],
) -> ContainerView:
    variables = explain_variables(
        given.pod,
        container,
        where=where,
        is_template=given.is_template,
        source=source,
        services=services,
    )
    is_complete = all(problem.severity is not Severity.BLOCKS for problem in variables.problems)
    files = explain_files(
        given.pod,
        container,
        volumes,
        variables.environment,
        where=where,
        is_template=given.is_template,
        source=source,
        is_environment_complete=is_complete,
    )
    return ContainerView(
        name=container.name,
        kind=kind,
        mounts=files.mounts,
        files=files.files,
        variables=variables.views,
        problems=tuple(without_repetitions((*variables.problems, *files.problems), refused)),
    )


def _pull_secret_problems(given: PodManifest, where: str, source: ManifestSource) -> Iterator[Problem]:
    for index, reference in enumerate(given.pod.spec.image_pull_secrets):
        if not reference.name:
            continue
        spot = f"{where}.imagePullSecrets[{index}]"
        secret = source.inventory.secrets.get((source.namespace, reference.name))
        if secret is None:
            yield Problem(
                severity=Severity.WARNING,
                code="missing-pull-secret",
                message=f'secret "{reference.name}" not found; attempting to pull the image may not succeed',
                where=spot,
                hint=source.object_hint("secret", reference.name),
            )
        elif not secret.type.startswith("kubernetes.io/dockerc"):
            yield Problem(
                severity=Severity.WARNING,
                code="pull-secret-ignored",
                message=f'secret "{reference.name}" is of type {secret.type}: no registry credentials are read from it',
                where=spot,
                hint="use type kubernetes.io/dockerconfigjson",
            )
