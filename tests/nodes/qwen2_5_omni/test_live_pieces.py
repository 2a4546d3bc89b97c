"""The layout of a live span against that of the finished prompt, and its positions against get_rope_index.

The tokens must be laid out and placed before anybody knows how many there will be.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from omni_nodes.payloads import LayoutSegment
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput
from omni_nodes.qwen2_5_omni.layout import (
    AudioSpan,
    LiveSpan,
    Run,
    Span,
    VideoSpan,
    audio_tokens,
    lay_out,
    lay_out_around,
)
from omni_nodes.qwen2_5_omni.live_pieces import LivePieces
from omni_nodes.qwen2_5_omni.tmrope import TMRoPE
from tests.nodes.qwen2_5_omni.test_tmrope import MERGE, TOKENS, random_conversation, rope_index

BLOCK = 200


def able(spans: list[Span]) -> list[int]:
    """The spans that could have been live: sound, or a video at 2 frames a second."""
    return [k for k, one in enumerate(spans) if isinstance(one, AudioSpan) or _at_two(one)]


def _at_two(span: Span) -> bool:
    return isinstance(span, VideoSpan) and span.seconds_per_grid == 1.0


def pieces_of(span: Span, place: object, mel: int, rng: random.Random) -> list[LayoutSegment]:
    """What LivePieces makes of the span's tokens, its tracks coming in any order."""
    kind = "audio" if isinstance(span, AudioSpan) else "video"
    heard = isinstance(span, VideoSpan) and span.sound_tokens is not None
    live = LivePieces(LiveSpan(kind, heard), place, TOKENS, MERGE)  # type: ignore[arg-type]
    blocks = [min(BLOCK, mel - start) for start in range(0, mel, BLOCK)] if heard or kind == "audio" else []
    sound = [lambda b=b: live.add_sound(audio_tokens(b)) for b in blocks]
    sound += [live.end_sound] if heard or kind == "audio" else []
    grids = span.grid[0] if isinstance(span, VideoSpan) else 0
    grid = (1, *span.grid[1:]) if isinstance(span, VideoSpan) else (0, 0, 0)
    shown = [lambda: live.add_pictures(grid)] * grids + ([live.end_pictures] if kind == "video" else [])
    found: list[LayoutSegment] = []
    while sound or shown:
        track = rng.choice([track for track in (sound, shown) if track])
        found += track.pop(0)()
    assert live.ended and live.count == sum(len(one.token_ids) for one in found)
    return found


def ids_of(segments: list[LayoutSegment]) -> np.ndarray:
    return np.concatenate([one.token_ids.values for one in segments])


SEEDS = [seed for seed in range(500) if able(random_conversation(seed)[1])]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_live_span_is_laid_out_and_placed_as_in_the_finished_prompt(seed: int) -> None:
    runs, spans, mel, sound = random_conversation(seed)
    rng = random.Random(seed)
    number = rng.choice(able(spans))
    frames = iter(mel)
    sounds = [next(frames) if isinstance(s, AudioSpan) or (isinstance(s, VideoSpan) and sound) else 0 for s in spans]
    span = spans[number]
    kind = "audio" if isinstance(span, AudioSpan) else "video"
    open_span = LiveSpan(kind, isinstance(span, VideoSpan) and sound)
    layout = lay_out_around(runs, [*spans[:number], open_span, *spans[number + 1 :]], TOKENS, MERGE)
    live = pieces_of(span, layout.place, sounds[number], rng)
    segments = [*layout.before, *live, *layout.after]

    np.testing.assert_array_equal(ids_of(segments), ids_of(list(lay_out(runs, spans, TOKENS, MERGE))))
    rope = TMRoPE(TOKENS.position_id_per_seconds, MERGE)
    ours = np.concatenate([rope.place(segment) for segment in segments], axis=1)
    theirs, next_position = rope_index(ids_of(segments), spans, mel, sound)
    np.testing.assert_array_equal(ours, theirs)
    assert rope.next_position == next_position
    assert [one.last for one in segments] == [False] * (len(segments) - 1) + [True]


def test_a_chunk_of_a_video_with_its_sound_leaves_when_both_tracks_have_passed_its_end() -> None:
    ids = (TOKENS.vision_start, TOKENS.video, TOKENS.vision_end, 9)
    layout = lay_out_around([Run("user", ids)], [LiveSpan("video", True)], TOKENS, MERGE)
    assert [one.joint for one in layout.before] == [True] and layout.after[0].joint
    live = LivePieces(LiveSpan("video", True), layout.place, TOKENS, MERGE)
    grid = (1, 4, 6)
    assert live.add_sound(50) == [] and live.add_pictures(grid) == []
    two = live.add_pictures(grid)
    assert [(one.kind, one.first, len(one.token_ids)) for one in two] == [("video", 0, 12), ("audio", 0, 50)]
    assert live.add_pictures(grid) == live.add_sound(30) == live.end_sound() == []
    rest = live.end_pictures()
    assert [(one.kind, one.first, len(one.token_ids)) for one in rest] == [("video", 12, 6), ("audio", 50, 30)]
    assert live.ended and live.count == 98


def test_an_empty_live_span_leaves_its_markers_next_to_each_other() -> None:
    ids = (TOKENS.audio_start, TOKENS.audio, TOKENS.audio_end, 9)
    layout = lay_out_around([Run("user", ids)], [LiveSpan("audio")], TOKENS, MERGE)
    live = LivePieces(LiveSpan("audio"), layout.place, TOKENS, MERGE)
    assert live.add_sound(0) == live.end_sound() == []
    assert live.ended and ids_of([*layout.before, *layout.after]).tolist() == [104, 105, 9]


def test_a_template_that_ends_with_the_live_part_is_refused() -> None:
    with pytest.raises(InvalidInput, match="nothing behind a live part"):
        lay_out_around([Run("user", (TOKENS.audio_start, TOKENS.audio))], [LiveSpan("audio")], TOKENS, MERGE)
