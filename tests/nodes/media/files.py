"""Media files made in the test: moving pictures whose brightness tells their time, and a tone. Nothing is read from disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

_SCALES = {"flt": (1.0, np.float32), "s16": (2.0**15 - 1, np.int16), "s32": (2.0**31 - 1, np.int32)}


@dataclass(frozen=True, slots=True)
class Clip:
    """What to encode. ``video`` and ``audio`` are codecs, empty for no track; ``interleaved=False``: all video first."""

    container: str = "mp4"
    video: str = "mpeg4"
    audio: str = ""
    seconds: float = 3.0
    fps: int = 10
    width: int = 64
    height: int = 48
    rate: int = 44100
    interleaved: bool = True
    audio_delay: float = 0.0
    b_frames: int = 0
    rotation: int = 0
    options: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """The file's bytes."""
        options = dict(self.options) | ({} if self.interleaved else {"max_interleave_delta": "1"})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip"
            with av.open(str(path), "w", format=self.container, options=options) as output:
                for packet in self._packets(output):
                    output.mux(packet)
            return path.read_bytes()

    def _packets(self, output: Any) -> list[Any]:
        tracks = [self._add_video(output)] if self.video else []
        tracks += [self._add_audio(output)] if self.audio else []
        packets = [packet for track in tracks for packet in track]
        if self.interleaved:
            packets.sort(key=lambda packet: packet.dts * packet.time_base)
        return packets

    def _add_video(self, output: Any) -> Iterator[Any]:
        stream = output.add_stream(self.video, rate=self.fps)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
        stream.max_b_frames = self.b_frames
        if self.rotation:
            stream.set_display_rotation(self.rotation)
        return self._encoded_video(stream)

    def _encoded_video(self, stream: Any) -> Iterator[Any]:
        for index in range(round(self.seconds * self.fps)):
            yield from stream.encode(av.VideoFrame.from_ndarray(picture(index, self.width, self.height), "rgb24"))
        yield from stream.encode(None)

    def _add_audio(self, output: Any) -> Iterator[Any]:
        stream = output.add_stream(self.audio, rate=self.rate, layout="stereo")
        return self._encoded_audio(stream)

    def _encoded_audio(self, stream: Any) -> Iterator[Any]:
        sound = tone(self.seconds, self.rate)
        sample_format = stream.format.name
        scale, dtype = _SCALES[sample_format.removesuffix("p")]
        first = round(self.audio_delay * self.rate)
        step = stream.codec_context.frame_size or 1024
        for start in range(0, len(sound), step):
            block = np.stack([sound[start : start + step]] * 2)
            values = np.ascontiguousarray(block if sample_format.endswith("p") else block.T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray((values * scale).astype(dtype), sample_format, "stereo")
            frame.sample_rate, frame.pts, frame.time_base = self.rate, first + start, Fraction(1, self.rate)
            yield from stream.encode(frame)
        yield from stream.encode(None)


def picture(index: int, width: int, height: int) -> np.ndarray:
    """Frame ``index``, uint8 (height, width, 3): a flat grey of 8 * index, the upper left corner red."""
    pixels = np.full((height, width, 3), 8 * index % 256, np.uint8)
    pixels[: height // 4, : width // 4] = (255, 0, 0)
    return pixels


def tone(seconds: float, rate: int) -> np.ndarray:
    """A 440 Hz sine, float32."""
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
