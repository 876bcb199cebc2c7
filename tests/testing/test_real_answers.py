"""A real kube-apiserver and the embedded one give a node the same answers: what it may, and what it is refused for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2
import pytest
import trio

from kubelet_secrets.client.kubeconfig import ClusterConfig, load_kubeconfig
from tests.node.joining import open_joinable
from tests.podexec import ssl_context
from tests.testing.conftest import PlaneNode
from tests.testing.noderequests import MINE, NODES, QUESTIONS, SETUP, THEIRS, Question

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]  # of the node that it shares with the other modules

AS_NODE = {"Impersonate-User": f"system:node:{MINE}", "Impersonate-Group": "system:nodes"}
PATIENCE_S = 30.0


async def ask_all(config: ClusterConfig) -> list[int]:
    """The status of every answer, in order."""
    async with httpx2.AsyncClient(verify=ssl_context(config), base_url=config.server, timeout=60) as client:
        uids = await set_up(client)
        first = next(each for each in QUESTIONS if each.path.endswith("/secrets/s"))
        with trio.fail_after(PATIENCE_S):
            while await ask(client, first, uids) != 200:  # noqa: ASYNC110  # the authorizer's graph lags behind the binding
                await trio.sleep(0.1)
        try:
            return [await ask(client, each, uids) for each in QUESTIONS]
        finally:
            for name in (MINE, THEIRS):
                await client.delete(f"{NODES}/{name}")


async def set_up(client: httpx2.AsyncClient) -> Mapping[str, str]:
    """Name → uid. The namespace has no account at first, without which no pod is admitted."""
    uids: dict[str, str] = {}
    with trio.fail_after(PATIENCE_S):
        for path, body in SETUP:
            while (made := await client.post(path, json=body)).status_code not in (200, 201):
                assert made.status_code in (403, 500), made.text
                await trio.sleep(0.1)
            uids[body["metadata"]["name"]] = made.json()["metadata"]["uid"]
    return uids


async def ask(client: httpx2.AsyncClient, question: Question, uids: Mapping[str, str]) -> int:
    text = json.dumps(question.body) if question.body is not None else None
    for name, uid in uids.items():
        text = text and text.replace(f'"@{name}"', f'"{uid}"')
    headers = AS_NODE | ({"Content-Type": question.content_type} if text else {})
    answer = await client.request(question.method, question.path, content=text, headers=headers)
    return answer.status_code


def differences(real: Sequence[int], ours: Sequence[int]) -> list[str]:
    return [
        f"{question}: {there} there, {here} here"
        for question, there, here in zip(QUESTIONS, real, ours, strict=True)
        if there != here and not question.older
    ]


async def test_node_gets_the_same_answers(node: PlaneNode, tmp_path: Path) -> None:
    real = await ask_all(load_kubeconfig(node.plane.kubeconfig))
    async with open_joinable(tmp_path) as embedded:
        ours = await ask_all(embedded.admin_config)
    assert differences(real, ours) == []
    assert {200, 201, 403, 404, 409, 422} <= set(ours)
