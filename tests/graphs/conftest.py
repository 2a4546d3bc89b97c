"""One tiny checkpoint for the tests of whole graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_nodes.qwen2_5_omni.tiny import build_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default tiny checkpoint, seed 0. Read only."""
    folder = tmp_path_factory.mktemp("tiny") / "default"
    build_tiny(folder)
    return folder
