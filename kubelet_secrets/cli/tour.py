"""What the demo shows and what it runs: the printed steps, and the manifests. ``demo.py`` walks through them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

IMAGE = "localhost/busybox:1"


class Tour:
    """Prints the steps and remembers whether each held."""

    def __init__(self) -> None:
        self.held = True
        self.started = time.monotonic()
        self._number = 0

    def step(self, title: str, promise: str) -> None:
        self._number += 1
        click.echo()
        click.secho(f"{self._number}. {title}", bold=True)
        click.echo(f"   {promise}")

    def show(self, text: str) -> None:
        for line in text.rstrip("\n").splitlines():
            click.secho(f"     {line}", fg="cyan")

    def check(self, holds: bool, statement: str) -> None:
        self.held = self.held and holds
        mark, colour = ("✓", "green") if holds else ("✗", "red")
        click.secho(f"   {mark} {statement}", fg=colour)


def manifest(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, **fields}


def shop_pod(pods_dir: Path) -> dict[str, Any]:
    """A pod whose container ``app`` mounts the Secret; ``sidecar`` gets the node's own directory instead, like an attacker."""
    forever = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
    app = {
        "name": "app",
        "image": IMAGE,
        "command": forever,
        "env": [{"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}],
        "volumeMounts": [{"name": "db", "mountPath": "/etc/db", "readOnly": True}],
    }
    sidecar = {
        "name": "sidecar",
        "image": IMAGE,
        "command": forever,
        "volumeMounts": [{"name": "node", "mountPath": "/node", "readOnly": True}],
    }
    volumes = [
        {"name": "db", "secret": {"secretName": "db", "defaultMode": 0o444}},
        {"name": "node", "hostPath": {"path": str(pods_dir), "type": "Directory"}},
    ]
    spec = {"containers": [app, sidecar], "volumes": volumes, "terminationGracePeriodSeconds": 2}
    return manifest("Pod", "shop", spec=spec)
