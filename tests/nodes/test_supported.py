"""A transformers that the parity tests do not cover is refused at start, with what to install."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from omni_nodes.supported import UnsupportedVersion, require_transformers


def test_the_installed_one_is_supported() -> None:
    require_transformers()


@pytest.mark.parametrize("other", ["5.22.1", "5.24.0", "5.230.0", "4.57.1"])
def test_any_other_is_refused(other: str) -> None:
    with pytest.raises(UnsupportedVersion, match=rf"transformers {other} is installed; supported: ~=5\.23\.0"):
        require_transformers(other)


def test_a_stage_stops_at_start() -> None:
    script = (
        "import importlib.metadata as m; real = m.version\n"
        "m.version = lambda name: '5.24.0' if name == 'transformers' else real(name)\n"
        "import omni_nodes.supported as s; s.version = m.version\n"
        "import omni_nodes.qwen2_5_omni.weights\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "UnsupportedVersion: transformers 5.24.0 is installed" in ran.stderr
    assert importlib.metadata.version("transformers").startswith("5.23.")
