"""The host's search of a guest's disks for the values that ``canary`` sent through the program there. Called by ``__main__``.

Read are the files of this machine that the guest had as disks, and what it wrote to its console and log. A disk's image holds
whatever was ever written in that boot, also what was deleted since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kubelet_secrets.leakscan import StreamSearch, read_chunks, spellings


def find(files: Sequence[Path], values: Mapping[str, str]) -> dict[str, list[str]]:
    """Name of a value → the files in which it is, in any of its forms."""
    needles = {
        f"{name}/{form}": data for name, value in values.items() for form, data in spellings(value.encode()).items()
    }
    found: dict[str, list[str]] = {name: [] for name in values}
    for file in files:
        search = StreamSearch(needles)
        hits = {hit.needle.partition("/")[0] for chunk in read_chunks(file) for hit in search.feed(chunk)}
        hits |= {hit.needle.partition("/")[0] for hit in search.finish()}
        for name in hits:
            found[name].append(file.name)
    return found


def judge(files: Sequence[Path], report: Mapping[str, object]) -> dict[str, object]:
    """A line like the guest's own: the values are nowhere, the controls where they must be."""
    values, controls = report["values"], report["controls"]
    assert isinstance(values, dict)
    assert isinstance(controls, dict)
    leaked = {name: places for name, places in find(files, values).items() if places}
    missed = [name for name, places in find(files, controls).items() if not places]
    parts = [f"{name} in {', '.join(places)}" for name, places in leaked.items()]
    parts += [f"control {name} not found, so this says nothing" for name in missed]
    size_gib = sum(file.stat().st_blocks * 512 for file in files) / (1 << 30)
    detail = (
        "; ".join(parts)
        or f"{len(values)} values in none of {size_gib:.1f} GiB written, {len(controls)} controls found"
    )
    return {"check": f"leaks-{report['runtime']}", "held": not parts, "detail": detail}
