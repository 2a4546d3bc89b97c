"""A conversation's media, examined a slice at a time: what the layout must know now, and what is made on demand later.

Sound is decoded here and kept as log-mel, because its clamp needs the whole clip. Pictures are only measured: their
patches are decoded again, one picture or frame pair at a time, when somebody asks. Bytes that are no longer needed are
let go.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni_graph.payload import Array, max_packet_bytes
from omni_nodes.media.audio import AudioDecoder
from omni_nodes.media.image import decode_image, image_of
from omni_nodes.media.limits import MediaLimits
from omni_nodes.media.mel import BLOCK, HOP, RATE, WINDOW, MelStream
from omni_nodes.media.patches import (
    PatchSettings,
    frame_pair_patches,
    grid_of,
    image_patch_bands,
    video_budget,
)
from omni_nodes.media.video import FramePair, FrameReader, VideoInfo, VideoProbe, array_info, array_pairs
from omni_nodes.payloads import MelChunk, Patches
from omni_nodes.qwen2_5_omni.checkpoint import Checkpoint
from omni_nodes.qwen2_5_omni.conversation import MediaPart
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput
from omni_nodes.qwen2_5_omni.layout import AudioSpan, Grid, ImageSpan, Span, VideoSpan, audio_tokens
from omni_nodes.qwen2_5_omni.settings import CheckpointError, PixelSettings

HEADER_BYTES = 1 << 10
FRAMES_A_GRID = 2

T = TypeVar("T")
Slices = Generator[None, None, T]
"""Work in slices: it yields between them and returns its result."""


class PictureSource(Protocol):
    """Starts over at a medium's pictures: their packets, and None after a slice of decoding that completed none."""

    def __call__(self) -> Iterator[Patches | None]: ...


@dataclass(frozen=True, slots=True)
class Sound:
    """A clip as mel: ``frames`` of them, not yet taken."""

    mel: MelStream
    frames: int


@dataclass(frozen=True, slots=True)
class Medium:
    """An examined medium: its place in the layout, its sound, its pictures and the number of their packets."""

    span: Span
    sound: Sound | None = None
    pictures: PictureSource | None = None
    picture_packets: int = 0


class MediaIntake:
    """Examines media as one checkpoint wants them."""

    def __init__(self, checkpoint: Checkpoint, limits: MediaLimits) -> None:
        _check_supported(checkpoint)
        self._bins = checkpoint.mel.mel_bins
        self._images = patch_settings(checkpoint.images)
        self._videos = patch_settings(checkpoint.videos)
        self._limits = limits

    def examine(self, part: MediaPart, data: bytes, span: int, *, heard: bool) -> Slices[Medium]:
        """Judge and measure a medium; ``heard`` asks for a video's sound too.

        Raises MediaError or InvalidInput, between slices or here, for whatever cannot be used.
        """
        if part.kind == "audio":
            return self._audio(part, data)
        if part.kind == "image":
            return self._image(part, data, span)
        return self._video(part, data, span, heard)

    def _audio(self, part: MediaPart, data: bytes) -> Slices[Medium]:
        if part.format == "file":
            decoder = AudioDecoder(data, part.name, self._limits)
        else:
            samples = array_of(part, data, "<f4")
            decoder = AudioDecoder.from_array(samples, part.sample_rate, part.name, self._limits)
        sound = yield from self._sound(decoder)
        return Medium(AudioSpan(audio_tokens(sound.frames)), sound)

    def _sound(self, decoder: AudioDecoder) -> Slices[Sound]:
        mel = MelStream("global", self._bins)
        samples = 0
        for piece in decoder:
            mel.push(piece)
            samples += len(piece)
            yield
        mel.finish()
        return Sound(mel, math.ceil(samples / HOP))

    def _image(self, part: MediaPart, data: bytes, span: int) -> Slices[Medium]:
        image = self._decode(part, data)
        grid = grid_of(image.height, image.width, self._images, part.name)
        yield
        return Medium(
            ImageSpan(grid),
            pictures=partial(self._image_packets, part, data, grid, span),
            picture_packets=packets_of(grid, self._images),
        )

    def _decode(self, part: MediaPart, data: bytes) -> Image.Image:
        if part.format == "file":
            return decode_image(data, part.name, self._limits)
        return image_of(array_of(part, data, "u1"), part.name, self._limits)

    def _image_packets(self, part: MediaPart, data: bytes, grid: Grid, span: int) -> Iterator[Patches | None]:
        bands = image_patch_bands(self._decode(part, data), self._images, part.name)
        yield None
        yield from patch_packets(bands, grid, span, self._images)

    def _video(self, part: MediaPart, data: bytes, span: int, heard: bool) -> Slices[Medium]:
        info = yield from self._probe(part, data)
        settings = video_budget(len(info.times), self._videos)
        picture = grid_of(info.height, info.width, settings, part.name)
        grid = (len(info.times) // FRAMES_A_GRID, *picture[1:])
        sound = yield from self._track(part, data) if heard else _silence()
        return Medium(
            VideoSpan(grid, FRAMES_A_GRID / info.fps, audio_tokens(sound.frames) if sound else None),
            sound,
            partial(self._video_packets, part, data, info, settings, span),
            grid[0] * packets_of(picture, settings),
        )

    def _probe(self, part: MediaPart, data: bytes) -> Slices[VideoInfo]:
        if part.format != "file":
            return array_info(array_of(part, data, "u1"), part.fps, part.name, self._limits)
        probe = VideoProbe(data, part.name, self._limits)
        while probe.advance():
            yield
        assert probe.info is not None
        return probe.info

    def _track(self, part: MediaPart, data: bytes) -> Slices[Sound]:
        if part.format != "file":
            raise InvalidInput(f"{part.name}: an array of frames has no sound; leave out the wish for a video's audio")
        return (yield from self._sound(AudioDecoder(data, part.name, self._limits, medium="video")))

    def _video_packets(
        self, part: MediaPart, data: bytes, info: VideoInfo, settings: PatchSettings, span: int
    ) -> Iterator[Patches | None]:
        for pair in self._pairs(part, data, info):
            if pair is None:
                yield None
                continue
            pixels, grid = frame_pair_patches(pair, settings, part.name)
            yield from patch_packets([pixels], grid, span, settings)
            yield None

    def _pairs(self, part: MediaPart, data: bytes, info: VideoInfo) -> Iterator[FramePair | None]:
        if part.format != "file":
            yield from array_pairs(array_of(part, data, "u1"))
            return
        reader = FrameReader(data, part.name, info, self._limits)
        while not reader.finished:
            yield reader.advance()


def _silence() -> Slices[None]:
    """A video that nobody asked to hear."""
    return
    yield


def array_of(part: MediaPart, data: bytes, dtype: str) -> NDArray[Any]:
    """The raw array of a part, without a copy. Raises InvalidInput where its bytes are not those of its shape."""
    size = math.prod(part.shape) * np.dtype(dtype).itemsize
    if len(data) != size:
        shape = ", ".join(map(str, part.shape))
        raise InvalidInput(f"{part.name}: {len(data)} bytes came for a {part.format} array ({shape}) of {size}")
    return np.frombuffer(data, dtype).reshape(part.shape)


def packets_of(grid: Grid, settings: PatchSettings) -> int:
    """How many packets one picture of ``grid`` (1, h, w) is cut into."""
    return math.ceil(grid[1] * grid[2] / _rows_in_packet(settings))


def patch_packets(
    bands: Iterable[NDArray[np.float32]], grid: Grid, span: int, settings: PatchSettings
) -> Iterator[Patches]:
    """The rows of one picture, band by band, in packets as full as their limit allows."""
    size, left = _rows_in_packet(settings), grid[1] * grid[2]
    held: list[NDArray[np.float32]] = []
    for band in bands:
        held.append(band)
        rows = np.concatenate(held)
        while len(rows) >= min(size, left) > 0:
            count = min(size, left)
            left -= count
            yield Patches(Array.of(rows[:count]), grid, span, last=left == 0)
            rows = rows[count:]
        held = [rows]


def mel_chunks(sounds: Sequence[tuple[int, Sound]]) -> Iterator[MelChunk]:
    """The blocks of every (span, sound) in order."""
    for span, sound in sounds:
        for features in sound.mel.drain():
            yield MelChunk(Array.of(features), span)


def blocks_of(sound: Sound) -> int:
    """How many MelChunks a sound is."""
    return math.ceil(sound.frames / BLOCK)


def _rows_in_packet(settings: PatchSettings) -> int:
    return (max_packet_bytes(Patches) - HEADER_BYTES) // (settings.columns * 4)


def patch_settings(pixels: PixelSettings) -> PatchSettings:
    """The checkpoint's."""
    return PatchSettings(**asdict(pixels))


def _check_supported(checkpoint: Checkpoint) -> None:
    mel, block = checkpoint.mel, checkpoint.settings.audio.block_frames
    if (mel.n_fft, mel.hop_length, mel.sample_rate) != (WINDOW, HOP, RATE):
        raise CheckpointError(
            f"{checkpoint.folder}: its mel has n_fft {mel.n_fft}, hop {mel.hop_length} at {mel.sample_rate} Hz; "
            f"allowed: {WINDOW}, {HOP} at {RATE} Hz"
        )
    if BLOCK % block:
        raise CheckpointError(
            f"{checkpoint.folder}: its audio blocks are {block} frames; allowed: a divisor of {BLOCK}"
        )
    pairs = {checkpoint.images.temporal_patch_size, checkpoint.videos.temporal_patch_size}
    if pairs != {FRAMES_A_GRID}:
        raise CheckpointError(f"{checkpoint.folder}: its temporal_patch_size is {pairs}; allowed: {FRAMES_A_GRID}")
