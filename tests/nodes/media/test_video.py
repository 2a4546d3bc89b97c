"""A video's frames come by the clock, in pairs, all of them; a file that ends early is an error, not a shorter film."""

from __future__ import annotations

import io
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_nodes.media.audio import AudioDecoder
from omni_nodes.media.limits import MediaError, MediaLimits
from omni_nodes.media.video import (
    FrameReader,
    VideoInfo,
    VideoProbe,
    array_info,
    array_pairs,
    probe_video,
    sample_times,
)
from tests.nodes.media.files import Clip, picture

FORMATS = [
    Clip(),
    Clip(audio="aac"),
    Clip(audio="aac", interleaved=False),
    Clip(audio="aac", options=(("movflags", "faststart"),)),
    Clip(audio="aac", options=(("movflags", "frag_keyframe+empty_moov"),)),
    Clip(video="libx264", b_frames=2),
    Clip("matroska", audio="aac"),
    Clip("matroska", video="libx264", b_frames=2),
    Clip("webm", video="libvpx"),
    Clip("webm", video="libvpx-vp9"),
    Clip("avi", audio="libmp3lame"),
]


def brightness(frame: np.ndarray) -> int:
    """The number of the frame that ``picture`` drew, read back."""
    return round(float(frame[frame.shape[0] // 2 :].mean()) / 8)


def is_red(frame: np.ndarray) -> np.ndarray:
    return (frame[..., 0] > 150) & (frame[..., 1] < 100)


def frames_of(data: bytes) -> tuple[VideoInfo, list[np.ndarray]]:
    info = probe_video(data, "clip")
    return info, list(FrameReader(data, "clip", info))


@pytest.mark.parametrize("clip", FORMATS)
def test_two_frames_a_second_in_pairs(clip: Clip) -> None:
    info, pairs = frames_of(clip.encode())
    assert (info.width, info.height, info.fps) == (64, 48, 2.0)
    assert info.has_audio == bool(clip.audio)
    assert info.seconds == pytest.approx(3.0, abs=0.15)
    assert info.times[:6] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5], abs=0.12)
    assert [pair.shape for pair in pairs] == [(2, 48, 64, 3)] * (len(info.times) // 2)
    assert len(info.times) == (8 if clip.container == "avi" else 6)  # its muxer leaves a slot out: the last is at 3.0 s
    assert all(pair.dtype == np.uint8 for pair in pairs)
    numbers = [brightness(frame) for pair in pairs for frame in pair]
    assert numbers == pytest.approx([round(time * 10) for time in info.times], abs=1)


def test_frames_are_the_ones_that_a_full_decode_gives_at_those_times() -> None:
    data = Clip(video="libx264", b_frames=2, fps=25, seconds=2).encode()
    with av.open(io.BytesIO(data)) as container:
        every = {frame.time: frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)}
    info, pairs = frames_of(data)
    assert list(info.times) == [min(t for t in every if t >= k / 2 - 1e-6) for k in range(4)]
    for time, frame in zip(info.times, np.concatenate(pairs), strict=True):
        assert np.array_equal(frame, every[time])


def test_sound_and_pictures_of_a_file_that_is_not_interleaved_are_independent_cursors() -> None:
    data = Clip(audio="aac", interleaved=False).encode()
    info = probe_video(data, "clip")
    reader = iter(FrameReader(data, "clip", info))
    sound = iter(AudioDecoder(data, "clip", medium="video"))
    seconds = sum(len(next(sound)) for _ in range(3)) / 16_000
    assert brightness(next(reader)[0]) == 0
    assert seconds > 1
    assert len(list(reader)) == 2
    assert seconds + sum(map(len, sound)) / 16_000 == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_frames_are_turned_as_the_file_says(rotation: int) -> None:
    info, pairs = frames_of(Clip(rotation=rotation).encode())
    upright = np.rot90(picture(0, 64, 48), rotation // 90)
    assert (info.height, info.width) == upright.shape[:2]
    assert np.mean(is_red(pairs[0][0]) == is_red(upright)) > 0.97


@pytest.mark.parametrize(("seconds", "count"), [(0.2, 4), (1.0, 4), (2.6, 6), (3.0, 6)])
def test_a_short_clip_gives_four_frames_and_an_odd_count_repeats_its_last(seconds: float, count: int) -> None:
    info, pairs = frames_of(Clip(seconds=seconds).encode())
    assert len(info.times) == 2 * len(pairs) == count
    assert info.fps == pytest.approx(max(2.0, 4 / seconds))


def test_a_single_frame_stands_for_all_four() -> None:
    info, pairs = frames_of(Clip(seconds=0.1).encode())
    assert info.times == (0.0,) * 4
    assert all(np.array_equal(frame, pairs[0][0]) for pair in pairs for frame in pair)


def test_a_long_clip_is_sampled_more_slowly() -> None:
    data = Clip(seconds=20).encode()
    info = probe_video(data, "clip", MediaLimits(video_frames=8))
    assert info.fps == pytest.approx(8 / 20)
    assert info.times == pytest.approx([2.5 * k for k in range(8)])


frame_times = st.lists(st.integers(0, 60_000), min_size=1, max_size=300, unique=True).map(
    lambda milliseconds: sorted(value / 1000 for value in milliseconds)
)


@given(frame_times, st.sampled_from([1.0, 2.0, 3.7]), st.sampled_from([4, 6, 768]))
def test_sampling_keeps_the_clock(times: list[float], fps: float, most: int) -> None:
    seconds = times[-1] + 0.04
    used, chosen = sample_times(times, seconds, fps, most)
    assert len(chosen) % 2 == 0
    assert 4 <= len(chosen) <= most
    assert list(chosen) == sorted(chosen)
    assert set(chosen) <= set(times)
    for k, time in enumerate(chosen):
        reached = [candidate for candidate in times if candidate >= k / used - 1e-6]
        assert time == (reached[0] if reached else times[-1])
    if 4 <= times[-1] * fps <= most - 2:
        assert used == fps


def test_probe_and_reader_work_in_slices() -> None:
    data = Clip(seconds=30, fps=30).encode()
    probe = VideoProbe(data, "clip")
    steps = 1
    while probe.advance():
        assert probe.info is None
        steps += 1
    assert steps == 4  # 900 packets
    assert probe.info is not None
    reader = FrameReader(data, "clip", probe.info)
    waits = 0
    while reader.advance() is None:
        waits += 1
    assert waits >= 3  # frame 15 is four packets a slice away


@pytest.mark.parametrize("clip", FORMATS)
@pytest.mark.parametrize("part", [0.25, 0.6, 0.97])
def test_a_truncated_video_is_an_error(clip: Clip, part: float) -> None:
    data = clip.encode()
    with pytest.raises(MediaError, match=r"truncated|damaged"):
        frames_of(data[: int(len(data) * part)])


@pytest.mark.parametrize("video", ["libx264", "mpeg4"])
def test_a_damaged_video_is_an_error(video: str) -> None:
    clip = Clip(video=video, seconds=4, options=(("movflags", "faststart"),))
    data = bytearray(clip.encode())
    start = data.find(b"mdat") + 4
    noise = np.random.default_rng(0).integers(0, 256, len(data) - start, np.uint8).tobytes()
    data[start:] = noise
    with pytest.raises(MediaError, match=r"damaged|0 x 0 pixels; it has no picture"):
        frames_of(bytes(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"no film " * 20, "is not a media file that can be read"),
        (Clip(video="", audio="aac").encode(), "has no video track"),
        (Clip("mp3", video="", audio="libmp3lame").encode(), "has no video track"),
        (Clip("matroska", video="ffv1").encode(), "codec ffv1; allowed: av1"),
        (Clip(seconds=700, fps=1, width=16, height=16).encode(), "lasts more than 600 s; at most 600 s"),
    ],
)
def test_what_cannot_be_seen_is_named(data: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        probe_video(data, "film")
    assert str(caught.value).startswith("film: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (MediaLimits(video_bytes=999), "at most 999 are allowed for video"),
        (MediaLimits(video_seconds=2.5), "lasts more than 2.5 s"),
        (MediaLimits(image_side=63), "64 x 48 pixels; a side of at most 63"),
        (MediaLimits(image_pixels=3071), "3072 pixels; at most 3071"),
    ],
)
def test_limits(limits: MediaLimits, message: str) -> None:
    with pytest.raises(MediaError, match=re.escape(message)):
        probe_video(Clip().encode(), "film", limits)


def test_a_stream_that_grows_midway_is_not_allocated() -> None:
    """Two elementary streams of different size, one after the other in one track: only the first one was announced."""
    small, large = (Clip("h264", video="libx264", width=size, height=size, seconds=1) for size in (64, 1024))
    info = VideoInfo(64, 64, 2.0, 2.0, (0.0, 0.5, 1.0, 1.5), has_audio=False)
    data = joined(small.encode(), large.encode())
    with pytest.raises(MediaError, match=r"changes its picture size midway"):
        list(FrameReader(data, "film", info))
    with pytest.raises(MediaError, match=r"does not decode"):
        list(FrameReader(data, "film", info, MediaLimits(image_pixels=100 * 100)))


def joined(*streams: bytes) -> bytes:
    """Elementary H.264 streams as one Matroska track at 10 frames a second."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        track, count = None, 0
        for stream in streams:
            with av.open(io.BytesIO(stream), format="h264") as source:
                track = track or output.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream, packet.time_base = track, Fraction(1, 1000)
                        packet.pts = packet.dts = count * 100
                        count += 1
                        output.mux(packet)
    return buffer.getvalue()


def test_a_raw_array_is_taken_as_it_is() -> None:
    frames = np.stack([picture(index, 32, 16) for index in range(5)])
    info = array_info(frames, 2.0)
    assert (info.width, info.height, info.seconds, info.fps) == (32, 16, 2.5, 2.0)
    assert info.times == (0.0, 0.5, 1.0, 1.5, 2.0, 2.0)
    pairs = list(array_pairs(frames))
    assert np.array_equal(np.concatenate(pairs), frames[[0, 1, 2, 3, 4, 4]])


@pytest.mark.parametrize(
    ("shape", "dtype", "fps", "message"),
    [
        ((4, 8, 8, 3), "float32", 2.0, "float32"),
        ((4, 8, 8), "uint8", 2.0, r"\(4, 8, 8\)"),
        ((4, 8, 8, 4), "uint8", 2.0, "uint8"),
        ((0, 8, 8, 3), "uint8", 2.0, "has 0 frames; 1 to 768"),
        ((769, 1, 1, 3), "uint8", 2.0, "has 769 frames; 1 to 768"),
        ((4, 0, 8, 3), "uint8", 2.0, "no picture"),
        ((4, 8, 8, 3), "uint8", 0.0, r"has 0\.0 frames a second"),
        ((4, 8, 8, 3), "uint8", float("nan"), "has nan frames a second"),
        ((4, 8, 8, 3), "uint8", 0.001, "at most 600 s"),
    ],
)
def test_a_wrong_array_is_named(shape: tuple[int, ...], dtype: str, fps: float, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        array_info(np.zeros(shape, dtype), fps, "frames")
