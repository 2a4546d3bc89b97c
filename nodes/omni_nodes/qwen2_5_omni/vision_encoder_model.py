"""The vision encoder's compute: transformers' Qwen2_5OmniVisionEncoder over a batch of independent pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniVisionEncoder

from omni_graph.payload import Array
from omni_nodes.linears import pack_linears
from omni_nodes.tensors import finite_pieces, to_tensor

Picture = tuple[tuple[int, int, int], Sequence[Array]]


class VisionEncoderModel:
    """Encodes pictures, each of one temporal grid."""

    def __init__(self, encoder: Qwen2_5OmniVisionEncoder) -> None:
        self._encoder = pack_linears(encoder)
        self._merged = encoder.spatial_merge_size**2
        self._device = encoder.merger.ln_q.weight.device

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[Array | None]:
        """(grid (1, h, w), pieces (n, values) float32 of its h * w patches) to rows (h * w / 4, H), in order; None for a
        picture whose rows are not finite numbers."""
        if not pictures:
            return []
        patches = torch.cat([to_tensor(piece) for _, pieces in pictures for piece in pieces]).to(self._device)
        grids = torch.tensor([grid for grid, _ in pictures], device=self._device)
        rows = self._encoder(patches, grid_thw=grids).pooler_output
        counts = [height * width // self._merged for (_, height, width), _ in pictures]
        return finite_pieces(rows, counts)
