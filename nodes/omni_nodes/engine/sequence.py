"""One request's rows on their way into the decoder: what has been fed and not yet computed, in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Rows:
    """Decoder inputs ``embeddings`` (n, H) with their rotary ``positions`` (3, n) int64."""

    embeddings: torch.Tensor
    positions: torch.Tensor

    def __len__(self) -> int:
        return len(self.embeddings)


class Sequence:
    """``cached`` rows are in the KV, ``waiting`` rows come after them; ``claim`` is what the request may come to hold."""

    def __init__(self, claim: int) -> None:
        self.claim = claim
        self.cached = 0
        self.waiting = 0
        self._pieces: deque[Rows] = deque()

    def feed(self, rows: Rows) -> None:
        """Append rows. The claim grows with them where it was too small."""
        assert rows.positions.shape == (3, len(rows)), f"positions {tuple(rows.positions.shape)} for {len(rows)} rows"
        if not len(rows):
            return
        self._pieces.append(rows)
        self.waiting += len(rows)
        self.claim = max(self.claim, self.cached + self.waiting)

    def take(self, count: int) -> Rows:
        """The next ``count`` waiting rows, which are cached from now on."""
        assert 0 < count <= self.waiting, f"{count} rows asked, {self.waiting} wait"
        self.cached += count
        self.waiting -= count
        parts: list[Rows] = []
        while count:
            piece = self._pieces.popleft()
            if len(piece) > count:
                self._pieces.appendleft(Rows(piece.embeddings[count:], piece.positions[:, count:]))
                piece = Rows(piece.embeddings[:count], piece.positions[:, :count])
            parts.append(piece)
            count -= len(piece)
        if len(parts) == 1:
            return parts[0]
        return Rows(torch.cat([p.embeddings for p in parts]), torch.cat([p.positions for p in parts], 1))
