"""The graph on a device in the dtype that is the device's own: bfloat16 on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omni_nodes.qwen2_5_omni.weights import resolve_dtype
from tests.nodes.qwen2_5_omni.apps import DTYPED, in_dtype, launch
from tests.nodes.qwen2_5_omni.test_bfloat16 import check_session


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_a_session_in_the_dtype_of_the_device(tiny_folder: Path, device: str, compiled: str) -> None:
    stages = {name: {"device": device} for name in (*DTYPED, "codec_dit", "bigvgan")}
    settings = [*in_dtype("auto"), *(f"nodes.{name}.config.compile={compiled}" for name in ("talker", "codec_dit"))]
    with launch(tiny_folder, settings=settings, stages=stages) as app:
        check_session(app, resolve_dtype("auto", torch.device(device)))
