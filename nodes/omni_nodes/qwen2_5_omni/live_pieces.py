"""The layout of a live span, piece by piece as its tokens become known. Pure: counts in, LayoutSegments out.

Where it is cut depends on what was said and shown alone, never on when it came. Sound alone: one piece a mel block. Pictures
alone: one piece a frame pair. Pictures with their sound: both pieces of a chunk (2 s), once both tracks have passed its end.
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np

from omni_nodes.payloads import LayoutSegment
from omni_nodes.qwen2_5_omni.layout import LiveSpan
from omni_nodes.qwen2_5_omni.pieces import Grid, Place, chunk_bounds, chunk_length, media_segment, picture_times
from omni_nodes.qwen2_5_omni.settings import MediaTokens

Bounds = tuple[int, int]
SECONDS_PER_GRID = 1.0  # two frames at 2 a second


class LivePieces:
    """The pieces of one live span at ``place``; ``merge_size`` patches on each side make one token."""

    def __init__(self, span: LiveSpan, place: Place, tokens: MediaTokens, merge_size: int) -> None:
        self._span = span
        self._place = place
        self._tokens = tokens
        self._merge_size = merge_size
        self._sound = self._grids = self._grid_tokens = 0
        self._grid: Grid = (0, 0, 0)
        self._sound_ended = span.kind == "video" and not span.heard
        self._pictures_ended = span.kind == "audio"
        self._chunks = 0

    @property
    def count(self) -> int:
        """Tokens so far."""
        return self._sound + self._grids * self._grid_tokens

    @property
    def ended(self) -> bool:
        """No piece can come any more."""
        return self._sound_ended and self._pictures_ended

    def add_sound(self, tokens: int) -> list[LayoutSegment]:
        """The pieces that a mel block of so many tokens completes."""
        start, self._sound = self._sound, self._sound + tokens
        return self._closed() if self._span.heard else self._pieces([], [(start, self._sound)])

    def add_pictures(self, grid: Grid) -> list[LayoutSegment]:
        """The pieces that a frame pair of ``grid`` (1, h, w) completes."""
        self._grid = (0, *grid[1:])
        self._grid_tokens = grid[1] * grid[2] // self._merge_size**2
        start = self._grids * self._grid_tokens
        self._grids += 1
        return self._closed() if self._span.heard else self._pieces([(start, start + self._grid_tokens)], [])

    def end_sound(self) -> list[LayoutSegment]:
        """The pieces that are complete now that no more sound comes."""
        self._sound_ended = True
        return self._closed() if self._span.heard else []

    def end_pictures(self) -> list[LayoutSegment]:
        """The pieces that are complete now that no more pictures come."""
        self._pictures_ended = True
        return self._closed() if self._span.heard else []

    def _closed(self) -> list[LayoutSegment]:
        """Both pieces of every further chunk whose end both tracks have passed; a track that has ended passes every end."""
        chunk = chunk_length(self._tokens)
        grids = np.repeat(np.arange(self._grids), self._grid_tokens)
        times = picture_times(grids, SECONDS_PER_GRID, self._tokens)
        next_time = float(picture_times(np.array(self._grids), SECONDS_PER_GRID, self._tokens))
        pictures = list(chunk_bounds(times, chunk, None if self._pictures_ended else next_time))
        sounds = list(chunk_bounds(np.arange(self._sound), chunk, None if self._sound_ended else self._sound))
        waits = [len(pictures)] * (not self._pictures_ended) + [len(sounds)] * (not self._sound_ended)
        start, self._chunks = self._chunks, min(waits, default=max(len(pictures), len(sounds)))
        return self._pieces(pictures[start : self._chunks], sounds[start : self._chunks])

    def _pieces(self, pictures: list[Bounds], sounds: list[Bounds]) -> list[LayoutSegment]:
        found = []
        for picture, sound in zip_longest(pictures, sounds, fillvalue=(0, 0)):
            found.append(media_segment(self._tokens, self._place, "video", *picture, self._grid, SECONDS_PER_GRID))
            found.append(media_segment(self._tokens, self._place, "audio", *sound))
        return [segment for segment in found if len(segment.token_ids)]
