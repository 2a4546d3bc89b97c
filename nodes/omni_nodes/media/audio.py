"""Sound to mono float32 at one rate, a bounded slice at a time: decode (PyAV), average channels, resample (soxr HQ).

soxr's HQ recipe is what librosa, and with it the models' own preprocessing, uses; its stream equals the one-shot
resampling however the input is cut. Nothing is allocated by what a header claims: limits are counted while decoding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soxr
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from omni_nodes.media.containers import Track
from omni_nodes.media.limits import MediaError, MediaLimits, Medium

Samples = NDArray[np.float32]

_PACKETS_A_SLICE = 256
_BYTES_A_SLICE = 4 << 20
# FFmpeg sample format without its planar suffix -> (value of silence, divisor that makes full scale 1.0)
_SCALES = {"u8": (128.0, 128.0), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31), "flt": (0.0, 1.0), "dbl": (0.0, 1.0)}


class AudioDecoder:
    """Iterates a file's sound as float32 (n,) slices of at most one second at ``rate`` Hz; a slice may be empty.

    Each ``next`` does a bounded amount of work. ``medium`` says what the file was given as: the sound track of a video
    obeys the video's limits. A track that starts after its file does (a video's delayed sound) begins with silence.
    Raises MediaError here for what the header shows and while iterating for what decoding shows.
    """

    def __init__(
        self,
        data: bytes,
        name: str,
        limits: MediaLimits | None = None,
        rate: int = 16_000,
        medium: Medium = "audio",
    ) -> None:
        limits = limits or MediaLimits()
        limits.check_bytes(data, name, medium)
        track = Track(data, name, "audio", limits)
        context = track.stream.codec_context
        limits.check_sound(context.sample_rate, context.channels, name)
        limits.check_seconds(max(track.seconds or 0.0, track.delay), name, medium)
        self._start(_decoded(track), _Mixer(context.sample_rate, name, limits, medium), rate)

    @classmethod
    def from_array(
        cls,
        samples: NDArray[np.generic],
        sample_rate: int,
        name: str = "audio",
        limits: MediaLimits | None = None,
        rate: int = 16_000,
    ) -> AudioDecoder:
        """The same for raw float32 samples (n,) or (n, channels) at ``sample_rate`` Hz."""
        limits = limits or MediaLimits()
        if samples.dtype != np.float32 or samples.ndim not in (1, 2):
            seen = f"{samples.dtype} {samples.shape}"
            raise MediaError(name, f"is an array {seen}; float32 (samples,) or (samples, channels) is allowed")
        columns = samples.astype(np.float32, copy=False).reshape(len(samples), -1 if samples.size else 1)
        limits.check_sound(sample_rate, columns.shape[1], name)
        limits.check_seconds(len(columns) / sample_rate, name, "audio")
        decoder = cls.__new__(cls)
        decoder._start(iter([columns]), _Mixer(sample_rate, name, limits, "audio"), rate)
        return decoder

    def _start(self, blocks: Iterator[Samples], mixer: _Mixer, rate: int) -> None:
        self._mixer = mixer
        self._slices = _resampled(blocks, mixer, rate)  # holds no reference to self: bytes go when the decoder goes

    @property
    def seconds(self) -> float:
        """Playing time decoded so far."""
        return self._mixer.seconds

    def __iter__(self) -> Iterator[Samples]:
        return self

    def __next__(self) -> Samples:
        return next(self._slices)

    def read(self) -> Samples:
        """All that is left, at once."""
        return np.concatenate([np.zeros(0, np.float32), *self])


class _Mixer:
    """Blocks to mono: counts what was decoded and judges it."""

    def __init__(self, rate: int, name: str, limits: MediaLimits, medium: Medium) -> None:
        self.rate = rate
        self.name = name
        self.samples = 0
        self._limits = limits
        self._medium: Medium = medium

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    def mono(self, block: Samples) -> Samples:
        """(n, channels) -> (n,)."""
        self.samples += len(block)
        self._limits.check_seconds(self.seconds, self.name, self._medium)
        if not np.isfinite(block).all():
            raise MediaError(self.name, "has a sample that is not a finite number")
        return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def _resampled(blocks: Iterator[Samples], mixer: _Mixer, rate: int) -> Iterator[Samples]:
    """Blocks (n, channels) at the mixer's rate -> slices (n,) of at most a second at ``rate``."""
    seconds = (mixer.mono(second) for block in blocks for second in _pieces(block, mixer.rate))
    if mixer.rate == rate:
        yield from seconds
    else:
        stream = soxr.ResampleStream(mixer.rate, rate, 1, dtype="float32", quality="HQ")
        for second in seconds:
            yield from _pieces(stream.resample_chunk(second), rate)
        yield from _pieces(stream.resample_chunk(np.zeros(0, np.float32), last=True), rate)
    if not mixer.samples:
        raise MediaError(mixer.name, "has no sound: its audio track is empty")


def _pieces(block: Samples, length: int) -> Iterator[Samples]:
    """The block in pieces of at most ``length`` rows; an empty block is one empty piece."""
    return (block[start : start + length] for start in range(0, max(len(block), 1), length))


def _decoded(track: Track) -> Iterator[Samples]:
    """The track's samples (n, channels) float32 in blocks of about a second, or less where the file is read slowly."""
    rate, channels = track.stream.codec_context.sample_rate, track.stream.codec_context.channels
    yield from _silence(round(track.delay * rate), rate, channels)
    held: list[Samples] = []
    packets = read = total = 0
    for packet in track.packets():
        packets, read = packets + 1, read + packet.size
        for frame in track.decode(packet):
            assert isinstance(frame, AudioFrame)
            if (frame.sample_rate, len(frame.layout.channels)) != (rate, channels):
                raise MediaError(track.name, "changes its sampling rate or channels midway; one of each is allowed")
            held.append(_samples(frame))
        if sum(map(len, held)) >= rate or packets >= _PACKETS_A_SLICE or read >= _BYTES_A_SLICE:
            total += sum(map(len, held))
            yield np.concatenate([np.zeros((0, channels), np.float32), *held])
            held, packets, read = [], 0, 0
    yield np.concatenate([np.zeros((0, channels), np.float32), *held])
    _check_total(track, total + sum(map(len, held)))


def _silence(samples: int, rate: int, channels: int) -> Iterator[Samples]:
    for start in range(0, samples, rate):
        yield np.zeros((min(rate, samples - start), channels), np.float32)


def _check_total(track: Track, samples: int) -> None:
    """FLAC states its length in samples, which nothing else compares with what is there."""
    stated = round((track.seconds or 0.0) * track.stream.codec_context.sample_rate)
    if track.format == "flac" and samples < stated:
        raise MediaError(track.name, f"is damaged or truncated: it has {samples} samples and states {stated}")


def _samples(frame: AudioFrame) -> Samples:
    """A decoded frame as (n, channels) float32, full scale 1.0."""
    values = frame.to_ndarray()
    columns = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    silence, full_scale = _SCALES[frame.format.name.removesuffix("p")]
    return ((columns.astype(np.float64) - silence) / full_scale).astype(np.float32)
