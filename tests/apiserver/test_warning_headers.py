"""Warnings hold names from a request's body, and are header fields all the same."""

from __future__ import annotations

import pytest

from kubelet_secrets.apiserver.warning_headers import warning_headers
from tests.apiserver.harness import SECRETS, Http, secret


@pytest.mark.parametrize(
    ("warnings", "headers"),
    [
        pytest.param(["a", "b", "a"], ['299 - "a"', '299 - "b"'], id="each-once"),
        pytest.param(['field "x\\y"'], ['299 - "field \\"x\\\\y\\""'], id="quotes"),
        pytest.param(["é 🎉"], ['299 - "é 🎉"'], id="utf-8"),
        pytest.param(
            ["x\r\nset-cookie: y", "tab\t", "\x7f", "\x85", "", "fine"], ['299 - "fine"'], id="control-characters"
        ),
        pytest.param(["a" * 5000], [f'299 - "{"a" * 256}"'], id="too-long"),
        pytest.param([f"{n:03}" + "a" * 300 for n in range(30)], 16, id="too-many"),
    ],
)
def test_as_header_fields(warnings: list[str], headers: list[str] | int) -> None:
    found = [header.decode() for header in warning_headers(warnings)]
    assert (len(found) if isinstance(headers, int) else found) == headers


async def test_unknown_field_of_any_name_is_told_and_breaks_nothing(admin: Http) -> None:
    body = {**secret("s"), "é🎉": 1, "a\r\nb: c": 2}
    made = await admin.post(f"{SECRETS}?fieldValidation=Warn", body)
    assert made.status == 201
    assert made.headers.get_list("warning") == ['299 - "unknown field \\"é🎉\\""']
