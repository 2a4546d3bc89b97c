"""The payloads that the models' stages exchange, made to fit all of them. Importing this imports no torch, no numpy.

Shapes: n rows of this packet, H hidden size, q codebooks. Writers cut by rows so that a packet stays under its limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omni_graph.payload import Array


@dataclass(frozen=True, slots=True)
class LayoutSegment:
    """A piece of the prompt in its order: ids with placeholders, and what TMRoPE needs to place them.

    ``kind`` is ``text``, ``audio``, ``image`` or ``video``. ``span`` numbers the media item this belongs to (-1: text);
    ``first`` is the index, among the span's tokens of this kind, of the segment's first. ``grid`` is (t, h, w) of the
    whole item in patches before the 2x2 merge, zero for text and audio; t is 0 in what is live. ``joint`` text tokens share
    one position (the markers around a video with its sound); all segments of one span, audio and video alike, count from
    the same base.
    """

    kind: str
    token_ids: Array
    role: str = "user"
    span: int = -1
    first: int = 0
    grid: tuple[int, int, int] = (0, 0, 0)
    seconds_per_grid: float = 0.0
    joint: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class MelChunk:
    """Log-mel features (mel bins, frames) float32 of one encoder block (2 s, 200 frames, or a shorter tail) of ``span``."""

    features: Array
    span: int


@dataclass(frozen=True, slots=True)
class Patches:
    """Rows of flattened patches (n, channels * temporal * patch * patch) float32 of one image or one frame pair.

    ``grid`` is (1, h, w) of the whole picture; a picture of more than 1 MiB is cut by rows and ends with ``last``.
    """

    pixels: Array
    grid: tuple[int, int, int]
    span: int
    last: bool = True


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Encoder output rows (n, H), in prompt order. ``content_key`` digests what they were computed from, row for row: equal
    keys, equal rows up to rounding; empty where nobody made one."""

    values: Array
    content_key: bytes = b""


@dataclass(frozen=True, slots=True)
class PromptSegment:
    """Prompt rows with their final positions.

    ``token_ids`` (n,) int64; ``positions`` (3, n) int64 (time, height, width); ``modality`` text, audio, image or video;
    ``embeddings`` (n, H) at media positions, (0, 0) for text, whose embedding table is the Thinker's. ``content_key``
    digests the media content of all n rows (empty: text, or unknown, which no cache may keep). ``next_position`` is where
    the reply starts; it is final on the segment with ``last``.
    """

    token_ids: Array
    positions: Array
    modality: str
    role: str
    embeddings: Array
    next_position: int = 0
    last: bool = False
    content_key: bytes = b""


@dataclass(frozen=True, slots=True)
class PromptStates:
    """What the Talker needs of the prompt: ``states`` (n, H) = last hidden + embedding (zeroed at media), ``positions``
    (3, n) int64. ``next_position`` is final on the packet with ``last``."""

    states: Array
    positions: Array
    next_position: int = 0
    last: bool = False


@dataclass(frozen=True, slots=True)
class Thought:
    """One reply token that was fed back: ``state`` (1, H) = last hidden + embedding, and its id.

    The window lets the text run ahead of the speech by the whole reply.
    """

    window: ClassVar[int] = 4096
    max_packet_bytes: ClassVar[int] = 32 << 10

    state: Array
    token_id: int


@dataclass(frozen=True, slots=True)
class Codes:
    """Codec ids (n, q) int64: q = 1 for Qwen2.5-Omni. ``voice`` names the speaker, on every packet.

    The DiT takes all that its next window wants, so a wide window would only let the Talker run ahead of it, on cores that
    the DiT could use for sound that is waited for.
    """

    window: ClassVar[int] = 16
    max_packet_bytes: ClassVar[int] = 64 << 10

    values: Array
    voice: str


@dataclass(frozen=True, slots=True)
class Mel:
    """Mel frames (n, 80) float32 at 100 a second. ``lookahead`` (m, 80) are frames after them that are context only:
    they come again, final, in the next packet. ``codes`` is how many codec ids the frames cover."""

    frames: Array
    lookahead: Array
    codes: int
