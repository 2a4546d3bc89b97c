"""Live sound and pictures: what comes out does not depend on how it was cut, and equals a file of the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_nodes.media.audio import AudioDecoder
from omni_nodes.media.limits import MediaError, MediaLimits
from omni_nodes.media.live_sound import LiveSound
from omni_nodes.media.live_video import LiveFrames
from omni_nodes.media.mel import MaximumPolicy, MelStream
from omni_nodes.media.video import sample_times

RNG = np.random.default_rng(0)
LIMITS = MediaLimits()


def noise(seconds: float, rate: int) -> np.ndarray:
    return (0.2 * RNG.standard_normal(int(seconds * rate))).astype(np.float32)


def heard(samples: np.ndarray, rate: int, sizes: list[int], policy: MaximumPolicy = "running") -> list[np.ndarray]:
    """The blocks of ``samples``, pushed in chunks of ``sizes`` and then all the rest."""
    sound, blocks = LiveSound("live", LIMITS, policy, 128), list[np.ndarray]()
    for piece in np.split(samples, np.cumsum(sizes)):
        sound.push(piece, rate)
        while sound.busy:
            blocks += sound.advance()
    sound.end()
    while sound.busy:
        blocks += sound.advance()
    assert sound.finished
    return blocks


def whole(samples: np.ndarray, rate: int, policy: MaximumPolicy) -> list[np.ndarray]:
    mel = MelStream(policy)
    mel.push(AudioDecoder.from_array(samples, rate).read())
    mel.finish()
    return list(mel.drain())


@pytest.mark.parametrize("policy", ["running", "global"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 48_000, 192_000])
def test_live_sound_is_the_clips_mel(rate: int, policy: MaximumPolicy) -> None:
    samples = noise(4.7, rate)
    ours, theirs = heard(samples, rate, [rate // 10] * 20, policy), whole(samples, rate, policy)
    assert [block.shape for block in ours] == [(128, 200), (128, 200), (128, 70)]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


SOUND = noise(5.1, 48_000)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 90_000), max_size=12))
def test_any_chunks_give_the_same_blocks(sizes: list[int]) -> None:
    for one, other in zip(heard(SOUND, 48_000, sizes), heard(SOUND, 48_000, []), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_block_leaves_as_soon_as_its_samples_are_there() -> None:
    sound = LiveSound("live", LIMITS, "running", 128)
    sound.push(np.zeros(32_040, np.float32), 16_000)  # 200 frames hear 2 s and 2.5 ms
    blocks = [block for _ in range(3) for block in sound.advance()]
    assert [block.shape for block in blocks] == [(128, 200)] and not sound.busy


def test_no_sound_at_all_is_no_block() -> None:
    assert heard(np.zeros(0, np.float32), 0, []) == []


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([(noise(1, 7_999), 7_999)], "sampling rate of 7999 Hz; 8000 to 192000"),
        ([(noise(1, 8_000), 8_000), (noise(1, 16_000), 16_000)], "changes its sampling rate from 8000 to 16000 Hz"),
        ([(np.full(5, np.nan, np.float32), 16_000)], "not a finite number"),
        ([(np.zeros((5, 2), np.float32), 16_000)], r"float32 \(5, 2\); float32 \(samples,\), which is mono"),
        ([(np.zeros(5, np.int16), 16_000)], "a chunk int16"),
        ([(noise(2, 16_000), 16_000)] * 2, "lasts more than 3 s"),
    ],
)
def test_bad_sound_is_refused_at_its_chunk(chunks: list[tuple[np.ndarray, int]], message: str) -> None:
    sound = LiveSound("live audio", MediaLimits(audio_seconds=3.0), "running", 128)
    for samples, rate in chunks[:-1]:
        sound.push(samples, rate)
    with pytest.raises(MediaError, match=message):
        sound.push(*chunks[-1])


# ---- pictures


def picture(number: int) -> np.ndarray:
    return np.full((4, 6, 3), number % 256, np.uint8)


def seen(times: list[float], eager: bool = True) -> list[int]:
    """Which frame, by number, serves each sample; ``eager``: pairs are taken as they come."""
    frames, numbers = LiveFrames("live", LIMITS), list[int]()

    def drain() -> None:
        while frames.busy:
            numbers.extend(int(one[0, 0, 0]) for one in frames.pair())

    for number, time in enumerate(times):
        frames.push(picture(number), time)
        if eager:
            drain()
    frames.end()
    drain()
    assert frames.finished
    return numbers


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1200), min_size=1, max_size=60), st.floats(0, 2), st.booleans())
def test_frames_are_sampled_as_a_files_are(gaps: list[int], start: float, eager: bool) -> None:
    times = [start + float(total) / 1000 for total in np.cumsum([0, *gaps])]
    fps, chosen = sample_times(times, 1000.0, 2.0, 10_000)
    if fps != 2.0:
        return  # a clip that needs more than its clock gives, to come to 4 frames
    numbers = seen(times, eager)
    assert [times[number] for number in numbers] == list(chosen)


def test_a_short_clip_keeps_its_clock_and_an_odd_one_its_last_frame() -> None:
    assert seen([0.0, 0.1]) == [0, 0]
    assert seen([0.0, 0.5, 1.0]) == [0, 1, 2, 2]
    assert seen([]) == []


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([(picture(0), 1.0), (picture(1), 0.9)], "a frame at 0.9 s after one at 1 s"),
        ([(picture(0), math.nan)], "a frame at nan s"),
        ([(picture(0), -1.0)], "a frame at -1 s after one at 0 s"),
        ([(picture(0), 0.0), (np.zeros((4, 8, 3), np.uint8), 0.5)], "from 6 x 4 to 8 x 4"),
        ([(np.zeros((4, 8), np.uint8), 0.0)], r"uint8 \(4, 8\); uint8 \(height, width, 3\)"),
        ([(np.zeros((4, 9000, 3), np.uint8), 0.0)], "9000 x 4 pixels"),
        ([(picture(0), 0.0), (picture(0), 4.0)], "more than 8 frames at 2 a second"),
        ([(picture(0), 601.0)], "lasts more than 600 s"),
    ],
)
def test_a_bad_frame_is_refused_when_it_comes(frames: list[tuple[np.ndarray, float]], message: str) -> None:
    live = LiveFrames("live video", MediaLimits(video_frames=8))
    for pixels, time in frames[:-1]:
        live.push(pixels, time)
    with pytest.raises(MediaError, match=message):
        live.push(*frames[-1])
