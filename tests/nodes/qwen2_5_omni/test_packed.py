"""What each stage holds on a CPU: packed linear layers and no plain one, or it would serve at half its speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from omni_nodes import linears
from omni_nodes.linears import PackedLinear
from omni_nodes.qwen2_5_omni.audio_encoder import AudioEncoder
from omni_nodes.qwen2_5_omni.bigvgan import BigVGAN
from omni_nodes.qwen2_5_omni.codec_dit import CodecDiT
from omni_nodes.qwen2_5_omni.talker import Talker
from omni_nodes.qwen2_5_omni.thinker import Thinker
from omni_nodes.qwen2_5_omni.vision_encoder import VisionEncoder


def layers_of(node: Any) -> list[nn.Module]:
    """Every torch module that a node holds, itself or in an object of ours."""
    found: dict[int, nn.Module] = {}
    seen, waiting = set[int](), [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, nn.Module):
            found.update((id(module), module) for module in one.modules())
        elif type(one).__module__.startswith("omni_nodes.") and id(one) not in seen:
            seen.add(id(one))
            waiting += getattr(one, "__dict__", {}).values()
    return list(found.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cls", [AudioEncoder, VisionEncoder, Thinker, Talker, CodecDiT, BigVGAN])
def test_a_stage_holds_packed_layers_and_no_plain_one(cls: Any, dtype: str, tiny_folder: Path) -> None:
    if getattr(torch, dtype) not in linears._packed_dtypes():
        pytest.skip(f"this torch packs no layers of {dtype}")
    kinds = [type(layer) for layer in layers_of(cls(str(tiny_folder), device="cpu", dtype=dtype))]
    assert kinds.count(PackedLinear) > 0
    assert kinds.count(nn.Linear) == 0
