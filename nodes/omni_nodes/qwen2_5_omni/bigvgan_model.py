"""BigVGAN's computation: mel windows of one shape to sound. transformers' own module, but for its activations; knows no port
and no request."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as reference

from omni_nodes.linears import own_parameters
from omni_nodes.qwen2_5_omni.antialiased_snake import replace_activations

SAMPLE_RATE = 24_000


class BigVGANModel:
    """The vocoder of one checkpoint, whose activations it replaces in place. Stateless.

    Its layers compute in ``dtype``; what it makes of the mel before the first of them, and the sound, are float32.
    """

    def __init__(self, vocoder: reference.Qwen2_5OmniToken2WavBigVGANModel, dtype: torch.dtype = torch.float32) -> None:
        self._vocoder = vocoder.to(dtype).eval()  # type: ignore[arg-type]
        own_parameters(vocoder)
        replace_activations(vocoder)
        vocoder.conv_pre.register_forward_pre_hook(lambda _, args: args[0].to(dtype))
        self._device = vocoder.conv_pre.weight.device
        self.samples_per_frame = math.prod(vocoder.config.upsample_rates)

    @torch.inference_mode()
    def vocode(self, mels: Sequence[np.ndarray]) -> np.ndarray:
        """Mels of one shape (n, bins) float32 to sound (len(mels), n * samples_per_frame) float32 within -1..1."""
        batch = torch.from_numpy(np.stack(mels)).to(self._device)
        sound: torch.Tensor = self._vocoder(batch.transpose(1, 2))
        return sound.float().reshape(len(mels), -1).numpy()
