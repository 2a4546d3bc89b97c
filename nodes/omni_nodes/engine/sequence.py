"""One request's rows: what was fed, how much of it is in the KV, and how much was handed back.

All rows are kept until the request is closed, because one that is preempted computes them again: at most ``capacity`` of
its engine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from omni_nodes.engine.prefix import BlockKeys


@dataclass(frozen=True, slots=True)
class Rows:
    """Decoder inputs ``embeddings`` (n, H) with their rotary ``positions`` (3, n), int64 or float. ``extras``: what else the
    decoder takes of each row, (n, ...) by the name of its keyword; zero in rows that do not have it. ``identity``: what all
    of that is, see ``prefix``; empty where the rows must not be found again."""

    embeddings: torch.Tensor
    positions: torch.Tensor
    identity: bytes = b""
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.embeddings)

    def cut(self, start: int, end: int) -> Rows:
        """Rows ``start`` to ``end``, without their identity."""
        extras = {name: extra[start:end] for name, extra in self.extras.items()}
        return Rows(self.embeddings[start:end], self.positions[:, start:end], extras=extras)


def join(parts: list[Rows]) -> Rows:
    """One or more, one after another, without their identity."""
    if len(parts) == 1:
        return parts[0]
    samples = {name: extra for part in parts for name, extra in part.extras.items()}
    extras = {name: torch.cat([_extra(part, name, sample) for part in parts]) for name, sample in samples.items()}
    embeddings, positions = torch.cat([p.embeddings for p in parts]), torch.cat([p.positions for p in parts], 1)
    return Rows(embeddings, positions, extras=extras)


def _extra(rows: Rows, name: str, sample: torch.Tensor) -> torch.Tensor:
    """What ``rows`` have of an extra that looks like ``sample``."""
    extra = rows.extras.get(name)
    return sample.new_zeros(len(rows), *sample.shape[1:]) if extra is None else extra


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
        for name, extra in rows.extras.items():
            assert len(extra) == len(rows), f"{name} {tuple(extra.shape)} for {len(rows)} rows"
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
            first = self._starts[index]
            parts.append(self._pieces[index].cut(max(0, start - first), end - first))
        return join(parts)
