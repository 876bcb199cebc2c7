"""What happens to every write between authorization and the store: rules that need more than the object itself.

An ordered chain of plugins, each with upstream's name and texts. Mutation runs before defaults are final, validation on the
finished object. Not here: what one kind's strategy does (``strategy.py``), defaults and field rules (``api/``).

Source: k8s.io/apiserver pkg/admission; plugin/pkg/admission/serviceaccount/admission.go; namespace/lifecycle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from kubelet_secrets.api import meta
from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import DecodeError, convert
from kubelet_secrets.api.references import secret_names
from kubelet_secrets.api.serviceaccount import add_token_volume, wants_token
from kubelet_secrets.api.staticpod import CONFIG_MIRROR
from kubelet_secrets.api.validation.fields import invalid_message, status_causes
from kubelet_secrets.api.validation.objects import validate_object
from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.attributes import Admission, Attributes, Write
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.listing import Page, Stored
from kubelet_secrets.apiserver.names import generate_name
from kubelet_secrets.apiserver.resources import ServedResource, served
from kubelet_secrets.apiserver.selection import Selection

_NAMESPACES = served(meta.NAMESPACES)
_SERVICE_ACCOUNTS = served(meta.SERVICE_ACCOUNTS)
IMMORTAL_NAMESPACES = ("default", "kube-system", "kube-public")
_WAIT_FOR_ACCOUNT_S = 1.0


class Finder(Protocol):
    """What plugins need of the registry."""

    async def find(self, row: ServedResource, namespace: str, name: str) -> Stored | None: ...

    async def list_objects(self, selection: Selection) -> Page: ...

    async def update(
        self, row: ServedResource, namespace: str, name: str, change: Callable[[Object], Object], write: Write
    ) -> Object: ...


class Plugin:
    """One rule. Both hooks do nothing unless overridden."""

    async def mutate(self, attributes: Attributes, finder: Finder) -> None:
        """Change ``attributes.obj`` in place."""

    async def validate(self, attributes: Attributes, finder: Finder) -> None:
        """Raise what forbids the write."""


class Chain(Admission):
    """The plugins in order. *finder* comes after construction, because the registry needs its admission first."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self._plugins = tuple(plugins)
        self._finder: Finder | None = None

    def bind(self, finder: Finder) -> None:
        self._finder = finder

    async def mutate(self, attributes: Attributes) -> None:
        assert self._finder is not None
        for plugin in self._plugins:
            await plugin.mutate(attributes, self._finder)

    async def validate(self, attributes: Attributes) -> None:
        assert self._finder is not None
        for plugin in self._plugins:
            await plugin.validate(attributes, self._finder)


class NamespaceLifecycle(Plugin):
    """Nothing is created in a namespace that is absent or going; the system's namespaces stay.

    Source: k8s.io/apiserver pkg/admission/plugin/namespace/lifecycle/admission.go.
    """

    async def validate(self, attributes: Attributes, finder: Finder) -> None:
        row = attributes.row
        if row.kind == "Namespace":
            if attributes.verb == "delete" and attributes.name in IMMORTAL_NAMESPACES:
                raise statuses.forbidden(row, attributes.name, "this namespace may not be deleted")
            return
        if attributes.verb != "create" or not row.namespaced:
            return
        namespace = await finder.find(_NAMESPACES, "", attributes.namespace)
        if namespace is None:
            raise statuses.not_found(_NAMESPACES, attributes.namespace)
        if "deletionTimestamp" in namespace.object["metadata"]:
            name = attributes.namespace
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {name} is being terminated",
                "field": "metadata.namespace",
            }
            raise statuses.forbidden(
                row,
                attributes.name,
                f"unable to create new content in namespace {name} because it is being terminated",
                [cause],
            )


class ServiceAccounts(Plugin):
    """A pod runs as a service account of its namespace, mounts a token of it, and takes over its imagePullSecrets.

    Source: plugin/pkg/admission/serviceaccount/admission.go.
    """

    async def mutate(self, attributes: Attributes, finder: Finder) -> None:
        pod = attributes.obj
        if attributes.row.kind != "Pod" or attributes.verb != "create" or attributes.subresource or pod is None:
            return
        if CONFIG_MIRROR in (pod["metadata"].get("annotations") or {}):
            return  # static pods have no API identity
        spec = pod.setdefault("spec", {})
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = await self._wait_account(attributes.namespace, name, finder)
        if account is None:
            lookup = (
                f'error looking up service account {attributes.namespace}/{name}: serviceaccount "{name}" not found'
            )
            raise statuses.forbidden(attributes.row, attributes.name, lookup)
        if wants_token(pod, account.object):
            add_token_volume(pod, generate_name)
        pull_secrets = account.object.get("imagePullSecrets")
        if pull_secrets and not spec.get("imagePullSecrets"):
            spec["imagePullSecrets"] = pull_secrets

    async def validate(self, attributes: Attributes, finder: Finder) -> None:
        pod = attributes.obj
        if attributes.row.kind != "Pod" or attributes.verb != "create" or attributes.subresource or pod is None:
            return
        if CONFIG_MIRROR in (pod["metadata"].get("annotations") or {}) and (cause := mirror_pod_fault(pod)):
            raise statuses.forbidden(attributes.row, attributes.name, cause)

    async def _wait_account(self, namespace: str, name: str, finder: Finder) -> Stored | None:
        """The controller makes ``default`` just after the namespace: as upstream, only that one is waited for."""
        account = await finder.find(_SERVICE_ACCOUNTS, namespace, name)
        if account is not None or name != "default":
            return account
        if await finder.find(_NAMESPACES, "", namespace) is None:
            raise statuses.not_found(_NAMESPACES, namespace)
        with trio.move_on_after(_WAIT_FOR_ACCOUNT_S):
            while account is None:
                await trio.sleep(0.01)
                account = await finder.find(_SERVICE_ACCOUNTS, namespace, name)
        return account


def mirror_pod_fault(pod: Object) -> str:
    """Why a mirror pod is refused: it has no identity, so it may use none. Empty when it is not."""
    spec = pod.get("spec") or {}
    if spec.get("serviceAccountName"):
        return "a mirror pod may not reference service accounts"
    try:
        if secret_names(convert(pod, Pod)):
            return "a mirror pod may not reference secrets"
    except DecodeError:
        return ""  # validation says why
    for volume in spec.get("volumes") or ():
        sources = (volume.get("projected") or {}).get("sources") or ()
        if any(source.get("serviceAccountToken") is not None for source in sources):
            return "a mirror pod may not use ServiceAccountToken volume projections"
    return ""


class ObjectRules(Plugin):
    """The field rules of the object's kind."""

    async def validate(self, attributes: Attributes, finder: Finder) -> None:
        obj, row = attributes.obj, attributes.row
        if obj is None:
            return
        found = validate_object(obj, attributes.old, attributes.subresource)
        if found:
            kind = f"{row.kind}.{row.resource.group}" if row.resource.group else row.kind
            name = str(obj["metadata"].get("name", ""))
            raise statuses.invalid(row, name, invalid_message(kind, name, found), status_causes(found))
