"""What a row is, so that the same prompt is found again: identities of rows, and the keys of the blocks they fill.

A key covers everything up to the end of its block, so equal keys mean equal keys and values up to rounding. Requests of
different users share blocks where their prompts begin alike: by content only, and all that shows is time.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

ROW_BYTES = 48  # digest of the content 16, index in it 8, positions 3 x 8
TEXT = b"text"


def text_identity(token_ids: np.ndarray, positions: np.ndarray) -> bytes:
    """Rows that embed ``token_ids`` (n,) int64 at ``positions`` (3, n), int64 or float."""
    return _identity(_digest(TEXT), token_ids, positions)


def media_identity(modality: str, content_key: bytes, positions: np.ndarray) -> bytes:
    """Rows 0, 1, ... of what ``content_key`` digests, their extras too, at ``positions`` (3, n), int64 or float; empty where
    the key is unknown."""
    if not content_key:
        return b""
    return _identity(_digest(modality.encode() + b":" + content_key), np.arange(positions.shape[1]), positions)


def state_identity(states: np.ndarray, positions: np.ndarray) -> bytes:
    """Rows that are given as such: ``states`` (n, H), to the bit, at ``positions`` (3, n), int64 or float."""
    rows = np.ascontiguousarray(states)
    digests = b"".join(_digest(row.tobytes()) for row in rows)
    return _identity(digests, np.zeros(len(rows), np.int64), positions)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _identity(digests: bytes, indices: np.ndarray, positions: np.ndarray) -> bytes:
    """``digests``: 16 bytes for all rows, or for each."""
    rows = np.empty((positions.shape[1], ROW_BYTES // 8), "<i8")
    rows[:, :2] = np.frombuffer(digests, "<i8").reshape(-1, 2)
    rows[:, 2] = indices
    rows[:, 3:] = positions.T.astype("<f8", order="C").view("<i8")  # exact below 2**53
    return rows.tobytes()


class BlockKeys:
    """The keys of a request's full blocks, as its rows come: each digests the key before it and the block's rows. Rows
    without an identity end it for good."""

    def __init__(self, block_size: int) -> None:
        self.keys: list[bytes] = []
        self._block_bytes = block_size * ROW_BYTES
        self._last = b""
        self._rest = bytearray()
        self._ended = False

    def add(self, identity: bytes, rows: int) -> None:
        """``rows`` rows come next; ``identity`` has ``ROW_BYTES`` for each, or is empty where they have none."""
        self._ended = self._ended or not identity
        if self._ended:
            return
        assert len(identity) == rows * ROW_BYTES, f"{len(identity)} bytes of identity for {rows} rows"
        self._rest += identity
        while len(self._rest) >= self._block_bytes:
            self._last = blake2b(self._last + self._rest[: self._block_bytes], digest_size=32).digest()
            self.keys.append(self._last)
            del self._rest[: self._block_bytes]
