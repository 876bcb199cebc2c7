"""``kubelet-secrets apiserver``: the embedded API server alone."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kubelet_secrets.apiserver.process import ServerOptions


def encryption_options(command: Callable[..., None]) -> Callable[..., None]:
    """What ``apiserver`` and ``up`` share, by kube-apiserver's names."""
    reload = click.option(
        "--encryption-provider-config-automatic-reload",
        is_flag=True,
        help="Follow changes of that file; a broken one is logged and the last good one kept.",
    )
    file = click.option(
        "--encryption-provider-config",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        help="An EncryptionConfiguration: which resources are encrypted in the store, and how.",
    )
    return file(reload(command))


def encryption_file(path: Path | None, reloads: bool) -> Path | None:
    """The file, its path made absolute. Raises: UsageError: there is nothing to reload."""
    if path is None and reloads:
        raise click.UsageError(
            "--encryption-provider-config-automatic-reload must be set with --encryption-provider-config"
        )
    return Path(os.path.abspath(path)) if path is not None else None


class _ServerGroup(click.Group):
    """``apiserver`` runs the server; ``apiserver keys`` does something else, and is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["keys"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "keys":
            return None
        from kubelet_secrets.cli.keys import keys

        return keys


@click.group(cls=_ServerGroup, invoke_without_command=True)
@click.option(
    "--in-memory", is_flag=True, help="Keep objects in memory: they end with the server. This is the default."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, readable=False),
    default=None,
    help="Keep objects in SQLite there. Secrets are encrypted; without --encryption-provider-config with a generated key that "
    "lies there too.",
)
@encryption_options
@click.option(
    "--storage-media-type",
    type=click.Choice(["application/json", "application/vnd.kubernetes.protobuf"]),
    default="application/json",
    show_default=True,
    help="The form in which objects are stored and encrypted; both are read in any case. kube-apiserver's default is protobuf.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=6443, show_default=True, help="0 takes any free port.")
@click.option("--bind-address", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Where to write the admin's kubeconfig, 0600. Best on a tmpfs. Required.",
)
@click.option(
    "--local-node",
    default=None,
    help="The node of this machine: its kubelet is reached at 127.0.0.1 for logs and exec.  [default: --node-name]",
)
@click.option("--node-name", default=None, help="With --node-kubeconfig: the name of the node.")
@click.option(
    "--node-kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Where to write a kubeconfig of the identity system:node:<node name>, 0600.",
)
@click.pass_context
def apiserver(
    ctx: click.Context,
    /,
    in_memory: bool,
    data_dir: Path | None,
    storage_media_type: str,
    port: int,
    bind_address: str,
    kubeconfig: Path | None,
    node_name: str | None,
    local_node: str | None,
    node_kubeconfig: Path | None,
    encryption_provider_config: Path | None,
    encryption_provider_config_automatic_reload: bool,
) -> None:
    """Run the embedded API server alone, over TLS with its own certificate authority, until SIGTERM or Ctrl-C.

    It speaks to kubectl as a real one does. Nodes are held to what the Node authorizer allows them.
    """
    if ctx.invoked_subcommand is not None:
        return
    if kubeconfig is None:
        raise click.MissingParameter(ctx=ctx, param_hint="'--kubeconfig'", param_type="option")
    try:
        import trio

        from kubelet_secrets.apiserver.process import ServerOptions
    except ModuleNotFoundError as error:
        from kubelet_secrets.errors import HostError

        raise HostError(f"{error.name} is not installed: pip install 'kubelet-secrets[server]'") from None

    if in_memory and data_dir is not None:
        raise click.UsageError("--in-memory and --data-dir exclude each other")
    if (node_name is None) != (node_kubeconfig is None):
        raise click.UsageError("--node-name and --node-kubeconfig go together")
    if data_dir is not None:
        data_dir = Path(os.path.abspath(data_dir))
    options = ServerOptions(
        host=bind_address,
        port=port,
        local_node=local_node or node_name or "",
        data_dir=data_dir,
        storage_media_type=storage_media_type,
        encryption_config=encryption_file(encryption_provider_config, encryption_provider_config_automatic_reload),
        encryption_reloads=encryption_provider_config_automatic_reload,
    )
    trio.run(_serve, options, kubeconfig, node_name, node_kubeconfig)


async def _serve(options: ServerOptions, kubeconfig: Path, node_name: str | None, node_kubeconfig: Path | None) -> None:
    import trio

    from kubelet_secrets.apiserver.process import serve_apiserver, write_kubeconfig
    from kubelet_secrets.errors import HostError
    from kubelet_secrets.fusefs.hardening import harden_process, set_parent_death_signal
    from kubelet_secrets.notify import notify

    harden_process()  # it holds every Secret of the cluster
    # A connection takes a descriptor, and a thousand watchers may have one each. Go's runtime does the same for kube-apiserver.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if os.environ.get("KS_PDEATHSIG"):
        set_parent_death_signal(signal.SIGTERM)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            handle = await nursery.start(serve_apiserver, options)
            try:
                write_kubeconfig(kubeconfig, handle.admin_kubeconfig())
                if node_name is not None and node_kubeconfig is not None:
                    write_kubeconfig(node_kubeconfig, handle.node_kubeconfig(node_name))
            except OSError as error:
                raise HostError(f"cannot write {error.filename}: {error.strerror}") from None
            if not notify("READY=1"):  # nobody is told that way: say it
                click.echo(f"ready at {handle.url}\n  export KUBECONFIG={kubeconfig}")
            async for _ in signals:
                break
            notify("STOPPING=1")
            handle.shut_down()
