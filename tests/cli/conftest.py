"""What the tests of commands share: a tiny checkpoint, made by the command that makes them, once; and what is played."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.background import Background
from tests.nodes.media.files import Clip


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


@pytest.fixture
def question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Half a second of stereo at 22,050 Hz, in the working folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    soundfile.write("q.wav", 0.1 * rng.standard_normal((11_025, 2)), 22_050, subtype="FLOAT")
    return tmp_path / "q.wav"


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("v.mp4").write_bytes(Clip(seconds=1.0, fps=8, audio="aac").encode())
    return tmp_path / "v.mp4"
