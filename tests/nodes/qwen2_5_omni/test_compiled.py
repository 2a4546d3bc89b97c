"""The compiled parts on a CPU: the tests that a GPU runs (tests/gpu/test_compiled.py), and what a CPU may lack.

Slow, because ``compile`` is for GPUs and off by default, and a machine that compiles for the first time takes a minute.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from omni_graph.errors import NodeError
from omni_nodes.qwen2_5_omni.codec_dit import CodecDiT
from omni_nodes.qwen2_5_omni.talker import Talker
from tests.gpu.test_compiled import (  # noqa: F401
    nothing_compiled,
    test_a_compiled_dit_is_transformers,
    test_a_compiled_talker_says_transformers_codes,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
]


@pytest.fixture(scope="module")
def device() -> str:
    return "cpu"


@pytest.mark.parametrize("node", [CodecDiT, Talker])
def test_without_a_compiler_a_node_does_not_start(node: Any, tiny_folder: Path) -> None:
    config = torch._inductor.config
    without = config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    with (
        without,
        pytest.raises(NodeError, match=r"torch\.compile failed: .*no-such-compiler.*; compile: false needs none"),
    ):
        node(str(tiny_folder), device="cpu", compile=True)
