"""The device that these tests run on: CUDA, skipped where there is none. ``TEST_DEVICE=cpu`` runs them on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.nodes.qwen2_5_omni.conftest import built, reference, tiny_folder

__all__ = ["built", "device", "reference", "tiny_folder"]


@pytest.fixture(scope="session")
def device() -> Iterator[str]:
    """Convolutions in plain float32, as matrix products are: what is compared is the arithmetic, not TF32."""
    name = os.environ.get("TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device; TEST_DEVICE=cpu runs these tests on the CPU")
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield name
    torch.backends.cudnn.allow_tf32 = before
