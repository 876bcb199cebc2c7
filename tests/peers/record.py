"""Record what Kubernetes' own code writes, for the ordinary suite: ``tests/apiserver/vectors``.

    scripts/peer-test --record

The keys are no secrets; nonces are as the real code drew them, so that every run writes other bytes.
"""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kubelet_secrets.apiserver.negotiation import JSON
from kubelet_secrets.apiserver.protobuf_form import MEDIA_TYPE
from kubelet_secrets.apiserver.resources import SERVED
from tests.peers.lives import Lives, outcome_of

VECTORS = Path(__file__).resolve().parents[1] / "apiserver" / "vectors"
KEY, KMS_KEY = bytes(range(32)), bytes(range(32, 64))
_LIVES = 150
PROVIDERS = ("aescbc", "aesgcm", "secretbox", "kms")
OBJECTS: dict[str, dict[str, Any]] = {
    "/registry/secrets/default/db": {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "db", "namespace": "default", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "data": {"password": "czNjcjN0"},
        "type": "Opaque",
    },
    "/registry/minions/n1": {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1"},
        "spec": {"unschedulable": True},
    },
    "/registry/services/specs/default/web": {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.9"},
    },
}


def configuration(provider: str, socket: Path) -> str:
    """An EncryptionConfiguration for everything."""
    key = base64.b64encode(KEY).decode()
    text = f"{provider}: {{keys: [{{name: k, secret: {key}}}]}}"
    if provider == "kms":
        text = f"kms: {{apiVersion: v2, name: k, endpoint: 'unix://{socket}'}}"
    head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
    return f"{head}- resources: ['*.*']\n  providers:\n  - {text}\n"


def record_stored(program: Path) -> list[dict[str, str]]:
    """What each provider stores of each object, in both forms."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        socket, config = Path(directory, "kms.sock"), Path(directory, "enc.yaml")
        with subprocess.Popen([program, "kms", socket, KMS_KEY.hex()]) as plugin:
            try:
                while not socket.exists():
                    time.sleep(0.01)
                for provider in PROVIDERS:
                    config.write_text(configuration(provider, socket))
                    for form in (JSON, MEDIA_TYPE):
                        lines = "".join(
                            json.dumps({"resource": f"{obj['kind'].lower()}s", "key": key, "object": obj}) + "\n"
                            for key, obj in OBJECTS.items()
                        )
                        command = [program, "write", config, form]
                        done = subprocess.run(command, input=lines.encode(), capture_output=True, check=True)
                        for line in map(json.loads, done.stdout.splitlines()):
                            entry = {"provider": provider, "form": form, "key": line["key"], "value": line["value"]}
                            found.append(entry)
            finally:
                plugin.kill()
    return found


def record_lives(program: Path, lives: Sequence[Any]) -> list[Any]:
    """What the real field manager makes of each life, step by step."""
    lines = "".join(json.dumps(steps) + "\n" for steps in lives)
    done = subprocess.run([program], input=lines.encode(), capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def record_upstream(source: Path) -> dict[str, Any]:
    """Kubernetes' own objects for round trips, of every kind that is served."""
    found = {}
    for row in SERVED:
        name = f"{row.resource.group or 'core'}.{row.resource.version}.{row.kind}"
        obj, protobuf = source / f"{name}.json", source / f"{name}.pb"
        found[name] = {
            "object": json.loads(obj.read_text()),
            "protobuf": base64.b64encode(protobuf.read_bytes()).decode(),
        }
    return found


def main(peers: str, source: str) -> None:
    """Args: the directory with the programs, and the one with ``k8s.io``."""
    VECTORS.mkdir(exist_ok=True)
    stored = record_stored(Path(peers) / "atrest")
    (VECTORS / "stored.json").write_text("[\n" + ",\n".join(map(json.dumps, stored)) + "\n]\n")
    supply = Lives(0)
    lives = [supply.next() for _ in range(_LIVES)]
    recorded = [
        {"steps": steps, "outcomes": [outcome_of(outcome) for outcome in outcomes]}
        for steps, outcomes in zip(lives, record_lives(Path(peers) / "fields", lives), strict=True)
    ]
    _write("lives.json.gz", recorded)
    _write("upstream.json.gz", record_upstream(Path(source) / "k8s.io/api/testdata/HEAD"))


def _write(name: str, found: Any) -> None:
    text = json.dumps(found, sort_keys=True, separators=(",", ":"))
    (VECTORS / name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
