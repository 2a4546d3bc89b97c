"""What the tests of commands share: a tiny checkpoint, made by the command that makes them, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.background import Background


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    """``omni-graph checkpoint tiny qwen2_5_omni tiny``, ended."""
    with Background(tmp_path_factory.mktemp("built"), "checkpoint", "tiny", "qwen2_5_omni", "tiny") as made:
        made.end()
        yield made


@pytest.fixture(scope="session")
def tiny(built: Background) -> Path:
    """The checkpoint. Read only."""
    return built.folder / "tiny"
