"""Layout and positions of random conversations against transformers' get_rope_index.

A position off by one makes the Thinker read another prompt than it was trained on, without any error.
"""

from __future__ import annotations

import random
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniPreTrainedModelForConditionalGeneration as Omni,
)

from omni_graph.payload import Array
from omni_nodes.payloads import LayoutSegment
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput
from omni_nodes.qwen2_5_omni.layout import (
    AudioSpan,
    ImageSpan,
    Run,
    Span,
    VideoSpan,
    audio_tokens,
    lay_out,
)
from omni_nodes.qwen2_5_omni.pieces import chunk_bounds
from omni_nodes.qwen2_5_omni.settings import MediaTokens
from omni_nodes.qwen2_5_omni.tmrope import TMRoPE, grid_times

TOKENS = MediaTokens(
    audio=101,
    image=102,
    video=103,
    audio_start=104,
    audio_end=105,
    vision_start=106,
    vision_end=107,
    position_id_per_seconds=25,
    seconds_per_chunk=2,
)
MERGE = 2
# 2 / fps; below 1 fps one grid outlasts a chunk, and chunks begin in the middle of a grid
FPS = (2.0, 1.0, 0.5, 0.3, 4 / 3, 1.5, 3.0, 24.0)


def rope_index(ids: np.ndarray, spans: list[Span], mel: list[int], sound: bool) -> tuple[np.ndarray, int]:
    """transformers' (3, n) positions and where the reply begins."""
    model = SimpleNamespace(
        spatial_merge_size=MERGE,
        config=SimpleNamespace(
            image_token_id=TOKENS.image,
            video_token_id=TOKENS.video,
            audio_token_id=TOKENS.audio,
            vision_start_token_id=TOKENS.vision_start,
            audio_start_token_id=TOKENS.audio_start,
            position_id_per_seconds=TOKENS.position_id_per_seconds,
            seconds_per_chunk=TOKENS.seconds_per_chunk,
        ),
    )
    for name in ("get_llm_pos_ids_for_vision", "get_chunked_index"):
        setattr(model, name, MethodType(getattr(Omni, name), model))
    images = [span.grid for span in spans if isinstance(span, ImageSpan)]
    videos = [span for span in spans if isinstance(span, VideoSpan)]
    input_ids = torch.from_numpy(ids)[None]
    positions, delta = Omni.get_rope_index(
        model,
        input_ids,
        torch.tensor(images) if images else None,
        torch.tensor([span.grid for span in videos]) if videos else None,
        torch.ones_like(input_ids),
        sound,
        torch.tensor(mel) if mel else None,
        torch.tensor([span.seconds_per_grid for span in videos]) if videos else None,
    )
    return positions[:, 0].numpy(), int(delta[0, 0]) + len(ids)


def random_conversation(seed: int) -> tuple[list[Run], list[Span], list[int], bool]:
    """Turns with up to four media; videos all with sound or all without, as transformers has one flag for all."""
    rng = random.Random(seed)
    sound = seed % 2 == 1
    spans: list[Span] = []
    mel: list[int] = []
    runs = []

    def text(least: int) -> list[int]:
        return [rng.randint(1, 50) for _ in range(rng.randint(least, 5))]

    for role in ("system", *("user", "assistant") * rng.randint(1, 2)):
        ids = text(1)
        for _ in range(rng.randint(0, 3) if role == "user" else 0):
            kind = rng.choice(("audio", "image", "video"))
            if kind == "audio":
                mel.append(rng.randint(3, 900))
                spans.append(AudioSpan(audio_tokens(mel[-1])))
                ids += [TOKENS.audio_start, TOKENS.audio, TOKENS.audio_end]
            elif kind == "image":
                spans.append(ImageSpan((1, 2 * rng.randint(1, 7), 2 * rng.randint(1, 7))))
                ids += [TOKENS.vision_start, TOKENS.image, TOKENS.vision_end]
            else:
                grid = (rng.randint(1, 9), 2 * rng.randint(1, 4), 2 * rng.randint(1, 4))
                heard = rng.randint(3, 1400) if sound else 0
                mel += [heard] if sound else []
                spans.append(VideoSpan(grid, 2 / rng.choice(FPS), audio_tokens(heard) if sound else None))
                ids += [TOKENS.vision_start, TOKENS.video, TOKENS.vision_end]
            ids += text(0)
        runs.append(Run(role, tuple(ids)))
    return runs, spans, mel, sound


@pytest.mark.parametrize("seed", range(300))
def test_positions_equal_get_rope_index(seed):
    runs, spans, mel, sound = random_conversation(seed)
    segments = lay_out(runs, spans, TOKENS, MERGE)
    rope = TMRoPE(TOKENS.position_id_per_seconds, MERGE)
    ours = np.concatenate([rope.place(segment) for segment in segments], axis=1)
    ids = np.concatenate([segment.token_ids.values for segment in segments])
    theirs, next_position = rope_index(ids, spans, mel, sound)
    np.testing.assert_array_equal(ours, theirs)
    assert rope.next_position == next_position
    assert ours.dtype == np.int64
    assert [segment.last for segment in segments] == [False] * (len(segments) - 1) + [True]


def test_positions_do_not_depend_on_where_segments_are_cut():
    runs, spans, _, _ = random_conversation(7)
    whole, cut = TMRoPE(25, MERGE), TMRoPE(25, MERGE)
    for segment in lay_out(runs, spans, TOKENS, MERGE):
        if segment.joint:
            pieces = [cut.place(segment)]
        else:
            pieces = [
                cut.place(
                    LayoutSegment(
                        segment.kind,
                        Array.of(segment.token_ids.values[i : i + 1]),
                        span=segment.span,
                        first=segment.first + i,
                        grid=segment.grid,
                        seconds_per_grid=segment.seconds_per_grid,
                    )
                )
                for i in range(len(segment.token_ids))
            ]
        np.testing.assert_array_equal(whole.place(segment), np.concatenate(pieces, axis=1))
    assert whole.next_position == cut.next_position


def test_the_worked_example_of_a_video_with_its_sound():
    """12 frames at 2 fps of 56x84 pixels and 5.2 s of sound after 18 text tokens."""
    runs = [Run("user", (*range(1, 19), TOKENS.vision_start, TOKENS.video, TOKENS.vision_end, 1))]
    rope = TMRoPE(25, MERGE)
    seen = []
    for segment in lay_out(runs, [VideoSpan((6, 4, 6), 1.0, 130)], TOKENS, MERGE):
        positions = rope.place(segment)
        seen.append((segment.kind, positions.shape[1], int(positions[0, 0]), int(positions[0, -1])))
    assert seen == [
        ("text", 18, 0, 17),
        ("text", 2, 18, 18),
        ("video", 12, 19, 44),
        ("audio", 50, 19, 68),
        ("video", 12, 69, 94),
        ("audio", 50, 69, 118),
        ("video", 12, 119, 144),
        ("audio", 30, 119, 148),
        ("text", 2, 149, 149),
        ("text", 1, 150, 150),
    ]


def test_the_reply_starts_after_the_largest_position_though_text_goes_on_from_the_last_chunk():
    """A sound that ends before its video's last pictures: text counts on from the sound, the reply does not."""
    runs = [Run("user", (TOKENS.vision_start, TOKENS.video, TOKENS.vision_end, 9))]
    segments = lay_out(runs, [VideoSpan((2, 2, 2), 1.0, 3)], TOKENS, MERGE)
    rope = TMRoPE(25, MERGE)
    places = [rope.place(segment) for segment in segments]
    assert [int(place[0, -1]) for place in places] == [0, 26, 3, 4, 5]
    assert rope.next_position == 27


def test_times_are_rounded_as_torch_rounds_them_at_any_frame_rate():
    """In float64 one grid in some hundred lands on another position."""
    grids = np.arange(384)
    for fps in np.arange(0.1, 60, 0.01):
        seconds = torch.tensor([2 / fps])[0]
        theirs = (torch.arange(384) * seconds.float() * 25).long()
        np.testing.assert_array_equal(grid_times(grids, 2 / fps, 25), theirs.numpy())


def test_chunks_of_slow_videos_begin_inside_a_grid():
    assert list(chunk_bounds(np.array([0, 0, 100, 100, 200, 200]), 50)) == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert list(chunk_bounds(np.array([], np.int64), 50)) == [(0, 0)]


def test_segments_keep_role_span_and_their_place_in_the_span():
    runs = [
        Run("system", (1, 2)),
        Run("user", (TOKENS.audio_start, TOKENS.audio, TOKENS.audio_end, TOKENS.image)),
        Run("assistant", (3,)),
    ]
    segments = lay_out(runs, [AudioSpan(70_000), ImageSpan((1, 4, 6))], TOKENS, MERGE)
    assert [(s.kind, s.role, s.span, s.first, len(s.token_ids)) for s in segments] == [
        ("text", "system", -1, 0, 2),
        ("text", "user", -1, 0, 1),
        ("audio", "user", 0, 0, 65536),
        ("audio", "user", 0, 65536, 4464),
        ("text", "user", -1, 0, 1),
        ("image", "user", 1, 0, 6),
        ("text", "assistant", -1, 0, 1),
    ]


def test_a_medium_too_short_for_a_token_leaves_only_its_markers():
    assert [audio_tokens(frames) for frames in (1, 2, 3, 4, 200, 201, 202, 203)] == [0, 0, 1, 1, 50, 50, 50, 51]
    runs = [Run("user", (TOKENS.audio_start, TOKENS.audio, TOKENS.audio_end))]
    segments = lay_out(runs, [AudioSpan(0)], TOKENS, MERGE)
    assert [segment.kind for segment in segments] == ["text", "text"]


@pytest.mark.parametrize(
    ("ids", "spans"),
    [
        ((TOKENS.audio,), []),
        ((1,), [AudioSpan(3)]),
        ((TOKENS.audio, TOKENS.audio), [AudioSpan(3)]),
        ((TOKENS.image,), [AudioSpan(3)]),
    ],
)
def test_placeholders_that_do_not_match_the_media_are_refused(ids, spans):
    with pytest.raises(InvalidInput, match=r"placeholders .* for the media"):
        lay_out([Run("user", ids)], spans, TOKENS, MERGE)


def test_a_video_with_sound_needs_its_vision_markers():
    with pytest.raises(InvalidInput, match="vision markers"):
        lay_out([Run("user", (TOKENS.video,))], [VideoSpan((1, 2, 2), 1.0, 3)], TOKENS, MERGE)
