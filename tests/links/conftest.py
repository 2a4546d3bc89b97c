"""Fixtures for links: a directory whose sockets fit into a Unix address."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A private directory with a short path (mode 0700, as mkdtemp makes it)."""
    with tempfile.TemporaryDirectory(prefix="og-") as name:
        yield Path(name)
