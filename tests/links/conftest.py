"""Fixtures for links: a directory whose sockets fit into a Unix address, and a room of encrypted Links."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.links.room import Room


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A private directory with a short path (mode 0700, as mkdtemp makes it)."""
    with tempfile.TemporaryDirectory(prefix="og-") as name:
        yield Path(name)


@pytest.fixture
def room() -> Iterator[Room]:
    with Room() as made:
        yield made
        made.context.destroy(linger=0)
