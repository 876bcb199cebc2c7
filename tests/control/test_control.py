"""The control socket, both ends: real sockets, the blocking client in a thread."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.control.client import ask, ask_one
from kubelet_secrets.control.protocol import EnvRow
from kubelet_secrets.control.server import Send, _serve_connection, serve_control
from kubelet_secrets.errors import HostError, UsageError

ROW = EnvRow(name="A", origin="secret/s key a", size=3, value="abc")


async def one(params: Mapping[str, Any], send: Send) -> None:
    await send(ROW)


async def refuse(params: Mapping[str, Any], send: Send) -> None:
    raise UsageError(f"no pod {params['pod']}")


async def forever(params: Mapping[str, Any], send: Send) -> None:
    await send(ROW)
    await trio.sleep_forever()


HANDLERS = {"one": one, "refuse": refuse, "forever": forever}


@pytest.fixture
async def address(tmp_path: Path, nursery: trio.Nursery) -> str:
    path = tmp_path / "run" / "agent.sock"
    await nursery.start(serve_control, path, HANDLERS)
    return str(path)


async def in_thread(function: Any, *args: Any, **kwargs: Any) -> Any:
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)


async def test_answer_comes_back_typed(address: str) -> None:
    assert await in_thread(ask_one, address, "one", EnvRow) == ROW


async def test_socket_is_for_root_only(address: str) -> None:
    assert stat.S_IMODE(os.stat(address).st_mode) == 0o600


async def test_who_may_not_ask_is_told_and_gets_nothing(tmp_path: Path, nursery: trio.Nursery) -> None:
    asked: list[int] = []

    def may_ask(pid: int) -> bool:
        asked.append(pid)
        return False

    path = tmp_path / "agent.sock"
    await nursery.start(partial(serve_control, path, HANDLERS, may_ask=may_ask))
    with pytest.raises(UsageError, match="only processes of the host may ask the agent, containers may not"):
        await in_thread(ask_one, str(path), "one", EnvRow)
    assert asked == [os.getpid()]


CONNECT_AND_END = """
import os, socket, sys
asker = socket.socket(socket.AF_UNIX)
asker.connect(sys.argv[1])
asker.sendall(b'{"method":"one"}\\n')
if os.fork() == 0:
    sys.stdin.read()  # until the one that connected has ended, and been reaped
    print(asker.recv(1000).decode())
"""


@pytest.mark.skipif(
    tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 5), reason="SO_PEERPIDFD needs Linux 6.5"
)
async def test_who_inherits_the_connection_of_one_that_ended_gets_nothing(tmp_path: Path) -> None:
    """Its number may be another process's by then, who might ask."""
    path = tmp_path / "agent.sock"
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, trio.fail_after(60):
        await listener.bind(str(path))
        listener.listen()
        command = [sys.executable, "-c", CONNECT_AND_END, str(path)]
        asker = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert asker.stdin is not None
        assert asker.stdout is not None
        await asker.wait()
        stream = await trio.SocketListener(listener).accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(_serve_connection, handlers=HANDLERS, may_ask=lambda pid: True), stream)
            await asker.stdin.aclose()
            async with asker.stdout:
                said = b"".join([chunk async for chunk in asker.stdout])
    assert said.strip() == b'{"error":"the asker has ended"}'


async def test_refusal_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError, match="no pod web"):
        await in_thread(ask_one, address, "refuse", EnvRow, pod="web")


async def test_unknown_method_is_refused_and_the_server_lives(address: str) -> None:
    with pytest.raises(UsageError, match="unknown method"):
        await in_thread(ask_one, address, "no-such", EnvRow)
    assert await in_thread(ask_one, address, "one", EnvRow) == ROW


async def test_garbage_is_refused_and_the_server_lives(address: str) -> None:
    with trio.fail_after(60):
        stream = await trio.open_unix_socket(address)
        await stream.send_all(b"\xff\x00 not json\n")
        assert b"not a request" in await stream.receive_some()
        await stream.aclose()
    assert await in_thread(ask_one, address, "one", EnvRow) == ROW


async def test_follower_that_hangs_up_ends_its_handler(tmp_path: Path, nursery: trio.Nursery) -> None:
    ended = trio.Event()

    async def follow(params: Mapping[str, Any], send: Send) -> None:
        try:
            await send(ROW)
            await trio.sleep_forever()
        finally:
            ended.set()

    path = tmp_path / "agent.sock"
    await nursery.start(serve_control, path, {"follow": follow})
    stream = await trio.open_unix_socket(path)
    await stream.send_all(b'{"method":"follow"}\n')
    await stream.receive_some()
    await stream.aclose()
    with trio.fail_after(60):
        await ended.wait()


async def test_stream_of_items_can_be_left_early(address: str) -> None:
    def first() -> EnvRow:
        return next(iter(ask(address, "forever", EnvRow)))

    assert await in_thread(first) == ROW


def test_nobody_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"no agent at .*--socket names another"):
        ask_one(str(tmp_path / "agent.sock"), "one", EnvRow)


async def test_socket_file_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, HANDLERS)
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_socket_of_the_next_agent_is_left_where_it_is(tmp_path: Path) -> None:
    """An agent that takes over listens before the one before it is gone."""
    path = tmp_path / "agent.sock"
    async with trio.open_nursery() as second:
        async with trio.open_nursery() as first:
            await first.start(serve_control, path, HANDLERS)
            await second.start(partial(serve_control, path, HANDLERS, takes_over=True))
            first.cancel_scope.cancel()
        assert await in_thread(ask_one, str(path), "one", EnvRow) == ROW
        second.cancel_scope.cancel()
    assert not path.exists()


async def test_directory_that_another_node_takes_away_is_made_again(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/run/kubelet-secrets goes with the last node that has something in it, which may stop just now."""
    path = tmp_path / "kubelet-secrets" / "agent.sock"
    mkdir, removed = os.mkdir, 0

    def overtaken(made: Path, mode: int = 0o777) -> None:
        nonlocal removed
        mkdir(made, mode)
        if removed < 3:
            removed += 1
            os.rmdir(made)

    monkeypatch.setattr(os, "mkdir", overtaken)
    await nursery.start(serve_control, path, HANDLERS)
    assert await in_thread(ask_one, str(path), "one", EnvRow) == ROW
    assert removed == 3


def test_row_does_not_show_its_value() -> None:
    assert "abc" not in repr(ROW)
