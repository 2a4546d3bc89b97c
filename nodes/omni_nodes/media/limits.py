"""What a user may send, and the one error for what may not be decoded. Values only: this module decodes nothing.

Every limit holds for the decoded medium, counted while decoding, and not only for what a header says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from omni_graph.errors import OmniGraphError

Medium = Literal["audio", "video"]


class MediaError(OmniGraphError):
    """A medium that cannot be used: one line with the user's name for it, what was seen and what is allowed.

    The decoder's own exception, whose text may quote memory or paths, is only the ``__cause__``.
    """

    def __init__(self, name: str, fault: str) -> None:
        self.name = name
        self.fault = fault
        super().__init__(f"{name}: {fault}")


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds of one request's media. ``image_pixels`` and ``image_side`` also bound a video's frames."""

    images: int = 16
    image_bytes: int = 64_000_000
    image_pixels: int = 16_800_000
    image_side: int = 8192
    audio_bytes: int = 64_000_000
    audio_seconds: float = 3600.0
    audio_min_rate: int = 8_000
    audio_max_rate: int = 192_000
    audio_channels: int = 8
    video_bytes: int = 512_000_000
    video_seconds: float = 600.0
    video_frames: int = 768

    @classmethod
    def of(cls, table: Mapping[str, float]) -> MediaLimits:
        """From a table with more names than these; what it lacks keeps its default."""
        return replace(cls(), **{one.name: table[one.name] for one in fields(cls) if one.name in table})

    def bytes_of(self, medium: Medium) -> int:
        """The largest file, in bytes."""
        return self.audio_bytes if medium == "audio" else self.video_bytes

    def seconds_of(self, medium: Medium) -> float:
        """The longest playing time."""
        return self.audio_seconds if medium == "audio" else self.video_seconds

    def check_bytes(self, data: bytes, name: str, medium: Medium) -> None:
        """Raise MediaError for an empty file, or one of more than ``bytes_of(medium)``."""
        if not data:
            raise MediaError(name, "is empty (0 bytes)")
        if len(data) > self.bytes_of(medium):
            raise MediaError(name, f"has {len(data)} bytes; at most {self.bytes_of(medium)} are allowed for {medium}")

    def check_seconds(self, seconds: float, name: str, medium: Medium) -> None:
        """Raise MediaError past ``seconds_of(medium)``."""
        if seconds > self.seconds_of(medium):
            allowed = self.seconds_of(medium)
            raise MediaError(name, f"lasts more than {allowed:g} s; at most {allowed:g} s are allowed for {medium}")

    def check_picture(self, width: int, height: int, name: str) -> None:
        """Raise MediaError for a picture or frame without pixels, or with a side or an area past the limit."""
        if width < 1 or height < 1:
            raise MediaError(name, f"is {width} x {height} pixels; it has no picture")
        if max(width, height) > self.image_side:
            raise MediaError(name, f"is {width} x {height} pixels; a side of at most {self.image_side} is allowed")
        if width * height > self.image_pixels:
            raise MediaError(
                name, f"is {width} x {height} = {width * height} pixels; at most {self.image_pixels} are allowed"
            )

    def check_sound(self, rate: int, channels: int, name: str) -> None:
        """Raise MediaError for a sampling rate (Hz) or a channel count that is not allowed."""
        if not self.audio_min_rate <= rate <= self.audio_max_rate:
            allowed = f"{self.audio_min_rate} to {self.audio_max_rate}"
            raise MediaError(name, f"has a sampling rate of {rate} Hz; {allowed} Hz are allowed")
        if not 1 <= channels <= self.audio_channels:
            raise MediaError(name, f"has {channels} channels; 1 to {self.audio_channels} are allowed")
