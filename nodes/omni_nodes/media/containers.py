"""One track of a media file in memory, packet by packet, through PyAV. Several tracks of one file are several cursors.

Nothing but the given bytes is ever opened: formats that refer to other files or addresses (playlists, concatenations)
are not among those read. FFmpeg's exceptions never leave this module; a flawed packet or frame is an error, not a guess.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.video.frame import VideoFrame

from omni_nodes.media.limits import MediaError, MediaLimits, Medium
from omni_nodes.media.truncation import check_whole

FORMATS = ("mov", "matroska", "webm", "avi", "ogg", "wav", "flac", "mp3", "aac")
READABLE = "MP4, MOV, M4A, Matroska, WebM, AVI, Ogg, WAV, FLAC, MP3 and AAC"
AUDIO_CODECS = frozenset({"aac", "alac", "flac", "mp3", "mp3float", "opus", "vorbis"})
VIDEO_CODECS = frozenset(
    {"av1", "libdav1d", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "theora", "vp8", "vp9"}
)


class Track:
    """The best track of ``medium``'s kind in a file. ``seconds`` is what the header claims, None where it is silent.

    Raises MediaError: empty, too large, truncated, no such container, no such track, a codec that is not read.
    """

    def __init__(self, data: bytes, name: str, kind: Medium, limits: MediaLimits) -> None:
        self.name = name
        self._container = _open(data, name)
        tracks = _tracks(self._container, kind)
        if not tracks:
            raise MediaError(name, f"has no {kind} track")
        self.stream = tracks[0]
        self.has_audio = bool(_tracks(self._container, "audio"))
        self._check_codec(kind)
        self.stream.codec_context.thread_count = 1
        self.stream.codec_context.options = _decoder_options(self.stream.codec_context.name, limits)
        if "mp4" in self.format:  # its index finds a track's packets; other formats must be read through
            for stream in self._container.streams:
                if stream is not self.stream:
                    stream.discard = av.stream.Discard.all

    def _check_codec(self, kind: Medium) -> None:
        context = self.stream.codec_context
        codec = context.name if context is not None else "unknown"
        allowed = AUDIO_CODECS if kind == "audio" else VIDEO_CODECS
        if codec in allowed or (kind == "audio" and codec.startswith("pcm_")):
            return
        known = ", ".join(sorted(allowed)) + (", pcm" if kind == "audio" else "")
        raise MediaError(self.name, f"has a {kind} track in the codec {codec}; allowed: {known}")

    @property
    def format(self) -> str:
        """FFmpeg's name of the container format."""
        return str(self._container.format.name)

    @property
    def seconds(self) -> float | None:
        """The track's stated playing time, else the file's; FFmpeg's estimates for MP3 and ADTS state nothing."""
        if self.format in ("mp3", "aac"):
            return None
        if self.stream.duration is not None:
            return float(self.stream.duration * self.stream.time_base)
        return None if self._container.duration is None else self._container.duration / av.time_base

    @property
    def origin(self) -> Fraction:
        """The file's first presentation time, in seconds: where every track's clock is 0."""
        return Fraction(self._container.start_time or 0, av.time_base)

    @property
    def delay(self) -> float:
        """Seconds from the file's start to this track's."""
        if self.stream.start_time is None:
            return 0.0
        return max(0.0, float(self.stream.start_time * self.stream.time_base - self.origin))

    def time(self, stamp: int) -> float:
        """A time stamp of the track, in seconds from the file's start."""
        return float(stamp * self.stream.time_base - self.origin)

    def owns(self, packet: Packet[Any]) -> bool:
        """Is it a packet of this track?"""
        return packet.stream_index == self.stream.index  # type: ignore[no-any-return]

    def packets(self) -> Iterator[Packet[Any]]:
        """The packets in file order, then an empty one that flushes a decoder.

        Packets of other tracks come too where the format makes us read them, so that a reader can pause between them.
        """
        with no_raw_errors(self.name):
            for packet in self._container.demux():
                if (
                    self.owns(packet) and packet.is_corrupt and self.format != "wav"
                ):  # a WAV of unstated length ends in a part of a packet
                    raise MediaError(self.name, "is damaged or truncated: a packet is incomplete")
                yield packet

    def decode(self, packet: Packet[Any]) -> Sequence[AudioFrame | VideoFrame]:
        """The packet's frames, none to many; none for a packet of another track."""
        if not self.owns(packet):
            return ()
        with no_raw_errors(self.name):
            frames: Sequence[AudioFrame | VideoFrame] = packet.decode()
        if any(frame.is_corrupt for frame in frames):
            raise MediaError(self.name, f"is damaged: its {self.stream.type} track does not decode")
        return frames


@contextmanager
def no_raw_errors(name: str) -> Iterator[None]:
    """Turn FFmpeg's errors into a MediaError with a text of ours."""
    try:
        yield
    except av.FFmpegError as error:
        raise MediaError(name, "is damaged or truncated: it does not decode") from error


def _open(data: bytes, name: str) -> Any:
    check_whole(data, name)
    options = {"format_whitelist": ",".join(FORMATS)}
    try:
        return av.open(io.BytesIO(data), mode="r", options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(name, f"is not a media file that can be read, or is damaged; allowed: {READABLE}") from error


def _decoder_options(codec: str, limits: MediaLimits) -> dict[str, str]:
    """Frames past the limit are not allocated, whatever the stream says midway; FLAC's checksums are checked."""
    checks = {"err_detect": "crccheck+explode"} if codec == "flac" else {}
    return {"max_pixels": str(limits.image_pixels), **checks}


def _tracks(container: Any, kind: Medium) -> list[Any]:
    """The streams of a kind, without cover pictures."""
    pictures = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams if stream.type == kind and not stream.disposition & pictures]
