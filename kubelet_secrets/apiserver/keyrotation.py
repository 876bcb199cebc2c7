"""Keys of an ``EncryptionConfiguration``: a new file, and the three changes of a rotation.

Pure: a file's plain data in, changed data out; randomness is an argument. A rotation is what the Kubernetes documentation
describes: the new key is *added* as second, so that every server can read what it will write; then *promoted* to first, so
that it writes; then everything is written anew; then the old keys are *dropped*. Between two steps every server has to have
the file.
Called by ``kubelet-secrets apiserver keys``, which reads and writes the file and checks it before.

Source: https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/, "Rotate a decryption key".
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

Obj = dict[str, Any]

CIPHERS = ("secretbox", "aesgcm", "aescbc")
KEY_BYTES = 32
_NUMBERED = re.compile(r"key(\d+)")


class Stage(Enum):
    """What to do next."""

    ADD = "add"
    PROMOTE = "promote"
    DROP = "drop"


class CannotRotate(Exception):
    """The text names the field and holds no key."""


def make_configuration(cipher: str, resources: Sequence[str], random: Callable[[int], bytes]) -> Obj:
    """A configuration with one new key, and identity last: what is stored in plain can be read, and is encrypted by its next
    write."""
    keys = [{"name": "key1", "secret": _new_secret(random)}]
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [
            {"resources": list(resources), "providers": [{cipher: {"keys": keys}}, {"identity": {}}]},
        ],
    }


def next_stage(configuration: Obj) -> Stage:
    """Where a rotation stands, by the numbers in the names of its keys.

    Raises:
        CannotRotate: nothing there can be rotated, or the names do not tell.
    """
    stages = set()
    for place, keys in _writers(configuration):
        if len(keys) == 1:
            stages.add(Stage.ADD)
            continue
        first, second = (_number(key["name"]) for key in keys[:2])
        if first is None or second is None or first == second:
            raise CannotRotate(f"{place}.keys: their names do not tell which is the newer one: give the stage")
        stages.add(Stage.PROMOTE if first < second else Stage.DROP)
    if len(stages) != 1:
        raise CannotRotate("the providers are at different stages of a rotation: give the stage")
    return stages.pop()


def rotate(configuration: Obj, stage: Stage, random: Callable[[int], bytes]) -> list[str]:
    """Change *configuration* in place by one stage.

    Returns:
        What was done, a line for each provider.

    Raises:
        CannotRotate: there is nothing to promote or to drop. Nothing was changed.
    """
    writers = list(_writers(configuration))
    for place, keys in writers:
        if stage is not Stage.ADD and len(keys) < 2:
            raise CannotRotate(f"{place}.keys: there is one key; add another one first")
    return [_CHANGES[stage](place, keys, random) for place, keys in writers]


def old_keys(configuration: Obj) -> list[str]:
    """``aesgcm:key1`` of every key that :attr:`Stage.DROP` would take away."""
    found = []
    for place, keys in _writers(configuration):
        found += [f"{place.rpartition('.')[2]}:{key['name']}" for key in keys[1:]]
    return found


def _add(place: str, keys: list[Obj], random: Callable[[int], bytes]) -> str:
    name = f"key{max([_number(key['name']) or 0 for key in keys] + [len(keys)]) + 1}"
    keys.insert(1, {"name": name, "secret": _new_secret(random)})
    return f"{place}: {name} added, for reading; {keys[0]['name']} writes"


def _promote(place: str, keys: list[Obj], _random: Callable[[int], bytes]) -> str:
    keys[0], keys[1] = keys[1], keys[0]
    return f"{place}: {keys[0]['name']} writes; {keys[1]['name']} is there for reading"


def _drop(place: str, keys: list[Obj], _random: Callable[[int], bytes]) -> str:
    gone = ", ".join(key["name"] for key in keys[1:])
    del keys[1:]
    return f"{place}: {gone} dropped; {keys[0]['name']} is the only key"


_CHANGES = {Stage.ADD: _add, Stage.PROMOTE: _promote, Stage.DROP: _drop}


def _writers(configuration: Obj) -> list[tuple[str, list[Obj]]]:
    """(place, keys) of every provider that writes and has keys of its own."""
    found, others = [], []
    for index, entry in enumerate(configuration.get("resources") or ()):
        ((kind, body),) = entry["providers"][0].items()
        place = f"resources[{index}].providers[0].{kind}"
        if kind in CIPHERS:
            found.append((place, body["keys"]))
        else:
            others.append((place, kind))
    if not found:
        place, kind = others[0] if others else ("resources", "")
        why = "its keys are rotated by the service" if kind == "kms" else "nothing is encrypted with a key"
        raise CannotRotate(f"{place}: {why}")
    return found


def _number(name: str) -> int | None:
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else None


def _new_secret(random: Callable[[int], bytes]) -> str:
    return base64.b64encode(random(KEY_BYTES)).decode("ascii")
