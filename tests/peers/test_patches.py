"""Patches as ``kubectl apply`` makes them, applied by k8s.io/apimachinery (``patches/main.go``) and by this server."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kubelet_secrets.apiserver import patch
from tests.peers.lives import Lives, Obj

_LIVES = 400


@pytest.mark.parametrize("seed", range(2))
def test_three_way_merges(peers: Path, seed: int) -> None:
    supply = Lives(seed)
    questions = []
    for _ in range(_LIVES):
        objects = [step["object"] for step in supply.next()]
        questions += [
            dict(zip(("original", "modified", "current"), objects[at : at + 3], strict=True)) for at in (0, 3)
        ]
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    done = subprocess.run([peers / "patches"], input=lines.encode(), capture_output=True, check=True, timeout=60)
    for question, answer in zip(questions, map(json.loads, done.stdout.splitlines()), strict=True):
        current: Obj = question["current"]
        if _deletes_from_what_is_not_there(current, answer["patch"]):
            continue  # upstream makes elements of the deletions, of their keys alone
        merged = patch.apply_strategic_merge_patch(
            copy.deepcopy(current),
            copy.deepcopy(answer["patch"]),
            api_version=current["apiVersion"],
            kind=current["kind"],
        )
        # Where an element is deleted and another added, upstream's order is an accident of a shared array.
        is_ordered = "delete" not in json.dumps(answer["patch"])
        assert _decoded(merged, is_ordered) == _decoded(answer["merged"], is_ordered), (current, answer["patch"])


def _deletes_from_what_is_not_there(current: Obj, change: Obj) -> bool:
    there = {each["name"] for each in (current.get("spec") or {}).get("containers") or ()}
    changed = (change.get("spec") or {}).get("containers") or ()
    return any("$patch" not in each and each["name"] not in there and "$patch" in json.dumps(each) for each in changed)


def _decoded(value: Any, is_ordered: bool) -> Any:
    """As it is once it has been decoded: no nulls, no left over directives, nothing that is empty."""
    if isinstance(value, dict):
        below = {key: _decoded(entry, is_ordered) for key, entry in value.items() if not key.startswith("$")}
        return {key: entry for key, entry in below.items() if entry not in (None, {})}
    if isinstance(value, list):
        entries = [_decoded(entry, is_ordered) for entry in value]
        return entries if is_ordered else sorted(entries, key=lambda entry: json.dumps(entry, sort_keys=True))
    return value
