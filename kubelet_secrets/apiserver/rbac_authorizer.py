"""The RBAC authorizer, and the roles and bindings it knows: a listener of the store, so a binding counts with its revision.

Upstream's informers lag a moment behind; here a permission given or taken is in force when its write is acknowledged.

Source: plugin/pkg/auth/authorizer/rbac/rbac.go.
"""

from __future__ import annotations

from kubelet_secrets.apiserver import codec
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.authz import Verdict
from kubelet_secrets.apiserver.encryption import TransformError
from kubelet_secrets.apiserver.rbac import Policy, Resolution, find_grant, resolve
from kubelet_secrets.apiserver.requestinfo import RequestInfo
from kubelet_secrets.apiserver.storage import Change, Storage
from kubelet_secrets.apiserver.storagepaths import prefix_of, split_key
from kubelet_secrets.apiserver.stored import open_object
from kubelet_secrets.errors import aggregate_message

_PLURALS = ("roles", "rolebindings", "clusterroles", "clusterrolebindings")


class RbacAuthorizer:
    """See the module's text. :meth:`observe` is a listener of the store."""

    def __init__(self) -> None:
        self.policy = Policy()

    async def load(self, storage: Storage) -> None:
        """Take in what is stored already. Raises: TransformError: one cannot be read; it is named."""
        for plural in _PLURALS:
            for record in storage.records(prefix_of(plural)):
                try:
                    self._set(record.key, (await open_object(storage, record)).value)
                except TransformError as error:
                    raise TransformError(f'unable to transform key "{record.key}": {error}') from None

    def observe(self, change: Change) -> None:
        """Take in one committed change of anything."""
        self._set(change.key, change.value)

    def _set(self, key: str, value: bytes | None) -> None:
        plural, namespace, name = split_key(key)
        if plural not in _PLURALS:
            return
        obj = codec.decode(value, 0) if value is not None else None
        if plural.endswith("roles"):
            self.policy.set_role(namespace, name, obj)
        else:
            self.policy.set_binding(namespace, name, obj)

    async def authorize(self, user: User, request: RequestInfo) -> Verdict:
        found = self.resolve(user, request.namespace if request.is_resource else "")
        grant = find_grant(found.grants, request)
        if grant is not None:
            return Verdict(True, f"RBAC: allowed by {grant.binding.describe(grant.subject)}")
        return Verdict(False, f"RBAC: {aggregate_message(found.errors)}" if found.errors else "")

    def resolve(self, user: User, namespace: str) -> Resolution:
        """Every rule *user* has for requests in *namespace*."""
        return resolve(self.policy, user, namespace)
