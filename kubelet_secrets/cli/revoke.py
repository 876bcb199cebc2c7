"""``kubelet-secrets revoke``: end the readability of one volume of one pod. Asks the agent over its socket; imports little."""

from __future__ import annotations

import click

from kubelet_secrets.cli.inspect import namespace_option, socket_option
from kubelet_secrets.cli.output import output_option, print_objects
from kubelet_secrets.control.client import ask_one
from kubelet_secrets.control.protocol import RevokeView


@click.command()
@click.argument("pod")
@click.argument("volume")
@namespace_option
@click.option("--undo", is_flag=True, help="Give it back: what is still open reads again.")
@output_option("table", "json", "yaml")
@socket_option
def revoke(pod: str, volume: str, namespace: str, undo: bool, output: str, socket: str) -> None:
    """End the readability of VOLUME of POD at once: for an incident, when deleting the pod is not the first thing to do.

    When this returns, every open, read and listing of the volume's files is refused (EACCES), also through descriptors that
    are open already, wherever they were passed, and an access to a mapping of one ends in SIGBUS. The containers run on. What a
    process has read, and variables set from the same Secret, are its own: rotate the Secret as well.

    A revocation holds until --undo or the end of the pod, over restarts of containers and agent. A new pod of the same name
    starts without. It shows in `tree`, `why`, `status` and `audit`, and as an event of the pod.
    """
    view = ask_one(socket, "revoke", RevokeView, namespace=namespace, pod=pod, volume=volume, undo=undo)
    if output != "table":
        print_objects(view, output)
        return
    subject = f"volume {view.volume} of pod {view.namespace}/{view.pod}"
    if view.revoked:
        again = "revoked" if view.changed else f"revoked since {view.since}"
        click.echo(f"{subject} {again}: {view.files} files read no more")
    else:
        click.echo(f"{subject} {'restored' if view.changed else 'was not revoked'}")
