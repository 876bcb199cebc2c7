"""One pod's status on its way to the API server, refused and refused again."""

from __future__ import annotations

from typing import Any

import msgspec
import trio
import trio.testing

from kubelet_secrets.api.core import Pod, PodStatus
from kubelet_secrets.errors import ApiError, Conflict, NotFound
from kubelet_secrets.pod.publisher import StatusPublisher
from tests.pod.builders import make_pod

BUSY = Conflict("Operation cannot be fulfilled: the object has been modified", code=409, reason="Conflict")
GONE = NotFound('pods "web" not found', code=404, reason="NotFound")


class Server:
    """Refuses as often as it has *refusals*, then takes what it gets."""

    def __init__(self, *refusals: ApiError) -> None:
        self.refusals = list(refusals)
        self.phases: list[str] = []

    async def patch(self, _resource: object, _namespace: str, _name: str, patch: Any, *_: object, **__: object) -> Pod:
        await trio.lowlevel.checkpoint()
        if self.refusals:
            raise self.refusals.pop(0)
        self.phases.append(patch["status"]["phase"])
        return make_pod()


async def published(server: Server) -> StatusPublisher:
    """A publisher that has done what it could about a pod's being Running."""
    publisher = StatusPublisher(server, make_pod())  # type: ignore[arg-type]  # what of a client is used
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publisher.run)
        publisher.publish(msgspec.structs.replace(PodStatus(), phase="Running"))
        with trio.fail_after(60):
            await publisher.wait_published()
        nursery.cancel_scope.cancel()
    return publisher


async def test_conflict_is_no_reason_to_give_a_pod_up(autojump_clock: trio.testing.MockClock) -> None:
    """A server that many write to gives a patch up after five tries. That the pod is another one's, the watch tells."""
    server = Server(BUSY, BUSY)
    publisher = await published(server)
    assert (server.phases, publisher.is_gone) == (["Running"], False)


async def test_pod_that_is_gone_is_told_nothing(autojump_clock: trio.testing.MockClock) -> None:
    server = Server(GONE)
    publisher = await published(server)
    assert (server.phases, publisher.is_gone) == ([], True)
