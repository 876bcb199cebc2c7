"""Source: client-go tools/record/events_cache_test.go; semantics §8.2."""

from __future__ import annotations

import msgspec

from kubelet_secrets.api.core import Event, EventSource
from kubelet_secrets.api.meta import ObjectMeta, ObjectReference
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.pod.correlator import Create, Drop, EventCorrelator, Recount
from tests.pod.builders import T0, after


def event(
    message: str = "m", *, at: float = 0, reason: str = "FailedMount", pod: str = "web", field: str = ""
) -> Event:
    return Event(
        metadata=ObjectMeta(name=f"{pod}.{int(at * 1e9):x}", namespace="default"),
        involved_object=ObjectReference(kind="Pod", namespace="default", name=pod, uid=f"uid-{pod}", field_path=field),
        reason=reason,
        message=message,
        source=EventSource(component="kubelet", host="node"),
        first_timestamp=rfc3339(after(at)),
        last_timestamp=rfc3339(after(at)),
        count=1,
        type="Warning",
    )


def test_first_event_is_created_and_the_same_one_counted() -> None:
    correlator = EventCorrelator()
    first = correlator.correlate(event(at=1), after(1))
    assert first == Create(event(at=1))
    second = correlator.correlate(event(at=5), after(5))
    assert isinstance(second, Recount)
    assert second.patch == {"count": 2, "lastTimestamp": "2026-11-23T19:40:05Z", "message": "m"}
    assert second.event.metadata.name == event(at=1).metadata.name
    assert second.event.first_timestamp == "2026-11-23T19:40:01Z"


def test_containers_and_reasons_are_told_apart() -> None:
    correlator = EventCorrelator()
    for each in (event(), event(reason="Failed"), event(field="spec.containers{a}"), event(pod="other")):
        assert isinstance(correlator.correlate(each, T0), Create)


def test_tenth_distinct_message_is_combined() -> None:
    correlator = EventCorrelator()
    for index in range(9):
        assert isinstance(correlator.correlate(event(f"m{index}"), after(index)), Create)
    tenth = correlator.correlate(event("m9", at=9), after(9))
    assert isinstance(tenth, Create)
    assert tenth.event.message == "(combined from similar events): m9"
    eleventh = correlator.correlate(event("m10", at=10), after(10))
    assert isinstance(eleventh, Recount)
    assert eleventh.patch["message"] == "(combined from similar events): m10"
    assert eleventh.patch["count"] == 2


def test_ten_quiet_minutes_end_the_aggregation() -> None:
    correlator = EventCorrelator()
    for index in range(9):
        correlator.correlate(event(f"m{index}"), after(index))
    late = correlator.correlate(event("m9", at=700), after(700))
    assert isinstance(late, Create)
    assert late.event.message == "m9"


def test_spam_filter_lets_twenty_five_pass_then_one_in_five_minutes() -> None:
    correlator = EventCorrelator()
    outcomes = [correlator.correlate(event(), T0) for _ in range(27)]
    assert [isinstance(each, Drop) for each in outcomes] == [False] * 25 + [True] * 2
    assert isinstance(correlator.correlate(event(), after(299)), Drop)
    later = correlator.correlate(event(), after(301))
    assert isinstance(later, Recount)
    assert later.patch["count"] == 29, "dropped events are made up for by the next count"
    assert isinstance(correlator.correlate(event(pod="other"), after(301)), Create)


def test_outcome_names_the_reporting_component() -> None:
    reported = msgspec.structs.replace(event(), reporting_component="kubelet")
    outcome = EventCorrelator().correlate(reported, T0)
    assert isinstance(outcome, Create)
    assert outcome.event.reporting_component == "kubelet"
