"""One packed forward of an unmodified transformers decoder over the rows of several requests.

Linear layers see all rows as one sequence; attention runs a request at a time over its own blocks. It enters through
transformers' AttentionInterface, so the decoder gets no mask and no cache object of transformers'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from omni_nodes.compiled import compile_layers, not_compiled
from omni_nodes.engine.kv import KVShape, Pack, PagedKV, Span
from omni_nodes.engine.sequence import Rows, join
from omni_nodes.linears import pack_linears

ATTENTION, BESIDE_COMPILED = "omni_packed", "omni_packed_beside_compiled"


@dataclass(frozen=True, slots=True)
class PackedStep:
    """What the attention of every layer needs of the running step; ``masks`` are of the pack's spans."""

    kv: PagedKV
    pack: Pack
    masks: tuple[torch.Tensor | None, ...]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    packed: PackedStep,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each request. ``query`` (1, heads, rows, d), ``key`` and ``value`` (1, kv heads, rows, d) of
    the new rows; returns (1, rows, heads, d). The signature is transformers' attention interface."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    packed.kv.write(layer, packed.pack, key[0].transpose(0, 1), value[0].transpose(0, 1))
    parts = [
        _attend(query[:, :, span.first : span.first + span.count], *packed.kv.read(layer, span), mask, scaling)
        for span, mask in zip(packed.pack.spans, packed.masks, strict=True)
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """``query`` (1, heads, count, d) against (length, kv heads, d); ``mask`` None: one query, which sees them all."""
    keys, values = key.transpose(0, 1)[None], value.transpose(0, 1)[None]
    if mask is None:  # the heads of one group become rows: no copy of keys, three times as fast as enable_gqa
        grouped = query.reshape(1, keys.shape[1], -1, query.shape[-1])
        return F.scaled_dot_product_attention(grouped, keys, values, scale=scaling).reshape(query.shape)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=True)


def causal_mask(span: Span) -> torch.Tensor | None:
    """(count, length) bool, where query i sees the rows up to its own; None for one query."""
    if span.count == 1:
        return None
    mask = torch.ones((span.count, span.length), dtype=torch.bool, device=span.slots.device)
    return mask.tril(span.length - span.count)


def kv_shape(decoder: torch.nn.Module) -> KVShape:
    """What one row of ``decoder`` takes in the KV, from its config."""
    config: Any = decoder.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KVShape(config.num_hidden_layers, config.num_key_value_heads, head_dim, next(decoder.parameters()).dtype)


class Runner:
    """Runs a decoder: a transformers text model that takes ``inputs_embeds``, (3, 1, n) ``position_ids``, and extras of its
    rows, (1, n, ...) each, in a step where rows have any.

    The decoder is its own from then on: its linear layers are packed in place (omni_nodes.linears), or its layers are
    compiled (omni_nodes.compiled), all but their attention.
    """

    def __init__(
        self,
        decoder: torch.nn.Module,
        kv: PagedKV,
        project: Callable[[torch.Tensor], torch.Tensor] | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        name = BESIDE_COMPILED if compiled else ATTENTION
        AttentionInterface.register(name, not_compiled(packed_attention) if compiled else packed_attention)
        decoder.config._attn_implementation = name  # type: ignore[union-attr]
        if compiled:
            compile_layers(decoder.layers)  # type: ignore[arg-type]
        self._decoder = decoder if compiled else pack_linears(decoder)
        self._project = project
        self._kv = kv

    @torch.inference_mode()
    def run(self, slices: Sequence[tuple[str, Rows]]) -> list[torch.Tensor]:
        """The last hidden states (n, H), after the final norm, of each request's rows."""
        counts = [(request, len(rows)) for request, rows in slices]
        pack = self._kv.pack(counts)
        step = PackedStep(self._kv, pack, tuple(causal_mask(span) for span in pack.spans))
        joined = join([rows for _, rows in slices])
        embeddings = joined.embeddings if self._project is None else self._project(joined.embeddings)
        output = self._decoder(
            inputs_embeds=embeddings[None],
            position_ids=joined.positions[:, None],
            use_cache=False,
            packed=step,
            **{name: extra[None] for name, extra in joined.extras.items()},
        )
        return list(output.last_hidden_state[0].split([count for _, count in counts]))
