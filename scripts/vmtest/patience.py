"""A pytest plugin for slow machines: deadlines that *tests* set are multiplied by ``$VM_TEST_PATIENCE``.

An emulated processor is ten times slower than the one the tests' bounds on hanging were written for. The program's own
time limits stay as they are. Loaded by ``checks`` in the guest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio

_PATIENCE = float(os.environ.get("VM_TEST_PATIENCE", "1"))


def _is_test(depth: int = 2) -> bool:
    return str(sys._getframe(depth).f_globals.get("__name__", "")).startswith("tests.")


def pytest_configure(config: pytest.Config) -> None:
    original = trio.fail_after

    def fail_after(seconds: float, *args: Any, **kwargs: Any) -> Any:
        return original(seconds * _PATIENCE if _is_test() else seconds, *args, **kwargs)

    trio.fail_after = fail_after
    for name, position in (("wait", 0), ("communicate", 1)):
        setattr(subprocess.Popen, name, _patient(getattr(subprocess.Popen, name), position))


def _patient(method: Callable[..., Any], position: int) -> Callable[..., Any]:
    """*method*, with a timeout that is given by name or as the positional argument number *position*."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_test():
            args = tuple(each * _PATIENCE if index == position and each else each for index, each in enumerate(args))
            if kwargs.get("timeout"):
                kwargs["timeout"] *= _PATIENCE
        return method(self, *args, **kwargs)

    return call


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Waits that a module of tests keeps as ``…_TIMEOUT_S``."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tests."):
            for constant, value in list(vars(module).items()):
                if constant.endswith("TIMEOUT_S") and isinstance(value, int | float):
                    setattr(module, constant, value * _PATIENCE)
