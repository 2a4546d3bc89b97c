"""Attention by blocks against transformers' masked attention, for every pattern a checkpoint might have."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen2_5_omni import configuration_qwen2_5_omni as configuration
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as reference

from omni_nodes.qwen2_5_omni.block_attention import attend, lay_out


def attention(heads: int) -> tuple[reference.DiTAttention, reference.Qwen2_5OmniDiTRotaryEmbedding]:
    """A random attention layer of ``heads`` heads of 8, and its RoPE."""
    config = configuration.Qwen2_5OmniDiTConfig(
        hidden_size=20,
        num_attention_heads=heads,
        head_dim=8,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    config._attn_implementation = "sdpa"
    layer, generator = reference.DiTAttention(config).eval(), torch.Generator().manual_seed(heads)
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return layer, reference.Qwen2_5OmniDiTRotaryEmbedding(config)


@pytest.mark.parametrize("reach", [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (3, 2), (0, 9)])
@pytest.mark.parametrize("block", [1, 5, 24])
@torch.no_grad()
def test_blocks_attend_as_under_transformers_mask(reach: tuple[int, int], block: int) -> None:
    """Windows of unequal length in one call; each must equal its own masked attention."""
    layer, rotary = attention(heads=3)
    lengths = (block, 4 * block, 1, 7 * block - block // 2)
    generator = torch.Generator().manual_seed(block)
    windows = [torch.randn(length, 20, generator=generator) for length in lengths]
    layout = lay_out(lengths, block, {reach}, rotary)
    padded = [torch.nn.functional.pad(window, (0, 0, 0, -len(window) % block), value=9.0) for window in windows]
    hidden = torch.cat(padded).view(-1, block, 20)
    ours = attend(layer, hidden, layout.rope, layout.neighbours[reach]).split(list(layout.blocks))
    for window, result in zip(windows, ours, strict=True):
        positions = torch.arange(len(window))
        difference = positions[None] // block - positions[:, None] // block
        mask = (difference >= -reach[0]) & (difference <= reach[1])
        expected = layer(window[None], rotary(window, positions[None]), mask[None, None])[0]
        torch.testing.assert_close(result.flatten(0, 1)[: len(window)], expected, atol=1e-5, rtol=0)


def test_full_blocks_that_see_only_themselves_need_no_mask() -> None:
    """The usual layer runs without a mask; one frame less and it must have one."""
    _, rotary = attention(heads=1)
    assert lay_out((48, 24), 24, {(0, 0)}, rotary).neighbours[0, 0].mask is None
    assert lay_out((48, 23), 24, {(0, 0)}, rotary).neighbours[0, 0].mask is not None
