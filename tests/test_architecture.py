"""The rooms of docs/architecture.md: imports point downwards only, and what decides does no I/O."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kubelet_secrets"

# A room may import rooms of a smaller number, and itself. Rooms of one number do not know each other.
LEVELS = {
    "errors": 0,
    "sensitive": 1,
    "notify": 1,
    "watchdog": 1,
    "logs": 1,
    "leakscan": 1,
    "memoryfile": 0,
    "linux": 0,
    "dirwatch": 1,
    "fusefs.hardening": 1,
    "fusefs.mounts": 1,  # system calls and nothing of ours: ground for whoever mounts
    "api": 2,
    "manifests": 3,
    "client": 3,
    "access": 3,
    "envvars": 3,
    "control": 3,
    "cache": 4,
    "volume": 4,
    "explain": 5,
    "fusefs": 5,
    "runtime": 5,
    "pod": 6,
    "node": 6,
    "inspection": 7,
    "kubeletapi": 7,
    "agent": 8,
    "children": 7,
    "supervisor": 6,
    "caretaker": 6,
    "keeper_options": 6,
    "upgrade": 8,
    "keeper_loop": 9,
    "stateformat": 1,
    "preflight": 13,
    "systemd": 0,
    "keeper": 10,
    "agent_process": 9,
    "stack": 9,
    "testing": 10,
    "verify": 11,
    "cli": 12,
}
APISERVER_MAY_IMPORT = {"api", "errors", "memoryfile", "sensitive", "notify"}

PURE = [
    "api/*.py",
    "api/validation/*.py",
    "envvars/*.py",
    "volume/paths.py",
    "volume/payload.py",
    "volume/downward.py",
    "volume/projected.py",
    "volume/projection.py",
    "volume/trustbundles.py",
    "volume/ownership.py",
    "access/policy.py",
    "cache/listwatch.py",
    "runtime/spec.py",
    "runtime/keyring.py",
    "node/status.py",
    "kubeletapi/spdy.py",
    "kubeletapi/configz.py",
    "kubeletapi/podmetrics.py",
    "kubeletapi/resourcemetrics.py",
    "kubeletapi/summary.py",
    "kubeletapi/containerlogs.py",
    "pod/state.py",
    "pod/plan.py",
    "pod/pressureeviction.py",
    "pod/resize.py",
    "pod/qos.py",
    "pod/conditions.py",
    "pod/container_status.py",
    "pod/mounts.py",
    "pod/settings.py",
    "pod/sandboxes.py",
    "pod/staticpods.py",
    "pod/status.py",
    "pod/backoff.py",
    "pod/correlator.py",
    "apiserver/patch.py",
    "apiserver/strategic.py",
    "apiserver/apply.py",
    "apiserver/fieldset.py",
    "apiserver/strictness.py",
    "apiserver/tables.py",
    "apiserver/podprinter.py",
    "apiserver/discovery.py",
    "apiserver/openapi.py",
    "apiserver/rbac.py",
    "apiserver/rbac_cover.py",
    "apiserver/default_roles.py",
    "apiserver/kubeadm_objects.py",
    "apiserver/csr.py",
    "apiserver/keycount.py",
    "apiserver/keyrotation.py",
    "apiserver/exposure.py",
    "explain/*.py",
    "verify/canaries.py",
    "verify/grades.py",
    "verify/objects.py",
    "verify/report.py",
]
IMPURE_MODULES = {"trio", "os", "socket", "subprocess", "time", "pyfuse3", "httpx2", "random", "secrets"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str | None:
    """Room of a dotted name below the package: the longest name in LEVELS that it starts with."""
    parts = module.split(".")
    for length in (2, 1):
        name = ".".join(parts[:length])
        if name in LEVELS or name == "apiserver":
            return name
    return None


def imports_of(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Absolute dotted names that *path* imports, at any depth of nesting unless told otherwise."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            # `from kubelet_secrets.volume import paths` imports the module volume.paths
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@pytest.mark.parametrize("path", modules(), ids=own_name)
def test_imports_point_downwards(path: Path) -> None:
    name = own_name(path)
    if name == "__init__":
        return
    room = room_of(name)
    assert room is not None, f"{name} is in no room: give it a level in LEVELS and a line in docs/architecture.md"
    for imported in imports_of(path):
        if not imported.startswith("kubelet_secrets."):
            continue
        other = room_of(imported.removeprefix("kubelet_secrets."))
        if other is None or other == room or other.partition(".")[0] == room:
            continue  # the package itself (its version), or the own room
        if room == "apiserver":
            assert other in APISERVER_MAY_IMPORT, f"{name} imports {imported}: the API server is met over HTTP only"
        elif other == "apiserver":
            assert room in ("testing", "cli"), f"{name} imports {imported}: the API server is met over HTTP only"
        else:
            assert LEVELS[other] < LEVELS[room], f"{name} imports {imported}, which does not stand below it"


@pytest.mark.parametrize("pattern", PURE)
def test_what_decides_does_no_io(pattern: str) -> None:
    found = sorted(PACKAGE.glob(pattern))
    assert found, f"{pattern} names no module"
    for path in found:
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree)), path
        impure = {name.partition(".")[0] for name in imports_of(path)} & IMPURE_MODULES
        assert not impure, f"{path.relative_to(PACKAGE)} imports {impure}"


def test_every_module_says_what_it_is() -> None:
    silent = [
        own_name(path) for path in modules() if path.read_text() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_values_are_unwrapped_in_few_places() -> None:
    """docs/threat-model.md: whoever reviews the path of a secret reads these files."""
    found = {own_name(path) for path in modules() if ".reveal(" in path.read_text()}
    assert found == {
        "api.bootstraptoken",
        "api.decode",
        "apiserver.encryption_providers",
        "apiserver.kms",
        "apiserver.kms_messages",
        "apiserver.pki",
        "apiserver.token_request",
        "apiserver.token_secrets",
        "apiserver.tokens",
        "cli.explain",
        "cli.token",
        "cli.tokentable",
        "client.credentials",
        "client.kubeconfigfile",
        "client.proxy",
        "client.tls",
        "envvars.environment",
        "explain.certificates",
        "fusefs.orders",
        "node.certfiles",
        "node.certificates",
        "runtime.keyring",
        "sensitive",
        "stack",
        "volume.atomicwriter",
    }
