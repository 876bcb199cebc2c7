"""Dialogues with the list-watch machine: what happened, and what it then wants."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.decode import DecodeError
from kubelet_secrets.cache.listwatch import (
    Backoff,
    Ended,
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
from kubelet_secrets.errors import NotFound, TooManyRequests
from tests.cache.objects import EXPIRED, FORBIDDEN, INTERNAL, INVALID, UNREACHABLE, bookmark, event, secret

STREAM = StreamList(timeout_s=1800)
LIST = List()
A1, A2 = secret("a", 1), secret("a", 2)


def watch(version: int) -> Watch:
    return Watch(str(version), timeout_s=1800)


class Dialogue:
    """A machine without jitter, and a clock that the dialogue moves."""

    def __init__(self, *, streams: bool = True, **options: Any) -> None:
        self.machine = ListWatch[Secret](lambda: 0.0, streams=streams, **options)
        self.now_s = 1000.0
        assert self.machine.start() == ((STREAM,) if streams else (LIST,))

    def says(self, happened: Any, *wanted: Any, after_s: float = 10) -> Dialogue:
        self.now_s += after_s
        assert self.machine.step(happened, self.now_s) == wanted
        return self


def synced_by_stream() -> Dialogue:
    return (
        Dialogue()
        .says(Opened())
        .says(Observed(event("ADDED", A1)))
        .says(Observed(bookmark(5, ends_initial_events=True)), Replace((A1,)))
    )


def synced_by_list() -> Dialogue:
    return Dialogue(streams=False).says(Listed((A1,), "5"), Replace((A1,)), watch(5)).says(Opened())


def test_streaming_list_goes_on_as_a_watch() -> None:
    dialogue = synced_by_stream().says(Observed(event("MODIFIED", A2)), Upsert(A2))
    dialogue.says(Observed(event("DELETED", secret("a", 9))), Remove(secret("a", 9)))
    assert (dialogue.machine.phase, dialogue.machine.resource_version) == (Phase.WATCHING, "9")


def test_streaming_list_of_nothing_is_synced_by_the_bookmark() -> None:
    Dialogue().says(Opened()).says(Observed(bookmark(5, ends_initial_events=True)), Replace(()))


def test_changes_during_the_initial_events_are_part_of_them() -> None:
    dialogue = Dialogue().says(Opened()).says(Observed(event("ADDED", A1))).says(Observed(event("MODIFIED", A2)))
    dialogue.says(Observed(event("ADDED", secret("b", 3)))).says(Observed(event("DELETED", secret("b", 4))))
    dialogue.says(Observed(bookmark(4))).says(Observed(bookmark(5, ends_initial_events=True)), Replace((A2,)))


def test_refused_streaming_list_falls_back_for_good() -> None:
    dialogue = Dialogue().says(Failed(INVALID), LIST).says(Listed((A1,), "5"), Replace((A1,)), watch(5))
    dialogue.says(Opened()).says(Ended(), watch(5)).says(Failed(EXPIRED), LIST)


def test_silent_streaming_list_falls_back() -> None:
    """A server older than 1.27 ignores sendInitialEvents: it sends the objects and never the bookmark."""
    Dialogue().says(Opened()).says(Observed(event("ADDED", A1))).says(Overdue(), LIST)


def test_broken_streaming_list_starts_again_without_what_it_had() -> None:
    dialogue = Dialogue().says(Opened()).says(Observed(event("ADDED", secret("b", 1))))
    dialogue.says(Failed(UNREACHABLE), Report(UNREACHABLE), Wait(0.8)).says(Waited(), STREAM).says(Opened())
    dialogue.says(Observed(bookmark(5, ends_initial_events=True)), Report(None), Replace(()))


def test_streaming_list_that_ends_early_is_tried_again_after_a_pause() -> None:
    Dialogue().says(Opened()).says(Ended(), Wait(0.8)).says(Waited(), STREAM)


def test_ended_watch_resumes_at_the_last_version() -> None:
    dialogue = synced_by_list().says(Observed(event("MODIFIED", A2)), Upsert(A2)).says(Ended(), watch(2))
    dialogue.says(Opened()).says(Observed(bookmark(7))).says(Ended(), watch(7))


def test_watch_that_ends_at_once_is_not_hammered() -> None:
    dialogue = synced_by_list().says(Ended(), Wait(0.8), after_s=0.1).says(Waited(), watch(5), after_s=1)
    dialogue.says(Opened(), after_s=0).says(Ended(), Wait(1.6), after_s=0.1)


def test_unreachable_server_leaves_the_objects_and_is_resumed() -> None:
    dialogue = synced_by_stream().says(Failed(UNREACHABLE), Report(UNREACHABLE), Wait(0.8), after_s=1)
    dialogue.says(Waited(), watch(5), after_s=1).says(Failed(UNREACHABLE), Wait(1.6), after_s=1)
    dialogue.says(Waited(), watch(5), after_s=2).says(Failed(UNREACHABLE), Wait(3.2), after_s=1)
    dialogue.says(Waited(), watch(5)).says(Opened(), Report(None)).says(Observed(event("MODIFIED", A2)), Upsert(A2))


@pytest.mark.parametrize(
    "error", [INTERNAL, TooManyRequests("slow down", code=429)], ids=["internal-error", "too-many-requests"]
)
def test_busy_server_is_resumed(error: Any) -> None:
    synced_by_list().says(Failed(error), Report(error), Wait(0.8)).says(Waited(), watch(5))


def test_retry_after_is_the_least_pause() -> None:
    error = TooManyRequests("slow down", code=429, retry_after_s=7)
    synced_by_list().says(Failed(error), Report(error), Wait(7))


def test_expired_version_relists_at_once_and_keeps_the_objects_meanwhile() -> None:
    dialogue = synced_by_stream().says(Ended(), watch(5)).says(Failed(EXPIRED), STREAM).says(Opened())
    dialogue.says(Observed(bookmark(50, ends_initial_events=True)), Replace(()))


def test_expired_event_inside_a_watch_relists() -> None:
    synced_by_list().says(Observed(bookmark(6))).says(Failed(EXPIRED), LIST)


def test_version_that_was_good_until_an_outage_may_expire_in_it() -> None:
    """Quiet objects of an API server that was started again: its cache begins later. That is no failure."""
    dialogue = synced_by_list().says(Failed(UNREACHABLE), Report(UNREACHABLE), Wait(0.8), after_s=60)
    dialogue.says(Waited(), watch(5), after_s=1).says(Failed(EXPIRED), LIST, after_s=0)


def test_server_that_expires_what_it_has_just_listed_is_not_hammered() -> None:
    dialogue = synced_by_list().says(Failed(EXPIRED), Report(EXPIRED), Wait(0.8), after_s=0)
    dialogue.says(Waited(), LIST, after_s=1).says(Failed(EXPIRED), Wait(1.6), after_s=0)


def test_forbidden_is_tried_again_soon() -> None:
    """Right after a binding the node authorizer's graph lags by moments."""
    dialogue = Dialogue()
    dialogue.says(Failed(FORBIDDEN), Report(FORBIDDEN), Wait(0.05), after_s=0)
    for pause_s in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30):
        dialogue.says(Waited(), STREAM, after_s=0).says(Failed(FORBIDDEN), Wait(pause_s), after_s=0)
    dialogue.says(Waited(), STREAM).says(Opened()).says(
        Observed(bookmark(5, ends_initial_events=True)), Report(None), Replace(())
    )


@pytest.mark.parametrize(
    "error", [FORBIDDEN, NotFound("no such resource", code=404), DecodeError("Secret: not valid JSON")]
)
def test_watch_refused_for_cause_begins_again_from_a_list(error: Any) -> None:
    dialogue = synced_by_list()
    [report, pause] = dialogue.machine.step(Failed(error), 2000)
    assert report == Report(error)
    assert isinstance(pause, Wait)
    dialogue.says(Waited(), LIST)


@pytest.mark.parametrize("streams", [True, False])
def test_final_object_stops_the_machine(streams: bool) -> None:
    done = secret("a", 1, immutable=True)
    dialogue = Dialogue(streams=streams, is_final=lambda obj: bool(obj.immutable))
    if streams:
        dialogue.says(Opened()).says(Observed(event("ADDED", done)))
        dialogue.says(Observed(bookmark(5, ends_initial_events=True)), Replace((done,)), Stop())
    else:
        dialogue.says(Listed((done,), "5"), Replace((done,)), Stop())
    assert dialogue.machine.phase is Phase.STOPPED
    dialogue.says(Observed(event("DELETED", done)))  # nothing more


def test_object_that_becomes_final_stops_the_machine() -> None:
    done = secret("a", 2, immutable=True)
    dialogue = Dialogue(is_final=lambda obj: bool(obj.immutable)).says(Opened()).says(Observed(event("ADDED", A1)))
    dialogue.says(Observed(bookmark(5, ends_initial_events=True)), Replace((A1,)))
    dialogue.says(Observed(event("MODIFIED", done)), Upsert(done), Stop())


def test_pauses_double_to_the_cap_and_start_again_after_a_quiet_time() -> None:
    backoff = Backoff(lambda: 0.0, first_s=0.8)
    assert [backoff.next(0) for _ in range(8)] == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert backoff.next(121) == 0.8


def test_jitter_adds_up_to_as_much_again() -> None:
    assert Backoff(lambda: 0.5, first_s=0.8).next(0) == pytest.approx(1.2)
    machine = ListWatch[Secret](lambda: 0.5, watch_timeout_s=1800)
    assert machine.start() == (StreamList(timeout_s=2700),)
