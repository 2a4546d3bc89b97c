"""The encoder rows of one request and modality that have arrived and not yet found their place. Pure: numpy alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from omni_graph.payload import Array
from omni_nodes.embedding_cache import KEY_BYTES
from omni_nodes.payloads import Embeddings


@dataclass(frozen=True, slots=True)
class _Run:
    """``rows`` (n, H) that are rows ``first`` and on of the packet with ``key``."""

    rows: np.ndarray
    key: bytes
    first: int


class EmbeddingRows:
    """A queue of rows (n, H), filled by the packet and emptied by the row."""

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque()
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
            self._runs.append(_Run(values, packet.content_key, 0))
            self._count += len(values)

    def take(self, count: int) -> Embeddings:
        """The next ``count`` rows, (count, H), under a key that digests which rows of which packets they are.

        There are that many.
        """
        assert 0 < count <= self._count
        self._count -= count
        taken: list[_Run] = []
        while count:
            run = self._runs.popleft()
            if len(run.rows) > count:
                self._runs.appendleft(_Run(run.rows[count:], run.key, run.first + count))
                run = _Run(run.rows[:count], run.key, run.first)
            taken.append(run)
            count -= len(run.rows)
        rows = taken[0].rows if len(taken) == 1 else np.concatenate([run.rows for run in taken])
        return Embeddings(Array.of(rows, self._dtype), _digest(taken))


def _digest(runs: Sequence[_Run]) -> bytes:
    """A content key for all of ``runs``; empty where one has none."""
    if not all(run.key for run in runs):
        return b""
    digest = blake2b(digest_size=KEY_BYTES)
    for run in runs:
        for part in (run.key, run.first.to_bytes(8, "big"), len(run.rows).to_bytes(8, "big")):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
