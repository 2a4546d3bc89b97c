"""The prompt's layout: token ids with each placeholder expanded to its medium's tokens, as LayoutSegments. Pure.

What stands where is what Qwen2_5OmniProcessor of transformers writes (``replace_video_with_audio_token``,
``get_chunked_index``); nothing is inserted beyond it. Concatenated, the segments' ids are the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np

from omni_graph.payload import Array
from omni_nodes.payloads import LayoutSegment
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput
from omni_nodes.qwen2_5_omni.settings import MediaTokens

MAX_SEGMENT_TOKENS = 1 << 16

Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class AudioSpan:
    """A sound of ``tokens`` tokens."""

    tokens: int


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """A picture of ``grid`` (1, h, w) patches."""

    grid: Grid


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """A video of ``grid`` (t, h, w) patches, t frame pairs; ``sound_tokens`` is None where its sound is not used."""

    grid: Grid
    seconds_per_grid: float
    sound_tokens: int | None = None


Span = AudioSpan | ImageSpan | VideoSpan
KIND: dict[type, str] = {AudioSpan: "audio", ImageSpan: "image", VideoSpan: "video"}


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive prompt tokens of one role, placeholders not yet expanded."""

    role: str
    token_ids: tuple[int, ...]


def audio_tokens(frames: int) -> int:
    """Tokens of ``frames`` mel frames (``_get_feat_extract_output_lengths`` of transformers); 0 for up to 2 frames."""
    return max(0, ((frames - 1) // 2 + 1 - 2) // 2 + 1)


def placeholder_kind(tokens: MediaTokens, token_id: int) -> str:
    """The kind of medium that ``token_id`` stands for, empty for every other token."""
    return {tokens.audio: "audio", tokens.image: "image", tokens.video: "video"}.get(token_id, "")


def lay_out(
    runs: Sequence[Run], spans: Sequence[Span], tokens: MediaTokens, merge_size: int
) -> tuple[LayoutSegment, ...]:
    """The segments of a prompt whose k-th placeholder is ``spans[k]``; the last one is marked.

    ``merge_size`` patches on each side make one token.

    Raises InvalidInput when placeholders and media do not match, which is what a placeholder in a user's text does.
    """
    written = [kind for run in runs for token in run.token_ids if (kind := placeholder_kind(tokens, token))]
    given = [KIND[type(span)] for span in spans]
    if written != given:
        raise InvalidInput(
            f"the prompt has the placeholders {written or 'none'} for the media {given or 'none'}: "
            "text must not contain <|AUDIO|>, <|IMAGE|> or <|VIDEO|>"
        )
    layout = _Layout(tokens, merge_size)
    numbers = iter(range(len(spans)))
    for run in runs:
        layout.run(run, spans, numbers)
    return layout.finish()


def chunk_bounds(values: np.ndarray, chunk: int) -> Iterator[tuple[int, int]]:
    """Cut ascending ``values`` where they reach chunk, 2 * chunk, ...: (start, end) pairs, empty ones included.

    One value starts one chunk at most, also where it has reached several (``get_chunked_index`` of transformers).
    """
    start, tried, limit = 0, 0, chunk
    while (cut := max(tried, int(np.searchsorted(values, limit)))) < len(values):
        yield start, cut
        start, tried, limit = cut, cut + 1, limit + chunk
    yield start, len(values)


@dataclass(slots=True)
class _Layout:
    """The segments so far."""

    tokens: MediaTokens
    merge_size: int
    segments: list[LayoutSegment] = field(default_factory=list)

    def finish(self) -> tuple[LayoutSegment, ...]:
        if not self.segments:
            raise InvalidInput("the prompt is empty: the chat template wrote nothing")
        self.segments[-1] = replace(self.segments[-1], last=True)
        return tuple(self.segments)

    def run(self, run: Run, spans: Sequence[Span], numbers: Iterator[int]) -> None:
        ids = run.token_ids
        start = 0
        for place, token in enumerate(ids):
            if not placeholder_kind(self.tokens, token):
                continue
            number = next(numbers)
            span = spans[number]
            if isinstance(span, VideoSpan) and span.sound_tokens is not None:
                self._check_markers(ids, place)
                self._text(ids[start : place - 1], run.role)
                self._video_with_sound(span, number, run.role)
                start = place + 2
            else:
                self._text(ids[start:place], run.role)
                self._medium(span, number, run.role)
                start = place + 1
        self._text(ids[start:], run.role)

    def _check_markers(self, ids: Sequence[int], place: int) -> None:
        wanted = (self.tokens.vision_start, self.tokens.video, self.tokens.vision_end)
        if place < 1 or tuple(ids[place - 1 : place + 2]) != wanted:
            raise InvalidInput("the chat template does not write the vision markers around a video with its sound")

    def _text(self, ids: Sequence[int], role: str, *, joint: bool = False) -> None:
        self._add(LayoutSegment("text", Array.of(np.asarray(ids, np.int64)), role, joint=joint))

    def _medium(self, span: Span, number: int, role: str) -> None:
        count = span.tokens if isinstance(span, AudioSpan) else self._picture_tokens(span.grid)
        self._piece(KIND[type(span)], span, number, role, 0, count)

    def _video_with_sound(self, span: VideoSpan, number: int, role: str) -> None:
        """Chunk by chunk (of 2 seconds) all its pictures, then all its sound, inside both pairs of markers."""
        tokens = self.tokens
        self._text((tokens.vision_start, tokens.audio_start), role, joint=True)
        chunk = int(tokens.position_id_per_seconds * tokens.seconds_per_chunk)
        pictures = chunk_bounds(self._picture_times(span), chunk)
        sounds = chunk_bounds(np.arange(span.sound_tokens or 0), chunk)
        for picture, sound in zip_longest(pictures, sounds, fillvalue=(0, 0)):
            self._piece("video", span, number, role, *picture)
            self._piece("audio", span, number, role, *sound)
        self._text((tokens.audio_end, tokens.vision_end), role, joint=True)

    def _picture_tokens(self, grid: Grid) -> int:
        return math.prod(grid) // self.merge_size**2

    def _picture_times(self, span: VideoSpan) -> np.ndarray:
        """The time of each video token in position units, float64 as the processor computes it.

        At odd rates (1.04 fps) ``get_rope_index``, in float32, cuts elsewhere, and so gives tokens each other's
        positions; ours keep their own.
        """
        grids = np.repeat(np.arange(span.grid[0]), self._picture_tokens((1, *span.grid[1:])))
        return grids * span.seconds_per_grid * self.tokens.position_id_per_seconds

    def _piece(self, kind: str, span: Span, number: int, role: str, start: int, end: int) -> None:
        """Tokens start to end of the span's ``kind``."""
        placeholder = {"audio": self.tokens.audio, "image": self.tokens.image, "video": self.tokens.video}[kind]
        picture = span if kind != "audio" and not isinstance(span, AudioSpan) else None
        self._add(
            LayoutSegment(
                kind,
                Array.of(np.full(end - start, placeholder, np.int64)),
                role,
                number,
                start,
                picture.grid if picture else (0, 0, 0),
                picture.seconds_per_grid if isinstance(picture, VideoSpan) else 0.0,
            )
        )

    def _add(self, segment: LayoutSegment) -> None:
        """Append it, cut so that no packet grows past its limit; a segment without tokens is none."""
        ids = segment.token_ids.values
        for start in range(0, len(ids), MAX_SEGMENT_TOKENS):
            piece = Array.of(ids[start : start + MAX_SEGMENT_TOKENS])
            self.segments.append(replace(segment, token_ids=piece, first=segment.first + start))
