"""``kubelet-secrets image``: what is in this machine's image store. Talks to no agent: the store is a directory."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from kubelet_secrets.cli.output import human_size, output_option, print_objects, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubelet_secrets.runtime.images import ImageStore

DEFAULT_IMAGE_DIR = Path("/var/lib/kubelet-secrets/images")
image_dir_option = click.option(
    "--image-dir",
    type=click.Path(path_type=Path, file_okay=False, readable=False),
    default=DEFAULT_IMAGE_DIR,
    envvar="KUBELET_SECRETS_IMAGE_DIR",
    show_default=True,
    help="The image store. Images are not secret: it lies on disk and may be shared by several nodes.",
)


@contextmanager
def _open_store(image_dir: Path) -> Iterator[ImageStore]:
    from kubelet_secrets.errors import HostError
    from kubelet_secrets.runtime.images import ImageStore
    from kubelet_secrets.runtime.registry import Registry
    from kubelet_secrets.runtime.tools import find_tools

    if os.geteuid() != 0:
        raise HostError(f"the image store {image_dir} is root's: try again with sudo")
    tools = find_tools()
    # No credentials are written by these commands: an import reads local files.
    with TemporaryDirectory(prefix="kubelet-secrets-image-") as scratch:
        registry = Registry(tools, auth_dir=Path(scratch), scratch_dir=Path(scratch))
        yield ImageStore(Path(os.path.abspath(image_dir)), tools=tools, registry=registry)


@click.group()
def image() -> None:
    """Import, list and remove container images of this machine's store."""


@image.command("import")
@click.argument("source")
@click.argument("name")
@image_dir_option
def import_(source: str, name: str, image_dir: Path) -> None:
    """Take a local image into the store.

    SOURCE is oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE or dir:DIR; NAME is what pods will call it.
    """
    import trio

    with _open_store(image_dir) as store:
        imported = trio.run(store.import_image, source, name)
    click.echo(f"{', '.join(imported.names)} imported ({human_size(imported.size_bytes)})")


@image.command("list")
@output_option("table", "json", "yaml", "name")
@image_dir_option
def list_(output: str, image_dir: Path) -> None:
    """List the images of the store."""
    with _open_store(image_dir) as store:
        images = store.list()
    if output == "name":
        for each in images:
            for name in each.names or (each.image_id,):
                click.echo(name)
    elif output == "table":
        rows = [
            [name, each.id.removeprefix("sha256:")[:12], human_size(each.size_bytes)]
            for each in images
            for name in each.names or ("<none>",)
        ]
        print_table(["IMAGE", "ID", "SIZE"], rows)
    else:
        plain: list[dict[str, Any]] = [
            {
                "id": each.id,
                "names": list(each.names),
                "repoDigests": list(each.repo_digests),
                "sizeBytes": each.size_bytes,
            }
            for each in images
        ]
        print_objects(plain, output)


@image.command("rm")
@click.argument("names", nargs=-1, required=True)
@image_dir_option
def rm(names: tuple[str, ...], image_dir: Path) -> None:
    """Remove images by name. An image that a container uses stays."""
    import trio

    with _open_store(image_dir) as store:
        for name in names:
            trio.run(store.remove, name)
            click.echo(f"{name} removed")
