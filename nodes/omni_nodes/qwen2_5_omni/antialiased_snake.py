"""BigVGAN's anti-aliased activation as two matrix products: twice as fast on a CPU as its depthwise convolutions.

Equal to transformers' Qwen2_5OmniAntiAliasedActivation1d: every channel has the same two filters, so a stretch of BLOCK
samples times a banded matrix is the filtered stretch. B batch, C channels, T samples.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as reference

from omni_nodes.linears import pack_linears

BLOCK = 16  # samples a row of the product; a longer one multiplies more zeros
TAPS = 12
UP_REACH = 3  # an upsampled sample depends on so many before and behind its own
DOWN_REACH = 5  # a sample, on so many upsampled ones before and behind its own two


class AntiAliasedSnake(nn.Module):
    """Twice upsampled, SnakeBeta (x + sin(alpha x)**2 / beta), and back, on (B, C, T)."""

    def __init__(self, activation: reference.Qwen2_5OmniAntiAliasedActivation1d) -> None:
        super().__init__()
        up, snake, down = activation.upsample, activation.act, activation.downsample
        assert (up.ratio, up.kernel_size, down.stride, down.kernel_size) == (2, TAPS, 2, TAPS)
        source, target = torch.arange(BLOCK + 2 * UP_REACH)[:, None], torch.arange(2 * BLOCK)
        self._up = _linear(2 * _taken(up.filter.flatten(), target + TAPS - 1 - 2 * source))
        source, target = torch.arange(2 * (BLOCK + DOWN_REACH))[:, None], torch.arange(BLOCK)
        self._down = _linear(_taken(down.filter.flatten(), source - 2 * target))
        self._alpha = snake.alpha.exp()[:, None]
        self._gain = 1 / (snake.beta.exp() + snake.no_div_by_zero)[:, None]

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        length, rest = sound.shape[2], -sound.shape[2] % BLOCK
        windows = _extended(sound, UP_REACH, UP_REACH + rest).unfold(2, BLOCK + 2 * UP_REACH, BLOCK)
        high = self._up(windows).flatten(2)[..., : 2 * length]
        high = torch.addcmul(high, (high * self._alpha).sin_().square_(), self._gain)
        windows = _extended(high, DOWN_REACH, DOWN_REACH + 2 * rest).unfold(2, 2 * (BLOCK + DOWN_REACH), 2 * BLOCK)
        result: torch.Tensor = self._down(windows).flatten(2)
        return result[..., :length]


def replace_activations(vocoder: reference.Qwen2_5OmniToken2WavBigVGANModel) -> None:
    """Swap every anti-aliased activation of the vocoder for the faster one, in place."""
    for name, child in list(vocoder.named_modules()):
        if isinstance(child, reference.Qwen2_5OmniAntiAliasedActivation1d):
            parent, _, attribute = name.rpartition(".")
            setattr(vocoder.get_submodule(parent), attribute, AntiAliasedSnake(child))


def _extended(sound: torch.Tensor, before: int, behind: int) -> torch.Tensor:
    """The first and the last sample repeated."""
    first, last = sound[..., :1].expand(-1, -1, before), sound[..., -1:].expand(-1, -1, behind)
    return torch.cat((first, sound, last), 2)


def _taken(taps: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """(sources, targets): the tap of each index, 0 where there is none."""
    there = (indices >= 0) & (indices < len(taps))
    return torch.where(there.to(taps.device), taps[indices.clamp(0, len(taps) - 1)], 0)


def _linear(matrix: torch.Tensor) -> nn.Module:
    """(..., sources) -> (..., targets)."""
    layer = nn.Linear(*matrix.shape, bias=False, device="meta")
    layer.weight = nn.Parameter(matrix.T.contiguous(), requires_grad=False)
    return pack_linears(layer)
