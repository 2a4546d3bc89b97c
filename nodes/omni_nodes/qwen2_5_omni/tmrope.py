"""TMRoPE positions of one prompt, segment by segment. Pure: numpy alone, no torch, no port.

Causal: a segment's positions are final when it is placed, whatever comes later. Equal, float rounding included, to
``get_rope_index`` of transformers' Qwen2_5OmniPreTrainedModelForConditionalGeneration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from omni_nodes.payloads import LayoutSegment


class TMRoPE:
    """Places the segments of one prompt in order.

    Text counts on from the end of the segment before it, on all three axes. Every segment of a media span counts from
    the span's base, which is where its first segment began: so the sound and the pictures of one video share a clock.
    """

    def __init__(self, positions_per_second: int, merge_size: int) -> None:
        self._positions_per_second = positions_per_second
        self._merge_size = merge_size
        self._end = 0
        self._top = 0
        self._span = -1
        self._base = 0

    @property
    def next_position(self) -> int:
        """One past the largest position so far: where a reply would start (transformers: length + rope delta)."""
        return self._top

    def place(self, segment: LayoutSegment) -> np.ndarray:
        """The (time, height, width) positions of the segment's tokens: (3, n) int64, n at least 1."""
        positions = self._positions(segment)
        # The last token of any segment is the largest of it on every axis.
        self._end = int(positions[:, -1].max()) + 1
        self._top = max(self._top, self._end)
        return positions

    def _positions(self, segment: LayoutSegment) -> np.ndarray:
        count = len(segment.token_ids)
        if segment.kind == "text":
            steps = np.zeros(count, np.int64) if segment.joint else np.arange(count, dtype=np.int64)
            return np.tile(self._end + steps, (3, 1))
        if segment.span != self._span:
            self._span, self._base = segment.span, self._end
        tokens = np.arange(segment.first, segment.first + count, dtype=np.int64)
        if segment.kind == "audio":
            return np.tile(self._base + tokens, (3, 1))
        return self._base + self._picture_offsets(tokens, segment)

    def _picture_offsets(self, tokens: np.ndarray, segment: LayoutSegment) -> np.ndarray:
        """(3, n) offsets of the tokens, numbered grid by grid, row by row, after the spatial merge."""
        rows, columns = (side // self._merge_size for side in segment.grid[1:])
        grid, cell = np.divmod(tokens, rows * columns)
        times = grid_times(grid, segment.seconds_per_grid, self._positions_per_second)
        return np.stack([times, cell // columns, cell % columns])


def grid_times(grids: np.ndarray, seconds_per_grid: float, positions_per_second: int) -> np.ndarray:
    """Time-axis offsets, int64, of temporal grids: floor(k * seconds * rate), in float32 as ``get_rope_index`` does."""
    seconds = grids.astype(np.float32) * np.float32(seconds_per_grid)
    return (seconds * np.float32(positions_per_second)).astype(np.int64)
