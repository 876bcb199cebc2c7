"""``Origin``: where the value of one variable or the content of one file comes from.

Pure data, shared by ``volume`` (each file of a payload has one) and ``envvars`` (each variable has one), and shown by
``explain``, ``why``, ``env`` and ``tree``. An origin names things - an object, a key, a field path - and never holds a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OriginKind(StrEnum):
    """The value is the word users see first."""

    SECRET = "secret"
    CONFIG_MAP = "configmap"
    FIELD = "field"  # fieldRef: key is the field path
    RESOURCE_FIELD = "resourceField"  # resourceFieldRef: name is the container ("" = its own), key the resource
    SERVICE = "service"
    LITERAL = "literal"  # `value:` in the pod spec
    FILE = "file"  # fileKeyRef: name is the volume and the path in it
    TOKEN = "serviceaccounttoken"  # name is the service account, key the audience ("" = the API server's default)
    TRUST_BUNDLE = "clustertrustbundle"  # name is the bundle or the signer
    POD_CERTIFICATE = "podcertificate"
    IMAGE = "image"  # ENV of the image, underneath all others


_SECRET_KINDS = frozenset({OriginKind.SECRET, OriginKind.TOKEN, OriginKind.FILE, OriginKind.POD_CERTIFICATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One source of a value. ``str()`` is its text form, for example ``secret/db-password key password``."""

    kind: OriginKind
    namespace: str = ""
    name: str = ""
    key: str = ""
    resource_version: str = ""  # of the object that was read; "" offline and where there is no object

    @property
    def is_secret(self) -> bool:
        """Whether a value from here is to be masked. (A literal that expands a secret is not known here: see EnvEntry.)"""
        return self.kind in _SECRET_KINDS

    def __str__(self) -> str:
        match self.kind:
            case OriginKind.FIELD:
                return f"field {self.key}"
            case OriginKind.RESOURCE_FIELD:
                return f"resourceField {self.key}" + (f" of container {self.name}" if self.name else "")
            case OriginKind.LITERAL:
                return "literal"
            case OriginKind.SERVICE:
                return f"service/{self.name}" + (f" in {self.namespace}" if self.namespace else "")
            case OriginKind.TOKEN:
                return f"token of serviceaccount/{self.name}" + (f" for audience {self.key}" if self.key else "")
            case _:
                return f"{self.kind}/{self.name}" + (f" key {self.key}" if self.key else "")


LITERAL = Origin(kind=OriginKind.LITERAL)
