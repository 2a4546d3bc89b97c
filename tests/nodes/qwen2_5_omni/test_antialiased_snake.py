"""The activation by matrix products is transformers' activation by convolutions, at every length."""

from __future__ import annotations

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as reference

from omni_nodes.qwen2_5_omni.antialiased_snake import BLOCK, AntiAliasedSnake, replace_activations

torch.set_num_threads(1)


def theirs(channels: int, seed: int) -> reference.Qwen2_5OmniAntiAliasedActivation1d:
    generator = torch.Generator().manual_seed(seed)
    activation = reference.Qwen2_5OmniAntiAliasedActivation1d(reference.Qwen2_5OmniSnakeBeta(channels))
    for parameter in activation.requires_grad_(False).parameters():
        parameter.normal_(generator=generator)
    return activation.eval()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5 * BLOCK), st.integers(0, 999))
@example(1, 1, BLOCK, 0)
@example(1, 1, 1, 0)
def test_it_is_transformers_activation(batch: int, channels: int, length: int, seed: int) -> None:
    activation = theirs(channels, seed)
    sound = torch.randn(batch, channels, length, generator=torch.Generator().manual_seed(seed)) * 3
    expected = activation(sound)
    assert torch.allclose(
        AntiAliasedSnake(activation)(sound), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
    )


def test_a_vocoder_keeps_none_of_the_slower_ones() -> None:
    config = reference.Qwen2_5OmniBigVGANConfig(mel_dim=16, upsample_initial_channel=64)
    vocoder = reference.Qwen2_5OmniToken2WavBigVGANModel(config).eval().requires_grad_(False)
    mel = torch.randn(1, 16, 9, generator=torch.Generator().manual_seed(0))
    expected = vocoder(mel)
    replace_activations(vocoder)
    kinds = [type(module) for module in vocoder.modules()]
    assert kinds.count(AntiAliasedSnake) == 6 * len(vocoder.resblocks) + 1
    assert reference.Qwen2_5OmniAntiAliasedActivation1d not in kinds
    assert torch.allclose(vocoder(mel), expected, atol=1e-5)
