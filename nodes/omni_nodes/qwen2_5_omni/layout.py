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
from omni_nodes.qwen2_5_omni.pieces import Grid, Place, chunk_bounds, chunk_length, media_segment, picture_times
from omni_nodes.qwen2_5_omni.settings import MediaTokens

MAX_SEGMENT_TOKENS = 1 << 16


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


@dataclass(frozen=True, slots=True)
class LiveSpan:
    """What is written live: ``audio``, or ``video`` that is ``heard`` or not. Its tokens come one piece at a time."""

    kind: str
    heard: bool = False


Span = AudioSpan | ImageSpan | VideoSpan | LiveSpan
KIND: dict[type, str] = {AudioSpan: "audio", ImageSpan: "image", VideoSpan: "video"}


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive prompt tokens of one role, placeholders not yet expanded."""

    role: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OpenLayout:
    """A prompt around its live span: the segments before it, its place, and those after it."""

    before: tuple[LayoutSegment, ...]
    place: Place
    after: tuple[LayoutSegment, ...]


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
    return _walk(runs, spans, tokens, merge_size).finish()


def lay_out_around(runs: Sequence[Run], spans: Sequence[Span], tokens: MediaTokens, merge_size: int) -> OpenLayout:
    """The same for a prompt with one LiveSpan among its spans."""
    layout = _walk(runs, spans, tokens, merge_size)
    assert layout.live is not None
    segments = layout.finish()
    if layout.before == len(segments):
        raise InvalidInput("the chat template writes nothing behind a live part")
    return OpenLayout(segments[: layout.before], layout.live, segments[layout.before :])


def _walk(runs: Sequence[Run], spans: Sequence[Span], tokens: MediaTokens, merge_size: int) -> _Layout:
    written = [kind for run in runs for token in run.token_ids if (kind := placeholder_kind(tokens, token))]
    given = [span.kind if isinstance(span, LiveSpan) else KIND[type(span)] for span in spans]
    if written != given:
        raise InvalidInput(
            f"the prompt has the placeholders {written or 'none'} for the media {given or 'none'}: "
            "text must not contain <|AUDIO|>, <|IMAGE|> or <|VIDEO|>"
        )
    layout = _Layout(tokens, merge_size)
    numbers = iter(range(len(spans)))
    for run in runs:
        layout.run(run, spans, numbers)
    return layout


@dataclass(slots=True)
class _Layout:
    """The segments so far; ``before`` of them come before the ``live`` place, where there is one."""

    tokens: MediaTokens
    merge_size: int
    segments: list[LayoutSegment] = field(default_factory=list)
    live: Place | None = None
    before: int = 0

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
            if self._is_heard(span):
                self._check_markers(ids, place)
                self._text(ids[start : place - 1], run.role)
                self._video_with_sound(span, Place(number, run.role))
                start = place + 2
            else:
                self._text(ids[start:place], run.role)
                self._medium(span, Place(number, run.role))
                start = place + 1
        self._text(ids[start:], run.role)

    def _is_heard(self, span: Span) -> bool:
        """A video with its sound."""
        return (
            span.heard if isinstance(span, LiveSpan) else isinstance(span, VideoSpan) and span.sound_tokens is not None
        )

    def _check_markers(self, ids: Sequence[int], place: int) -> None:
        wanted = (self.tokens.vision_start, self.tokens.video, self.tokens.vision_end)
        if place < 1 or tuple(ids[place - 1 : place + 2]) != wanted:
            raise InvalidInput("the chat template does not write the vision markers around a video with its sound")

    def _text(self, ids: Sequence[int], role: str, *, joint: bool = False) -> None:
        self._add(LayoutSegment("text", Array.of(np.asarray(ids, np.int64)), role, joint=joint))

    def _medium(self, span: Span, place: Place) -> None:
        if isinstance(span, LiveSpan):
            self.live, self.before = place, len(self.segments)
        elif isinstance(span, AudioSpan):
            self._add(media_segment(self.tokens, place, "audio", 0, span.tokens))
        else:
            self._pictures(span, place, 0, self._picture_tokens(span.grid))

    def _video_with_sound(self, span: Span, place: Place) -> None:
        """Chunk by chunk (of 2 seconds) all its pictures, then all its sound, inside both pairs of markers."""
        tokens = self.tokens
        self._text((tokens.vision_start, tokens.audio_start), place.role, joint=True)
        if isinstance(span, VideoSpan):
            self._chunks(span, place)
        else:
            self._medium(span, place)
        self._text((tokens.audio_end, tokens.vision_end), place.role, joint=True)

    def _chunks(self, span: VideoSpan, place: Place) -> None:
        chunk = chunk_length(self.tokens)
        grids = np.repeat(np.arange(span.grid[0]), self._picture_tokens((1, *span.grid[1:])))
        pictures = chunk_bounds(picture_times(grids, span.seconds_per_grid, self.tokens), chunk)
        sounds = chunk_bounds(np.arange(span.sound_tokens or 0), chunk)
        for picture, sound in zip_longest(pictures, sounds, fillvalue=(0, 0)):
            self._pictures(span, place, *picture)
            self._add(media_segment(self.tokens, place, "audio", *sound))

    def _pictures(self, span: ImageSpan | VideoSpan, place: Place, start: int, end: int) -> None:
        seconds = span.seconds_per_grid if isinstance(span, VideoSpan) else 0.0
        self._add(media_segment(self.tokens, place, KIND[type(span)], start, end, span.grid, seconds))

    def _picture_tokens(self, grid: Grid) -> int:
        return math.prod(grid) // self.merge_size**2

    def _add(self, segment: LayoutSegment) -> None:
        """Append it, cut so that no packet grows past its limit; a segment without tokens is none."""
        ids = segment.token_ids.values
        for start in range(0, len(ids), MAX_SEGMENT_TOKENS):
            piece = Array.of(ids[start : start + MAX_SEGMENT_TOKENS])
            self.segments.append(replace(segment, token_ids=piece, first=segment.first + start))
