"""The encoder rows of one request and modality that have arrived and not yet found their place. Pure: numpy alone."""

from __future__ import annotations

from collections import deque

import numpy as np

from omni_graph.payload import Array
from omni_nodes.payloads import Embeddings


class EmbeddingRows:
    """A queue of rows (n, H), filled by the packet and emptied by the row."""

    def __init__(self) -> None:
        self._pieces: deque[np.ndarray] = deque()
        self._count = 0
        self._dtype = ""
        self._row_bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; 0 until the first packet."""
        return self._row_bytes

    def push(self, packet: Embeddings) -> None:
        """Append the packet's rows, by reference."""
        values = packet.values.values
        self._dtype = packet.values.dtype
        self._row_bytes = values.shape[1] * values.itemsize
        if len(values):
            self._pieces.append(values)
            self._count += len(values)

    def take(self, count: int) -> Array:
        """The next ``count`` rows, (count, H); there are that many."""
        assert 0 < count <= self._count
        self._count -= count
        taken: list[np.ndarray] = []
        while count:
            piece = self._pieces.popleft()
            if len(piece) > count:
                self._pieces.appendleft(piece[count:])
            taken.append(piece[:count])
            count -= len(taken[-1])
        return Array.of(taken[0] if len(taken) == 1 else np.concatenate(taken), self._dtype)
