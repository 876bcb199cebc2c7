"""What the API server would refuse: ``api.validation``'s errors as problems.

Pure. An object that is refused never reaches a node, so each of these blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kubelet_secrets.api.validation.objects import validate_object
from kubelet_secrets.errors import UsageError
from kubelet_secrets.explain.inventory import Manifest, PodManifest
from kubelet_secrets.explain.model import Problem, Severity

_REPEATABLE = frozenset({"unknown-volume", "volume-fails", "env-invalid", "sub-path-invalid"})
"""Codes of this room's own findings that the API's rules may name too, in their words."""
_VOLUME = re.compile(r".*?\.volumes\[\d+\]")


def object_rule_problems(manifest: Manifest) -> Iterator[Problem]:
    """What is against the rules in a Secret or ConfigMap."""
    yield from _problems(manifest, manifest.obj, lambda path: path)


def pod_rule_problems(given: PodManifest) -> Iterator[Problem]:
    """What is against the rules in a pod, or in the pods that a template makes: paths are those of the template."""
    template = given.path.removesuffix("spec")

    def translate(path: str) -> str:
        return template + path if path.startswith(("spec", "metadata")) else path

    yield from _problems(given.manifest, given.obj, translate if given.is_template else lambda path: path)


def without_repetitions(own: Sequence[Problem], api: Sequence[Problem]) -> Iterator[Problem]:
    """*own* problems but those whose field, or a field in it, is in *api* already."""
    for problem in own:
        names_nothing = problem.code == "missing-object" and '""' in problem.message
        if not (names_nothing or problem.code in _REPEATABLE):
            yield problem
            continue
        # A volume counts as one field: for the downward API the rules name no item.
        volume = _VOLUME.match(problem.where)
        field = volume[0] if volume is not None and problem.code == "volume-fails" else problem.where
        if not any(other.where == field or other.where.startswith((field + ".", field + "[")) for other in api):
            yield problem


def _problems(manifest: Manifest, obj: dict[str, Any], translate: Callable[[str], str]) -> Iterator[Problem]:
    try:
        errors = validate_object(obj)
    except (TypeError, AttributeError, KeyError, ValueError):
        # The rules rely on types that the API server's schema checks first; here only the fields that matter are checked.
        raise UsageError(f"{manifest.source}: {manifest.where}: a field has the wrong type") from None
    for error in {str(each): each for each in errors}.values():  # the API says the same thing once, too
        where = manifest.where if error.path == "[]" else f"{manifest.where}: {translate(error.path)}"
        yield Problem(severity=Severity.BLOCKS, code="invalid", message=error.body, where=where)
