"""The audio encoder's compute: transformers' Qwen2_5OmniAudioEncoder over a batch of independent mel blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from omni_graph.errors import NodeError
from omni_graph.payload import Array
from omni_nodes.linears import pack_linears
from omni_nodes.qwen2_5_omni.layout import audio_tokens
from omni_nodes.tensors import finite_pieces, to_tensor


class AudioEncoderModel:
    """Encodes blocks as if each were a clip of its own, which for blocks of ``2 * n_window`` frames is the whole clip."""

    def __init__(self, encoder: Qwen2_5OmniAudioEncoder) -> None:
        if encoder.n_window % 2:
            raise NodeError(f"n_window is {encoder.n_window}; an odd one pools across blocks, which cannot be streamed")
        self._device = encoder.proj.weight.device
        self._encoder = pack_linears(encoder)

    @torch.inference_mode()
    def encode(self, blocks: Sequence[Array]) -> list[Array | None]:
        """Mel blocks (bins, frames) float32 to rows (tokens, H), in order; no rows for a block of less than 3 frames, and
        None for one whose rows are not finite numbers."""
        frames = [block.shape[1] for block in blocks]
        tokens = [audio_tokens(count) for count in frames]
        full = [index for index, count in enumerate(tokens) if count]
        rows: list[Array | None] = [Array.empty(0, 0)] * len(blocks)
        if not full:
            return rows
        mel = torch.cat([to_tensor(blocks[index]) for index in full], dim=1).to(self._device)
        lengths = torch.tensor([frames[index] for index in full], device=self._device)
        encoded = self._encoder(mel, feature_lens=lengths).last_hidden_state
        for index, piece in zip(full, finite_pieces(encoded, [tokens[index] for index in full]), strict=True):
            rows[index] = piece
        return rows
