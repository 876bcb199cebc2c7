"""``kubelet-secrets image``: what is in this machine's image store. Talks to no agent: the store is a directory."""

from __future__ import annotations

from pathlib import Path

import click

from kubelet_secrets.cli.output import human_size, print_objects, print_table

DEFAULT_IMAGE_DIR = Path("/var/lib/kubelet-secrets/images")
image_dir_option = click.option(
    "--image-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_IMAGE_DIR,
    show_default=True,
    help="The image store. Images are not secret: it lies on disk and may be shared by several nodes.",
)


@click.group()
def image() -> None:
    """Import, list and remove container images of this machine's store."""
