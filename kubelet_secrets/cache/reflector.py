"""Run one list-watch against the API server and keep a sink as the server is.

The I/O around ``listwatch.py``; decides nothing. Used by ``watched.py`` for single objects and by ``pod/source.py`` for the
pods of the node.
"""

from __future__ import annotations

import random as random_module
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import trio

from kubelet_secrets.api.decode import DecodeError
from kubelet_secrets.api.meta import Resource
from kubelet_secrets.cache.listwatch import (
    Command,
    Ended,
    Event,
    Failed,
    List,
    Listed,
    ListWatch,
    Observed,
    Opened,
    Overdue,
    Phase,
    Remove,
    Replace,
    Report,
    Stop,
    StreamList,
    Upsert,
    Wait,
    Waited,
    Watch,
)
from kubelet_secrets.client.answers import ApiObject, K, WatchEvent
from kubelet_secrets.client.rest import ObjectList
from kubelet_secrets.errors import ApiError, ApiUnavailable

_OVERDUE_S = 10.0  # client-go warns after as much silence in a streaming list; we take it for a no

S = TypeVar("S", bound=ApiObject, contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(Generic[K]):
    """What to list and watch."""

    resource: Resource
    kind: type[K]
    namespace: str = ""  # "" for all, and for what has none
    field_selector: str = ""  # "metadata.name=db"
    label_selector: str = ""


class ListWatcher(Protocol):
    """What a reflector needs of ``ApiClient``."""

    async def list(
        self, resource: Resource, namespace: str, kind: type[K], *, field_selector: str, label_selector: str
    ) -> ObjectList[K]: ...

    def watch(
        self,
        resource: Resource,
        namespace: str,
        kind: type[K],
        *,
        field_selector: str,
        label_selector: str,
        resource_version: str,
        timeout_s: int,
        send_initial_events: bool,
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent[K]]]: ...


class Sink(Protocol[S]):
    """Where a reflector puts what it learns. Nothing here may wait."""

    def replace(self, objects: Sequence[S]) -> None:
        """These are all objects there are. The first call is the moment of synchronization."""

    def upsert(self, obj: S) -> None: ...

    def remove(self, obj: S) -> None:
        """*obj* is gone; it is given in its last state."""

    def report(self, error: Exception | None) -> None:
        """The server cannot be asked (the objects stay what they were), or can again (None)."""


class Reflector(Generic[K]):
    """Keeps *sink* as the objects of *target* are, for as long as :meth:`run` runs.

    Args:
        streams, watch_timeout_s, is_final: see ``ListWatch``.
        random: uniform in [0, 1).
    """

    def __init__(
        self,
        client: ListWatcher,
        target: Target[K],
        sink: Sink[K],
        *,
        streams: bool = True,
        watch_timeout_s: int = 1800,
        is_final: Callable[[K], bool] = lambda _: False,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._client = client
        self._target = target
        self._sink = sink
        self._machine = ListWatch[K](random, streams=streams, watch_timeout_s=watch_timeout_s, is_final=is_final)
        self._nudged = trio.Event()

    def __repr__(self) -> str:
        target = self._target
        return f"<Reflector {target.resource.plural} {target.namespace} {target.field_selector}: {self.phase.value}>"

    @property
    def phase(self) -> Phase:
        return self._machine.phase

    def nudge(self, *, after_outage: bool = False) -> None:
        """Cut a pause short: there is reason to think that the next try succeeds. Does nothing outside of a pause.

        Args:
            after_outage: the server has been away and is back: should it not be quite ready, the pauses are short again.
        """
        if after_outage:
            self._machine.forget_failures()
        self._nudged.set()

    async def run(self) -> None:
        """Return when the target's object is final; else run until cancelled. API errors are retried, not raised.

        Cancellation: the watch is closed; the sink keeps the last state.
        """
        pending: deque[Command[K]] = deque(self._machine.start())
        while pending:
            command = pending.popleft()
            if isinstance(command, Stop):
                return
            if isinstance(command, StreamList | Watch):
                pending.extend(await self._watch(command))
            elif isinstance(command, List):
                pending.extend(self._step(await self._list()))
            elif isinstance(command, Wait):
                await self._wait(command.seconds)
                pending.extend(self._step(Waited()))
            else:
                self._store(command)
        raise AssertionError("the machine ran out of commands")

    def _step(self, event: Event[K]) -> tuple[Command[K], ...]:
        return self._machine.step(event, trio.current_time())

    def _store(self, command: Replace[K] | Upsert[K] | Remove[K] | Report) -> None:
        if isinstance(command, Replace):
            self._sink.replace(command.objects)
        elif isinstance(command, Upsert):
            self._sink.upsert(command.object)
        elif isinstance(command, Remove):
            self._sink.remove(command.object)
        else:
            self._sink.report(command.error)

    async def _list(self) -> Event[K]:
        target = self._target
        try:
            found = await self._client.list(
                target.resource,
                target.namespace,
                target.kind,
                field_selector=target.field_selector,
                label_selector=target.label_selector,
            )
        except (ApiError, ApiUnavailable, DecodeError) as error:
            return Failed(error)
        return Listed(found.items, found.resource_version)

    async def _watch(self, command: StreamList | Watch) -> tuple[Command[K], ...]:
        """Watch until the machine wants something else, and return what that is."""
        target = self._target
        is_streaming_list = isinstance(command, StreamList)
        try:
            async with self._client.watch(
                target.resource,
                target.namespace,
                target.kind,
                field_selector=target.field_selector,
                label_selector=target.label_selector,
                resource_version="" if isinstance(command, StreamList) else command.resource_version,
                timeout_s=command.timeout_s,
                send_initial_events=is_streaming_list,
            ) as events:
                event: Event[K] = Opened()
                while True:
                    for result in self._step(event):
                        if isinstance(result, StreamList | List | Watch | Wait | Stop):
                            return (result,)  # always the last one: what to do next
                        self._store(result)
                    event = await self._next(events, self._machine.phase is Phase.STREAMING)
        except (ApiError, ApiUnavailable, DecodeError) as error:
            return self._step(Failed(error))

    async def _next(self, events: AsyncIterator[WatchEvent[K]], is_impatient: bool) -> Event[K]:
        with trio.move_on_after(_OVERDUE_S if is_impatient else float("inf")):
            try:
                return Observed(await anext(events))
            except StopAsyncIteration:
                return Ended()
        return Overdue()

    async def _wait(self, seconds: float) -> None:
        self._nudged = trio.Event()
        with trio.move_on_after(seconds):
            await self._nudged.wait()
