"""One request's rows: what was fed, how much of it is in the KV, and how much was handed back.

All rows are kept until the request is closed, because one that is preempted computes them again: at most ``capacity`` of
its engine.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import torch

from omni_nodes.engine.prefix import BlockKeys


@dataclass(frozen=True, slots=True)
class Rows:
    """Decoder inputs ``embeddings`` (n, H) with their rotary ``positions`` (3, n) int64. ``identity``: see ``prefix``; empty
    where the rows must not be found again."""

    embeddings: torch.Tensor
    positions: torch.Tensor
    identity: bytes = b""

    def __len__(self) -> int:
        return len(self.embeddings)


class Sequence:
    """``fed`` rows in all: the first ``cached`` are in the KV, the first ``handed`` were given to the caller. ``claim`` is
    what the request may come to hold, ``keys`` are those of its full blocks. While ``more`` rows are to come, those that do
    not fill a block wait for them: the whole block may be found."""

    def __init__(self, block_size: int) -> None:
        self.claim = 0
        self.fed = 0
        self.cached = 0
        self.handed = 0
        self.more = False
        self._block_size = block_size
        self._blocks = BlockKeys(block_size)
        self._pieces: list[Rows] = []
        self._starts: list[int] = []

    @property
    def waiting(self) -> int:
        """Rows that could be computed and are not in the KV."""
        return self.fed - (self.fed % self._block_size if self.more else 0) - self.cached

    @property
    def silent(self) -> int:
        """Rows to compute again that were handed back before."""
        return max(0, self.handed - self.cached)

    @property
    def keys(self) -> list[bytes]:
        """Of the blocks that the rows fed so far fill, as far as those have an identity."""
        return self._blocks.keys

    def feed(self, rows: Rows) -> None:
        """Append rows. The claim grows with them where it was too small."""
        assert rows.positions.shape == (3, len(rows)), f"positions {tuple(rows.positions.shape)} for {len(rows)} rows"
        if not len(rows):
            return
        self._blocks.add(rows.identity, len(rows))
        self._pieces.append(rows)
        self._starts.append(self.fed)
        self.fed += len(rows)
        self.claim = max(self.claim, self.fed)

    def take(self, count: int) -> Rows:
        """The next ``count`` waiting rows, which are cached from now on."""
        assert 0 < count <= self.waiting, f"{count} rows asked, {self.waiting} wait"
        self.cached += count
        return self.rows(self.cached - count, self.cached)

    def rows(self, start: int, end: int) -> Rows:
        """Rows ``start`` to ``end``, without their identity."""
        parts: list[Rows] = []
        for index in range(bisect_right(self._starts, start) - 1, bisect_right(self._starts, end - 1)):
            piece, first = self._pieces[index], self._starts[index]
            inside = slice(max(0, start - first), end - first)
            parts.append(Rows(piece.embeddings[inside], piece.positions[:, inside]))
        if len(parts) == 1:
            return parts[0]
        return Rows(torch.cat([p.embeddings for p in parts]), torch.cat([p.positions for p in parts], 1))
