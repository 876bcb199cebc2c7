"""Values that kube-apiserver's own code has stored open here: every provider, both forms, keys of every shape.

``tests/peers/record.py`` recorded them with k8s.io/apiserver, client-go and k8s.io/kms of 1.36.4; ``tests/peers`` holds the
two against each other afresh, in both directions, where that code is at hand.
"""

from __future__ import annotations

import base64
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from kubelet_secrets.apiserver import codec
from kubelet_secrets.apiserver.encryption_source import open_source
from kubelet_secrets.apiserver.storage import Record, Storage
from kubelet_secrets.apiserver.stored import open_object
from tests.apiserver.kms_plugin import Plugin
from tests.apiserver.test_protobuf_form import telling
from tests.peers.record import KMS_KEY, OBJECTS, PROVIDERS, VECTORS, configuration

RECORDED = json.loads((VECTORS / "stored.json").read_text())


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_kube_apiserver_stored_opens(tmp_path: Path, provider: str) -> None:
    plugin = Plugin(tmp_path / "kms.sock")
    plugin.key_id, plugin.keys["peer-1"] = "peer-1", KMS_KEY
    plugin.annotations = {"peer.example.com": b"1"}
    config = tmp_path / "enc.yaml"
    config.write_text(configuration(provider, plugin.path))
    vectors = [entry for entry in RECORDED if entry["provider"] == provider]
    assert len(vectors) == 2 * len(OBJECTS)
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            if provider == "kms":
                await stack.enter_async_context(plugin.running())
            source = await open_source(config)
            storage = Storage(transformer_for=source.transformer_for)
            for entry in vectors:
                record = Record(entry["key"], 1, 1, base64.b64decode(entry["value"]))
                opened = await open_object(storage, record)
                assert not opened.is_stale
                found = telling(codec.decode(opened.value, 1))
                found["metadata"].pop("resourceVersion", None)
                assert found == OBJECTS[entry["key"]]
