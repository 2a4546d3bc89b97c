"""The keys and values of all requests, in one bounded pool of blocks a layer, and where asked their hidden states.

Never decides who gets a block (the scheduler does) and never copies a row that it does not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from omni_nodes.engine.blocks import BlockPool


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one row takes: ``layers`` x (key, value) x ``heads`` x ``head_dim`` numbers of ``dtype``, and ``hidden`` more for
    the last hidden state where it is kept too."""

    layers: int
    heads: int
    head_dim: int
    dtype: torch.dtype
    hidden: int = 0

    @property
    def row_bytes(self) -> int:
        return (2 * self.layers * self.heads * self.head_dim + self.hidden) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Span:
    """One request's part of a packed step: its queries ``first`` .. ``first + count`` of the pack, and where its ``length``
    rows, those of this step included, lie in the pool: ``slots`` (length,) int64."""

    first: int
    count: int
    length: int
    slots: torch.Tensor


@dataclass(frozen=True, slots=True)
class Pack:
    """One step over several requests. ``write`` (total new rows,) int64: the slots for the pack's rows, in order."""

    write: torch.Tensor
    spans: tuple[Span, ...]


class PagedKV:
    """The pool. Keys and values are (slots, heads, head_dim) a layer, hidden states (slots, H); slot = block * block_size +
    row in the block."""

    def __init__(self, shape: KVShape, *, blocks: int, block_size: int, device: torch.device) -> None:
        self.pool = BlockPool(blocks, block_size)
        size = (blocks * block_size, shape.heads, shape.head_dim)
        self._keys = [torch.zeros(size, dtype=shape.dtype, device=device) for _ in range(shape.layers)]
        self._values = [torch.zeros(size, dtype=shape.dtype, device=device) for _ in range(shape.layers)]
        self._hidden = torch.zeros((size[0], shape.hidden), dtype=shape.dtype, device=device) if shape.hidden else None
        self._slots: dict[str, torch.Tensor] = {}
        self._lengths: dict[str, int] = {}
        self._device = device

    def pack(self, counts: Sequence[tuple[str, int]]) -> Pack:
        """Reserve slots for the new rows of each (request, count) and say where everything lies."""
        spans: list[Span] = []
        first = 0
        for request, count in counts:
            length = self._lengths.get(request, 0) + count
            self._lengths[request] = length
            if self.pool.extend(request, length):
                self._slots[request] = self._slots_of(request)
            spans.append(Span(first, count, length, self._slots[request][:length]))
            first += count
        return Pack(torch.cat([s.slots[s.length - s.count :] for s in spans]), tuple(spans))

    def write(self, layer: int, pack: Pack, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store this step's ``keys`` and ``values`` (total new rows, heads, head_dim)."""
        self._keys[layer].index_copy_(0, pack.write, keys)
        self._values[layer].index_copy_(0, pack.write, values)

    def read(self, layer: int, span: Span) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values (length, heads, head_dim) of one request."""
        return self._keys[layer].index_select(0, span.slots), self._values[layer].index_select(0, span.slots)

    def adopt(self, request: str, first: int, blocks: Sequence[int]) -> None:
        """Let a request's rows from block ``first`` on be those that ``blocks`` hold already (see ``BlockPool``)."""
        self.pool.adopt(request, first, blocks)
        self._slots[request] = self._slots_of(request)
        self._lengths[request] = (first + len(blocks)) * self.pool.block_size

    def keep_hidden(self, requests: Sequence[str], hidden: Sequence[torch.Tensor]) -> None:
        """Store the hidden states (n, H) of each request's last rows, where they are to be kept."""
        if self._hidden is not None:
            lengths = [self._lengths[request] for request in requests]
            slots = [self._slots[r][end - len(one) : end] for r, end, one in zip(requests, lengths, hidden)]
            self._hidden.index_copy_(0, torch.cat(slots), torch.cat(list(hidden)))

    def hidden(self, request: str, start: int, end: int) -> torch.Tensor | None:
        """The hidden states (end - start, H) of a request's rows; None where none are kept."""
        return None if self._hidden is None else self._hidden.index_select(0, self._slots[request][start:end])

    def release(self, request: str) -> None:
        """Forget a request and free its blocks; nothing where it is unknown."""
        self.pool.release(request)
        self._slots.pop(request, None)
        self._lengths.pop(request, None)

    def _slots_of(self, request: str) -> torch.Tensor:
        size = self.pool.block_size
        blocks = torch.tensor(self.pool.table(request), dtype=torch.int64, device=self._device)
        return (blocks[:, None] * size + torch.arange(size, device=self._device)).flatten()
