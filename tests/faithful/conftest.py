"""One real stack for all comparisons; the fixtures are those of the end-to-end tests."""

from __future__ import annotations

from tests.e2e.conftest import cluster, image_dir, make_stack, stack

__all__ = ["cluster", "image_dir", "make_stack", "stack"]
