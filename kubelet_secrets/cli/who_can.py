"""``kubelet-secrets who-can``: everybody who gets at a Secret, asked of the roles, bindings and pods of a cluster.

The Secret itself is never read. What follows from what is decided in ``apiserver/exposure.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubelet_secrets.cli.output import output_option, print_objects, print_table

if TYPE_CHECKING:
    from kubelet_secrets.api.core import Pod
    from kubelet_secrets.apiserver.exposure import Exposure, Exposures
    from kubelet_secrets.apiserver.rbac import Policy

_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_NOTE = """
Whoever may create pods in a namespace can mount every Secret of it, whatever roles say about secrets. Members of groups are not
known to the API server; `impersonate` on a subject above, and access to the store or its backups, lead to the Secret too."""


@click.command("who-can")
@click.argument("verb", type=click.Choice(["read"]))
@click.argument("resource", type=click.Choice(["secret", "secrets"]))
@click.argument("name")
@click.option("-n", "--namespace", default=None, help="The Secret's namespace; the kubeconfig's when left out.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="KUBECONFIG",
    required=True,
    show_envvar=True,
    help="Of somebody who may list roles, bindings and pods.",
)
@click.option("--context", default=None, help="The kubeconfig's context; its current one when left out.")
@output_option("table", "json", "yaml")
def who_can(
    verb: str, resource: str, name: str, namespace: str | None, kubeconfig: Path, context: str | None, output: str
) -> None:
    """Say who gets at a Secret: by reading it, by creating pods in its namespace, by exec into a pod that has it, as a node.

    Each line names the binding it comes from. The Secret is not read and need not exist.

        kubelet-secrets who-can read secret db-password -n prod
    """
    import trio

    chosen, exposures = trio.run(_ask, kubeconfig, context, namespace, name)
    if output == "table":
        _print_table(exposures)
    else:
        print_objects(_plain(chosen, name, exposures), output)


async def _ask(kubeconfig: Path, context: str | None, namespace: str | None, name: str) -> tuple[str, Exposures]:
    from kubelet_secrets.apiserver.exposure import find_exposures
    from kubelet_secrets.client.kubeconfig import load_kubeconfig
    from kubelet_secrets.client.rest import open_client

    config = load_kubeconfig(kubeconfig, context)
    chosen = namespace or config.namespace or "default"
    async with open_client(config) as client:
        policy = await _policy(client.request_json, chosen)
        pods = await _pods(client.request_json, chosen)
    return chosen, find_exposures(policy, chosen, name, pods)


async def _policy(request_json: Any, namespace: str) -> Policy:
    from kubelet_secrets.apiserver.rbac import Policy

    policy = Policy()
    for where, prefix in (("", "cluster"), (namespace, "")):
        base = f"{_RBAC}/namespaces/{where}" if where else _RBAC
        for obj in (await request_json("GET", f"{base}/{prefix}roles"))["items"]:
            policy.set_role(where, obj["metadata"]["name"], obj)
        for obj in (await request_json("GET", f"{base}/{prefix}rolebindings"))["items"]:
            policy.set_binding(where, obj["metadata"]["name"], obj)
    return policy


async def _pods(request_json: Any, namespace: str) -> list[Pod]:
    from kubelet_secrets.api.core import Pod
    from kubelet_secrets.api.decode import convert

    return [convert(obj, Pod) for obj in (await request_json("GET", f"/api/v1/namespaces/{namespace}/pods"))["items"]]


def _print_table(exposures: Exposures) -> None:
    rows = [
        [entry.way.value, entry.subject.kind, _subject(entry), _verbs(entry), _origin(entry)]
        for entry in exposures.found
    ]
    print_table(["BY", "KIND", "WHO", "MAY", "FROM"], rows)
    for text in exposures.broken:
        click.echo(f"leads nowhere: {text}", err=True)
    click.echo(_NOTE, err=True)


def _subject(entry: Exposure) -> str:
    subject = entry.subject
    return f"{subject.namespace}/{subject.name}" if subject.kind == "ServiceAccount" else subject.name


def _verbs(entry: Exposure) -> str:
    shown = ", ".join(entry.verbs[:4])
    return f"{shown}, … ({len(entry.verbs)})" if len(entry.verbs) > 4 else shown


def _origin(entry: Exposure) -> str:
    binding = entry.binding
    pods = f"pod {', '.join(entry.pods)}" if entry.pods else ""
    if binding is None:
        return f"the Node authorizer: {pods}" if pods else "built in: passes every authorizer"
    place = f"{binding.namespace}/{binding.name}" if binding.namespace else binding.name
    origin = f"{binding.kind} {place} of {binding.role_kind} {binding.role_name}"
    return f"{origin}: {pods}" if pods else origin


def _plain(namespace: str, name: str, exposures: Exposures) -> dict[str, Any]:
    return {
        "secret": {"namespace": namespace, "name": name},
        "access": [_plain_entry(entry) for entry in exposures.found],
        "broken": list(exposures.broken),
    }


def _plain_entry(entry: Exposure) -> dict[str, Any]:
    subject, binding = entry.subject, entry.binding
    plain: dict[str, Any] = {
        "by": entry.way.value,
        "subject": {"kind": subject.kind, "name": subject.name},
        "verbs": list(entry.verbs),
    }
    if subject.namespace:
        plain["subject"]["namespace"] = subject.namespace
    if entry.pods:
        plain["pods"] = list(entry.pods)
    if binding is not None:
        plain["binding"] = {"kind": binding.kind, "name": binding.name}
        if binding.namespace:
            plain["binding"]["namespace"] = binding.namespace
        plain["role"] = {"kind": binding.role_kind, "name": binding.role_name}
    return plain
