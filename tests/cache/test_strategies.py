"""The table of strategies, a row at a time. Source: pkg/kubelet/util/manager, secret_manager.go; semantics §7.2."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
import trio.testing

from kubelet_secrets.api.core import Secret
from kubelet_secrets.cache.manager import ObjectManager, Strategy
from kubelet_secrets.errors import MissingObject, SetUpError
from tests.cache.objects import UNREACHABLE, FakeServer, pod
from tests.cache.test_manager import running, settled, value

pytestmark = pytest.mark.usefixtures("autojump_clock")  # the cache's second is none of the machine's

TTL_S = 15.0


@dataclass(frozen=True)
class Row:
    """What §7.2 says of one strategy.

    Attributes:
        first: requests that make an object known, and a second look at it at once.
        missing: the text for an object that does not exist.
        late_s: a change is certainly seen by a reader this much later, not before; 0: at once.
        outlives_server: the last known value is given while the server is away.
        asks_anew: a pod that registers makes the next read ask the server.
        keeps_immutable: a copy of an immutable object is given after the object went.
    """

    first: list[str]
    missing: str
    late_s: float
    outlives_server: bool
    asks_anew: bool
    keeps_immutable: bool


TABLE = {
    Strategy.WATCH: Row(
        first=["stream db"],
        missing='secret "db" not found',
        late_s=0,
        outlives_server=True,
        asks_anew=False,
        keeps_immutable=True,
    ),
    Strategy.CACHE: Row(
        first=["get db"],
        missing='secrets "db" not found',
        late_s=TTL_S,
        outlives_server=True,
        asks_anew=True,
        keeps_immutable=False,
    ),
    Strategy.GET: Row(
        first=["get db", "get db"],
        missing='secrets "db" not found',
        late_s=0,
        outlives_server=False,
        asks_anew=True,
        keeps_immutable=False,
    ),
}
each_strategy = pytest.mark.parametrize("strategy", list(Strategy))


def test_table_is_complete() -> None:
    assert set(TABLE) == set(Strategy)
    assert [each.value for each in Strategy] == ["Watch", "Cache", "Get"]


async def read(manager: ObjectManager[Secret]) -> bytes | None:
    return value(await manager.get("shop", "db"))


@each_strategy
async def test_requests(strategy: Strategy) -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=strategy, ttl_s=lambda: TTL_S) as manager:
        manager.register_pod(pod("1", "db"))
        assert [await read(manager) for _ in range(2)] == [b"v1", b"v1"]
        assert server.requests == TABLE[strategy].first


@each_strategy
async def test_missing_object(strategy: Strategy) -> None:
    async with running(FakeServer(), strategy=strategy, ttl_s=lambda: TTL_S) as manager:
        manager.register_pod(pod("1", "db"))
        with pytest.raises(MissingObject) as caught:
            await read(manager)
        assert str(caught.value) == TABLE[strategy].missing


@each_strategy
async def test_freshness(strategy: Strategy, autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.put("db", "v1")
    late_s = TABLE[strategy].late_s
    async with running(server, strategy=strategy, ttl_s=lambda: TTL_S) as manager:
        manager.register_pod(pod("1", "db"))
        await read(manager)
        server.put("db", "v2")
        await settled()
        if late_s:
            await trio.sleep(late_s - 1)
            assert await read(manager) == b"v1"
            await trio.sleep(1)
        assert await read(manager) == b"v2"


@each_strategy
async def test_server_away(strategy: Strategy, autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=strategy, ttl_s=lambda: TTL_S) as manager:
        manager.register_pod(pod("1", "db"))
        await read(manager)
        server.failure = UNREACHABLE
        server.cut()
        await trio.sleep(10 * TTL_S)
        if TABLE[strategy].outlives_server:
            assert await read(manager) == b"v1"
        else:
            with pytest.raises(SetUpError, match="connection refused"):
                await read(manager)


@each_strategy
async def test_another_pod_registers(strategy: Strategy) -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=strategy, ttl_s=lambda: TTL_S) as manager:
        manager.register_pod(pod("1", "db"))
        await read(manager)
        server.requests.clear()
        manager.register_pod(pod("2", "db"))
        await read(manager)
        assert server.requests == (["get db"] if TABLE[strategy].asks_anew else [])


@each_strategy
async def test_immutable_object(strategy: Strategy, autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.put("db", "v1", immutable=True)
    async with running(server, strategy=strategy, ttl_s=lambda: TTL_S) as manager:
        manager.register_pod(pod("1", "db"))
        await read(manager)
        server.remove("db")
        await trio.sleep(TTL_S)
        if TABLE[strategy].keeps_immutable:
            assert await read(manager) == b"v1"
        else:
            with pytest.raises(MissingObject):
                await read(manager)
