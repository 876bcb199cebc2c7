"""A kubeconfig file as it is written. Nothing is checked here but the types; ``kubeconfig.py`` reads it.

Source: k8s.io/client-go/tools/clientcmd/api/v1/types.go.
"""

from __future__ import annotations

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """A mapping of the file; what is not named here is passed over."""


class Cluster(Part, frozen=True):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class EnvVar(Part, frozen=True):
    name: str = ""
    value: str = ""


class Exec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    command: str = ""
    args: list[str] = []
    env: list[EnvVar] = []
    api_version: str = ""
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


class User(Part, frozen=True):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    auth_provider: object = None
    impersonate: str = msgspec.field(default="", name="as")
    exec: Exec | None = None


class Context(Part, frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class NamedCluster(Part, frozen=True):
    name: str = ""
    cluster: Cluster = Cluster()


class NamedUser(Part, frozen=True):
    name: str = ""
    user: User = User()


class NamedContext(Part, frozen=True):
    name: str = ""
    context: Context = Context()


class Kubeconfig(Part, frozen=True):
    clusters: list[NamedCluster] = []
    users: list[NamedUser] = []
    contexts: list[NamedContext] = []
    current_context: str = ""
