"""A recording's sound and pictures as packets with their times: what ``run --live-audio`` and ``--live-video`` play.

Decoded by PyAV as it is played, never whole. Knows no model: pictures come two a second, which is what live video looks at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from omni_graph.errors import OmniGraphError
from omni_graph.payload import Array, AudioChunk, VideoFrame

CHUNKS_A_SECOND = 10
FRAMES_A_SECOND = 2


def check_recording(path: Path, track: str) -> None:
    """Raises OmniGraphError where the file has no ``audio`` or ``video`` track that can be read."""
    with _opened(path, track):
        pass


def sound_of(path: Path) -> Iterator[tuple[float, AudioChunk]]:
    """(the second at which it has been said, chunk) for every 100 ms: mono, the channels' mean, at the file's rate.

    A track that starts after its file does begins with silence, as in a clip that is sent whole.
    """
    import numpy as np

    with _opened(path, "audio") as (container, stream, av):
        rate = stream.codec_context.sample_rate
        to_float = av.AudioResampler(format="fltp", rate=rate)
        held, sent, size = np.zeros(0, np.float32), 0, max(1, rate // CHUNKS_A_SECOND)
        delay = 0 if stream.start_time is None else stream.start_time * stream.time_base - _origin(container, av)
        silence = round(delay * rate)
        pieces = chain(
            (np.zeros(min(size, silence - at), np.float32) for at in range(0, silence, size)),
            (frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in _frames(container, stream, to_float, path)),
        )
        for piece in pieces:
            held = np.concatenate([held, piece])
            while len(held) >= size:
                sent += size
                yield sent / rate, AudioChunk(Array.of(held[:size]), rate)
                held = held[size:]
        if len(held):
            yield (sent + len(held)) / rate, AudioChunk(Array.of(held), rate)


def pictures_of(path: Path) -> Iterator[tuple[float, VideoFrame]]:
    """(the second from the file's start at which it is shown, frame), RGB and upright: the first of every half second."""
    import numpy as np

    with _opened(path, "video") as (container, stream, av):
        taken, origin = 0, float(_origin(container, av))
        for frame in _frames(container, stream, None, path):
            time = max(0.0, (frame.time or 0.0) - origin)
            if time < taken / FRAMES_A_SECOND:
                continue
            taken = int(time * FRAMES_A_SECOND) + 1
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            yield time, VideoFrame(Array.of(pixels), time)


def _origin(container: Any, av: Any) -> Fraction:
    """The file's first presentation time, in seconds: where every track's clock is 0."""
    return Fraction(container.start_time or 0, av.time_base)


def _frames(container: Any, stream: Any, resampler: Any, path: Path) -> Iterator[Any]:
    """Decoded frames, resampled where asked. Raises OmniGraphError for damage."""
    import av

    try:
        for frame in container.decode(stream):
            yield from [frame] if resampler is None else resampler.resample(frame)
        yield from () if resampler is None else resampler.resample(None)
    except av.FFmpegError as error:
        raise OmniGraphError(f"{path}: cannot be decoded to its end: {error.strerror}") from None


@contextmanager
def _opened(path: Path, track: str) -> Iterator[tuple[Any, Any, Any]]:
    try:
        import av
    except ImportError:
        raise OmniGraphError(f"{path}: files are played by PyAV, which comes with omni-graph[models]") from None
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise OmniGraphError(f"{path}: cannot be read as a recording: {error.strerror}") from None
    with container:
        streams = getattr(container.streams, track)
        if not streams:
            raise OmniGraphError(f"{path}: has no {track} track to play")
        yield container, streams[0], av
