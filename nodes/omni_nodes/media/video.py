"""A video's frames, sampled by the clock: a demux pass says which, a decode pass yields them in pairs.

Neither pass reads the sound track: another cursor over the same bytes does (``audio.py``), so that a file whose tracks
are not interleaved needs no buffer. A file that decodes to less than its packets promise is an error.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from omni_nodes.media.containers import Track
from omni_nodes.media.limits import MediaError, MediaLimits

FramePair = NDArray[np.uint8]

SAMPLES_A_SECOND = 2.0
MIN_FRAMES = 4
CLOCK_TOLERANCE = 1e-6
_FRAME_RATE_BOUND = 240  # bounds the packets that a probe remembers
_PACKETS_A_PROBE_STEP = 256
_PACKETS_A_READ_STEP = 4


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A video as it will be shown to the model. ``width`` and ``height`` are upright, in pixels.

    ``times`` are the presentation times, in seconds from the file's start, of the frames to take: an even number, the
    last one repeated where it must be. ``fps`` is how many of them cover a second: 2, or what keeps within 4 and 768.
    """

    width: int
    height: int
    seconds: float
    fps: float
    times: tuple[float, ...]
    has_audio: bool


class VideoProbe:
    """Learns a VideoInfo from packet times, a bounded slice at a time; decodes no frame but the first."""

    def __init__(
        self, data: bytes, name: str, limits: MediaLimits | None = None, fps: float = SAMPLES_A_SECOND
    ) -> None:
        self._limits = limits or MediaLimits()
        self._limits.check_bytes(data, name, "video")
        self._name = name
        self._fps = fps
        self._track = Track(data, name, "video", self._limits)
        context = self._track.stream.codec_context
        self._limits.check_picture(context.width, context.height, name)
        self._limits.check_seconds(self._track.seconds or 0.0, name, "video")
        self._packets = self._track.packets()
        self._times: list[float] = []
        self._end = 0.0
        self._first: VideoFrame | None = None
        self.info: VideoInfo | None = None

    def advance(self) -> bool:
        """Read some packets; False when ``info`` is there."""
        for _ in range(_PACKETS_A_PROBE_STEP):
            packet = next(self._packets, None)
            if packet is None:
                self.info = self._conclude()
                return False
            self._add(packet)
        return True

    def _add(self, packet: Packet[Any]) -> None:
        if self._first is None:
            self._first = next((frame for frame in self._track.decode(packet) if isinstance(frame, VideoFrame)), None)
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or packet.is_discard or not self._track.owns(packet):
            return
        time = self._track.time(stamp)
        self._end = max(self._end, time + float((packet.duration or 0) * packet.time_base))
        self._limits.check_seconds(self._end, self._name, "video")
        self._times.append(time)
        most = round(self._limits.video_seconds * _FRAME_RATE_BOUND)
        if len(self._times) > most:
            raise MediaError(self._name, f"has more than {most} frames; at most {most} are allowed")

    def _conclude(self) -> VideoInfo:
        times = sorted(self._times)
        if self._first is None or not times:
            raise MediaError(self._name, "has a video track without a frame")
        gaps = [after - before for before, after in pairwise(times)]
        seconds = max(self._end, times[-1] + min(gaps, default=0.0))
        fps, chosen = sample_times(times, seconds, self._fps, self._limits.video_frames)
        height, width = upright(self._first, self._name).shape[:2]
        return VideoInfo(width, height, seconds, fps, chosen, self._track.has_audio)


def probe_video(data: bytes, name: str, limits: MediaLimits | None = None, fps: float = SAMPLES_A_SECOND) -> VideoInfo:
    """A VideoProbe, run to its end."""
    probe = VideoProbe(data, name, limits, fps)
    while probe.advance():
        pass
    assert probe.info is not None
    return probe.info


def sample_times(times: list[float], seconds: float, fps: float, most: int) -> tuple[float, tuple[float, ...]]:
    """(fps, the times to take) of frames at ascending ``times`` in a clip of ``seconds``.

    Sample k is the first frame with t >= k / fps, the clip's last where there is none; a slow video's frame may serve
    several samples, so that samples keep the clock. Where ``fps`` would give fewer than 4 or more than ``most``, it is
    changed to give that many, as qwen-omni-utils does. An odd count repeats its last.
    """
    count = int((times[-1] + CLOCK_TOLERANCE) * fps) + 1
    within = min(max(count, MIN_FRAMES), most)
    if within != count and seconds > 0:
        fps = within / seconds
    picks = [bisect_left(times, k / fps - CLOCK_TOLERANCE) for k in range(within)]
    chosen = [times[min(pick, len(times) - 1)] for pick in picks]
    return fps, tuple(chosen + chosen[-1:] * (within % 2))


class FrameReader:
    """Decodes the frames of ``info.times``, pair by pair: uint8 (2, height, width, 3), RGB, upright."""

    def __init__(self, data: bytes, name: str, info: VideoInfo, limits: MediaLimits | None = None) -> None:
        self._name = name
        self._info = info
        self._track = Track(data, name, "video", limits or MediaLimits())
        self._packets = self._track.packets()
        self._taken: list[NDArray[np.uint8]] = []
        self._count = 0
        self._yielded = 0

    @property
    def finished(self) -> bool:
        """Has every pair been given out?"""
        return self._yielded == len(self._info.times)

    def advance(self) -> FramePair | None:
        """Decode a little; a pair when one is ready, None while more must be decoded."""
        for _ in range(_PACKETS_A_READ_STEP):
            if len(self._taken) >= 2:
                break
            self._decode_packet()
        if len(self._taken) < 2:
            return None
        pair, self._taken = np.stack(self._taken[:2]), self._taken[2:]
        self._yielded += 2
        return pair

    def __iter__(self) -> Iterator[FramePair]:
        while not self.finished:
            pair = self.advance()
            if pair is not None:
                yield pair

    def _decode_packet(self) -> None:
        packet = next(self._packets, None)
        if packet is None:
            missing = len(self._info.times) - self._count
            raise MediaError(self._name, f"is damaged or truncated: {missing} of its frames do not decode")
        for frame in self._track.decode(packet):
            assert isinstance(frame, VideoFrame)
            self._take(frame)

    def _take(self, frame: VideoFrame) -> None:
        """Keep the frame once for every sample that it is the first frame for."""
        time = self._track.time(frame.pts) if frame.pts is not None else self._next_time()
        if self._count == len(self._info.times) or time < self._next_time() - CLOCK_TOLERANCE:
            return
        pixels = upright(frame, self._name)
        if pixels.shape[:2] != (self._info.height, self._info.width):
            raise MediaError(self._name, "changes its picture size midway; one size is allowed")
        while self._count < len(self._info.times) and time >= self._next_time() - CLOCK_TOLERANCE:
            self._taken.append(pixels)
            self._count += 1

    def _next_time(self) -> float:
        return self._info.times[self._count]


def upright(frame: VideoFrame, name: str) -> NDArray[np.uint8]:
    """The frame as uint8 (height, width, 3) RGB, turned as its display matrix says."""
    if frame.rotation % 90:
        raise MediaError(name, f"is to be shown turned by {frame.rotation} degrees; multiples of 90 are allowed")
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return np.ascontiguousarray(pixels, np.uint8)


def array_info(
    frames: NDArray[np.generic], fps: float, name: str = "video", limits: MediaLimits | None = None
) -> VideoInfo:
    """The VideoInfo of raw frames uint8 (T, height, width, 3) RGB at ``fps``: already sampled, taken as they are."""
    limits = limits or MediaLimits()
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise MediaError(name, f"is an array {frames.dtype} {frames.shape}; uint8 (T, height, width, 3) is allowed")
    count, height, width = frames.shape[:3]
    if not 1 <= count <= limits.video_frames:
        raise MediaError(name, f"has {count} frames; 1 to {limits.video_frames} are allowed")
    if not 0 < fps <= _FRAME_RATE_BOUND:
        raise MediaError(name, f"has {fps} frames a second; more than 0 and at most {_FRAME_RATE_BOUND} are allowed")
    limits.check_picture(width, height, name)
    limits.check_seconds(count / fps, name, "video")
    times = [index / fps for index in range(count)]
    return VideoInfo(width, height, count / fps, fps, tuple(times + times[-1:] * (count % 2)), has_audio=False)


def array_pairs(frames: NDArray[np.uint8]) -> Iterator[FramePair]:
    """Raw frames in pairs; an odd last one is its own partner."""
    for start in range(0, len(frames), 2):
        pair = frames[start : start + 2]
        yield pair if len(pair) == 2 else np.concatenate([pair, pair])
