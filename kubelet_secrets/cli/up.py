"""``kubelet-secrets up``: an embedded API server and a node, in the foreground, with the given manifests applied.

Shows what is happening as it happens: a table that updates itself on a terminal, one line per change otherwise.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from kubelet_secrets.cli.apiserver import encryption_file, encryption_options
from kubelet_secrets.cli.node_options import audit_journal, default_node_name, node_options


@click.command()
@click.option(
    "-f",
    "--filename",
    "filenames",
    multiple=True,
    help="A manifest, a directory of manifests, or - for standard input. May be given several times.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Where to write the admin's kubeconfig, 0600.  [default: on a tmpfs below /run/kubelet-secrets]",
)
@click.option("--port", type=click.IntRange(0, 65535), default=6443, show_default=True, help="0 takes any free port.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, readable=False),
    default=None,
    help="Keep the API server's objects in SQLite there.  [default: in memory]",
)
@encryption_options
@node_options
@click.pass_obj
def up(verbose: int | None, /, filenames: tuple[str, ...], **options: Any) -> None:
    """Run an embedded API server and a node on this machine, and apply manifests.

    Prints `ready` and the kubeconfig's path when the node takes pods. Ctrl-C or SIGTERM stops the containers and leaves no
    mount, process, cgroup or file behind.
    """
    import trio

    from kubelet_secrets.fusefs.hardening import harden_process
    from kubelet_secrets.manifests import read_manifests
    from kubelet_secrets.stack import StackOptions

    harden_process()  # it holds the admin's key, and the Secrets among the manifests
    manifests = [manifest.obj for manifest in read_manifests(filenames)] if filenames else []
    kubeconfig, data_dir, static_pods = options["kubeconfig"], options["data_dir"], options["pod_manifest_path"]
    cni_conf_dir = options["cni_conf_dir"]
    encryption_reloads = options["encryption_provider_config_automatic_reload"]
    stack_options = StackOptions(
        node_name=options["node_name"] or default_node_name(),
        root_dir=Path(os.path.abspath(options["root_dir"])),
        image_dir=Path(os.path.abspath(options["image_dir"])),
        socket=Path(os.path.abspath(options["socket"])),
        kubeconfig=Path(os.path.abspath(kubeconfig)) if kubeconfig else None,
        port=options["port"],
        data_dir=Path(os.path.abspath(data_dir)) if data_dir else None,
        encryption_config=encryption_file(options["encryption_provider_config"], encryption_reloads),
        encryption_reloads=encryption_reloads,
        runtime=options["runtime"],
        change_detection=options["change_detection"],
        projects_trust_bundles=options["cluster_trust_bundle_projection"],
        emulates_delays=options["emulate_kubelet_delays"],
        pod_manifest_path=Path(os.path.abspath(static_pods)) if static_pods else None,
        max_pods=options["max_pods"],
        allowed_unsafe_sysctls=options["allowed_unsafe_sysctls"],
        cluster_dns=options["cluster_dns"],
        cluster_domain=options["cluster_domain"],
        resolv_conf=Path(os.path.abspath(options["resolv_conf"])),
        eviction_hard=options["eviction_hard"],
        image_gc_high_percent=options["image_gc_high_threshold"],
        image_gc_low_percent=options["image_gc_low_threshold"],
        max_parallel_image_pulls=options["max_parallel_image_pulls"],
        registry_qps=options["registry_qps"],
        registry_burst=options["registry_burst"],
        image_verification=options["image_verification"],
        image_allow_list=options["image_allow_list"],
        kubelet_address=options["kubelet_address"] or "127.0.0.1",
        kubelet_port=options["kubelet_port"] or 0,
        healthz_address=options["healthz_bind_address"],
        healthz_port=options["healthz_port"] or 0,
        cni_conf_dir=Path(os.path.abspath(cni_conf_dir)) if cni_conf_dir else None,
        cni_bin_dirs=tuple(Path(os.path.abspath(each)) for each in options["cni_bin_dirs"]),
        store_size_bytes=options["store_size"],
        store_files=options["store_files"],
        pod_store_size_bytes=options["pod_store_size"],
        pod_store_files=options["pod_store_files"],
        scratch_size_bytes=options["scratch_size"],
        logs_size_bytes=options["logs_size"],
        audit_file=Path(os.path.abspath(options["audit_file"])) if options["audit_file"] else None,
        audit_journal=audit_journal(options["audit_journal"]),
        stop_grace_s=options["stop_grace"],
        verbose=verbose or 0,
    )
    trio.run(_up, stack_options, manifests)


async def _up(options: Any, manifests: list[dict[str, Any]]) -> None:
    from kubelet_secrets.errors import HostError
    from kubelet_secrets.stack import run_stack

    async with stoppable() as nursery:
        async with run_stack(options, progress=lambda line: click.echo(f"  {line}")) as stack:
            click.echo("ready")
            click.echo(f"  export KUBECONFIG={stack.kubeconfig}")
            for manifest in manifests:
                click.echo("  " + await apply(stack.client, manifest))
            sys.stdout.flush()
            nursery.start_soon(_show, stack)
            ended = await stack.wait_stopped()
            # Not reached after Ctrl-C: the signal cancels the wait.
            raise HostError(f"the {ended} stopped by itself (exit status {stack.stopped[ended]})")
    click.echo("stopped; nothing is left behind")


@asynccontextmanager
async def stoppable() -> AsyncIterator[Any]:
    """A block with a nursery, which the first SIGINT, SIGTERM or SIGHUP cancels.

    Later signals wait for the user's patience: they must not kill the clean-up half-way, which takes a bounded time.
    """
    import trio

    async def cancel_at_first(scope: trio.CancelScope) -> None:
        async for _ in signals:
            if not scope.cancel_called:
                click.echo("stopping: containers, mounts, server", err=True)
                scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as listening:
            async with trio.open_nursery() as nursery:
                # Not in the inner nursery: it has to outlive what it cancels.
                listening.start_soon(cancel_at_first, nursery.cancel_scope)
                yield nursery
                nursery.cancel_scope.cancel()
            listening.cancel_scope.cancel()


async def apply(client: Any, manifest: dict[str, Any]) -> str:
    """Apply one manifest and say what was done, in kubectl's words: ``pod/web created``."""
    return str(await client.apply(manifest))


async def _show(stack: Any) -> None:
    from kubelet_secrets.cli.progress import watch_lines, watch_table

    show: Callable[[Any], Awaitable[None]] = watch_table if sys.stdout.isatty() else watch_lines
    await show(stack.client)
