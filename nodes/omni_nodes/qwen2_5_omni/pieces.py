"""Pieces of one medium in the prompt: its tokens as segments, and where a video with its sound is cut into chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from omni_graph.payload import Array
from omni_nodes.payloads import LayoutSegment
from omni_nodes.qwen2_5_omni.settings import MediaTokens

Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where pieces of a medium go: the span's number and the role of its turn."""

    number: int
    role: str


def chunk_bounds(values: np.ndarray, chunk: int, horizon: float | None = None) -> Iterator[tuple[int, int]]:
    """Cut ascending ``values`` where they reach chunk, 2 * chunk, ...: (start, end) pairs, empty ones included.

    One value starts one chunk at most, also where it has reached several (``get_chunked_index`` of transformers). With a
    ``horizon`` more values are to come, none below it: only the chunks that they cannot change.
    """
    start, tried, limit = 0, 0, chunk
    last = len(values) - (horizon is None)
    while (horizon is None or limit <= horizon) and (cut := max(tried, int(np.searchsorted(values, limit)))) <= last:
        yield start, cut
        start, tried, limit = cut, cut + 1, limit + chunk
    if horizon is None:
        yield start, len(values)


def media_segment(
    tokens: MediaTokens,
    place: Place,
    kind: str,
    start: int,
    end: int,
    grid: Grid = (0, 0, 0),
    seconds_per_grid: float = 0.0,
) -> LayoutSegment:
    """Tokens ``start`` to ``end`` of the ``kind`` in the span at ``place``."""
    placeholder = {"audio": tokens.audio, "image": tokens.image, "video": tokens.video}[kind]
    ids = Array.of(np.full(end - start, placeholder, np.int64))
    return LayoutSegment(kind, ids, place.role, place.number, start, grid, seconds_per_grid)


def chunk_length(tokens: MediaTokens) -> int:
    """Position units of a chunk of a video with its sound."""
    return int(tokens.position_id_per_seconds * tokens.seconds_per_chunk)


def picture_times(grids: np.ndarray, seconds_per_grid: float, tokens: MediaTokens) -> np.ndarray:
    """The times of grids, by number, in position units, float64 as the processor computes them.

    At odd rates (1.04 fps) ``get_rope_index``, in float32, cuts elsewhere, and so gives tokens each other's positions; ours
    keep their own.
    """
    times: np.ndarray = grids * seconds_per_grid * tokens.position_id_per_seconds
    return times
