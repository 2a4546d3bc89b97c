"""The codec DiT's attention, block by block: linear in length, many windows packed on one axis of blocks.

Equal to transformers' DiTAttention under its (T, T) block mask. A block attends to blocks of its own window only, so
windows of any length share a call, and no row's result depends on another window.

Shapes: N blocks of all windows, B frames a block, K blocks attended to, D hidden, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as reference

Reach = tuple[int, int]  # blocks that a layer looks back, and ahead


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each block, the blocks it attends to (N, K), and which of their frames count (N, 1, 1, K * B); None: all."""

    blocks: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Layout:
    """How windows of ``lengths`` frames lie on the axis of blocks; a last block that is not full is padded.

    ``rope`` is (cos, sin), each (N, B, head): positions count from the start of each window.
    """

    lengths: tuple[int, ...]
    blocks: tuple[int, ...]
    rope: tuple[torch.Tensor, torch.Tensor]
    neighbours: dict[Reach, Neighbours]


def lay_out(
    lengths: tuple[int, ...], block_frames: int, reaches: set[Reach], rotary: reference.Qwen2_5OmniDiTRotaryEmbedding
) -> Layout:
    """The layout of windows of ``lengths`` frames, for layers with these ``reaches``, on the device of ``rotary``."""
    device = rotary.inv_freq.device
    blocks = tuple(-(-length // block_frames) for length in lengths)
    counts = torch.tensor(blocks)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    last = first + counts.repeat_interleave(counts) - 1
    positions = (torch.arange(len(first)) - first)[:, None] * block_frames + torch.arange(block_frames)
    real = positions < torch.tensor(lengths).repeat_interleave(counts)[:, None]
    neighbours = {reach: _neighbours(reach, first, last, real, device) for reach in reaches}
    return Layout(lengths, blocks, rotary(rotary.inv_freq, positions.to(device)), neighbours)


def _neighbours(
    reach: Reach, first: torch.Tensor, last: torch.Tensor, real: torch.Tensor, device: torch.device
) -> Neighbours:
    own = torch.arange(len(first))[:, None]
    blocks = own + torch.arange(-reach[0], reach[1] + 1)
    inside = (blocks >= first[:, None]) & (blocks <= last[:, None])
    blocks = torch.where(inside, blocks, own)  # masked, and never another window's block
    mask = (inside[:, :, None] & real[blocks]).flatten(1)
    return Neighbours(blocks.to(device), None if bool(mask.all()) else mask[:, None, None].to(device))


def attend(
    attention: reference.DiTAttention,
    hidden: torch.Tensor,
    rope: tuple[torch.Tensor, torch.Tensor],
    neighbours: Neighbours,
) -> torch.Tensor:
    """DiTAttention.forward over ``hidden`` (N, B, D): each block attends to its neighbours only."""
    query = _rotate_first_head(_heads(attention, attention.to_q(hidden)), rope)
    key = _rotate_first_head(_heads(attention, attention.to_k(hidden)), rope)
    value = _heads(attention, attention.to_v(hidden))
    out = functional.scaled_dot_product_attention(
        query.transpose(1, 2), _gather(key, neighbours), _gather(value, neighbours), attn_mask=neighbours.mask
    )
    projected: torch.Tensor = attention.to_out[0](out.transpose(1, 2).flatten(2))
    return projected


def _heads(attention: reference.DiTAttention, projected: torch.Tensor) -> torch.Tensor:
    return projected.reshape(*projected.shape[:2], attention.heads, -1)


def _rotate_first_head(states: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """RoPE (interleaved pairs) in place, on head 0 of (N, B, H, head) and on no other, as the checkpoint was trained."""
    cos, sin = rope
    first = reference.deinterleave_head_dim(states[:, :, 0])
    states[:, :, 0] = first * cos + reference.rotate_half(first) * sin
    return states


def _gather(states: torch.Tensor, neighbours: Neighbours) -> torch.Tensor:
    """(N, B, H, head) -> (N, H, K * B, head)."""
    if neighbours.blocks.shape[1] > 1:
        states = states[neighbours.blocks].flatten(1, 2)
    return states.transpose(1, 2)
