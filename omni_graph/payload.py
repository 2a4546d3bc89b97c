"""Packets: the values that flow on edges. Array, the payload rules, and the payloads that know no model.

A payload is a frozen dataclass whose fields are Array, str, int, float, bool, bytes, or tuples of them; it is encoded by
its declared fields, so any user dataclass is one. Importing this module imports no numpy.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Union, cast, get_args, get_origin

from omni_graph.errors import NodeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

DEFAULT_WINDOW = 8
DEFAULT_MAX_PACKET_BYTES = 1 << 20
TOKEN_WINDOW = 64

# dtype tag -> (numpy dtype that carries it, bytes an element); numpy has no bfloat16, its bits travel as uint16
DTYPES: dict[str, tuple[str, int]] = {
    "float64": ("float64", 8),
    "float32": ("float32", 4),
    "float16": ("float16", 2),
    "bfloat16": ("uint16", 2),
    "int64": ("int64", 8),
    "int32": ("int32", 4),
    "int16": ("int16", 2),
    "int8": ("int8", 1),
    "uint8": ("uint8", 1),
    "uint16": ("uint16", 2),
    "bool": ("bool", 1),
}


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """An immutable host tensor: a numpy buffer, a dtype tag and a shape.

    ``values`` is a read-only C-contiguous ndarray; ``dtype`` is a key of ``DTYPES`` (for ``bfloat16``, ``values`` holds
    the bits as uint16). Two Arrays are equal when dtype, shape and every bit are.
    """

    values: np.ndarray
    dtype: str

    @classmethod
    def of(cls, values: ArrayLike, dtype: str | None = None) -> Array:
        """Wrap anything numpy understands; copies only when it is not contiguous. The caller gives the buffer away."""
        import numpy as np

        tag = dtype or str(np.asarray(values).dtype)
        if tag not in DTYPES:
            raise NodeError(f"an Array cannot hold dtype {tag}; allowed: {', '.join(DTYPES)}")
        out = np.ascontiguousarray(values, dtype=DTYPES[tag][0]).view()
        out.flags.writeable = False
        return cls(out, tag)

    @classmethod
    def empty(cls, *shape: int, dtype: str = "float32") -> Array:
        """An Array of zeros, most often of zero rows."""
        import numpy as np

        return cls.of(np.zeros(shape, DTYPES[dtype][0]), dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        same = self.dtype == other.dtype and self.shape == other.shape
        return same and self.values.tobytes() == other.values.tobytes()

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape, self.values.tobytes()))

    def __repr__(self) -> str:
        return f"Array({self.dtype}, {self.shape})"


SCALARS = (str, int, float, bool, bytes)


def _resolve_fields(cls: type) -> tuple[tuple[str, Any], ...]:
    """(name, resolved type) of a payload class's fields, in order.

    Raises NodeError when ``cls`` is no payload: not a frozen dataclass, or a field of another type.
    """
    if not is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise NodeError(f"{cls.__qualname__} is not a payload: write it as @dataclass(frozen=True)")
    hints = typing.get_type_hints(cls)
    result = tuple((field.name, hints[field.name]) for field in fields(cls))
    for name, hint in result:
        if not _allowed(hint):
            raise NodeError(
                f"{cls.__qualname__}.{name}: {hint} cannot travel in a packet; "
                "allowed: Array, str, int, float, bool, bytes, tuples of them, or one of them or None"
            )
    return result


# one entry per payload class of the program; the cast, because a cached function takes Hashable and a class is none to mypy
payload_fields = cast("Callable[[type], tuple[tuple[str, Any], ...]]", cache(_resolve_fields))


def _allowed(hint: Any) -> bool:
    if hint is Array or hint in SCALARS or hint is type(None):
        return True
    if get_origin(hint) is tuple:
        return all(_allowed(arg) for arg in get_args(hint) if arg is not Ellipsis)
    if get_origin(hint) in (Union, types.UnionType):
        return len(get_args(hint)) == 2 and type(None) in get_args(hint) and all(_allowed(a) for a in get_args(hint))
    return False


def packet_bytes(packet: object) -> int:
    """Payload bytes of a packet: array buffers, text and bytes at their length, 8 for every number."""
    return sum([_size(getattr(packet, name)) for name, _ in payload_fields(type(packet))])


def _size(value: object) -> int:
    if type(value) is int or type(value) is float:
        return 8
    if isinstance(value, Array):
        return value.nbytes
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if isinstance(value, tuple):
        return sum(_size(item) for item in value)
    return 8


def max_packet_bytes(cls: type) -> int:
    """The largest packet a port of this type may send: the class's ``max_packet_bytes``, else 1 MiB."""
    return int(getattr(cls, "max_packet_bytes", DEFAULT_MAX_PACKET_BYTES))


def default_window(cls: type) -> int:
    """Packets in flight per stream unless the graph says otherwise: the class's ``window``, else 8."""
    return int(getattr(cls, "window", DEFAULT_WINDOW))


def merge_packets(cls: type, packets: Sequence[Any]) -> Any:
    """One value for a whole output: the class's own ``merge`` where it has one, else the tuple of packets."""
    merge = getattr(cls, "merge", None)
    return merge(packets) if merge is not None else tuple(packets)


Usage = tuple[tuple[str, int], ...]


def add_usage(packets: Iterable[Any]) -> Usage:
    """The sum of the packets' usage counts, by name."""
    total: dict[str, int] = {}
    for packet in packets:
        for name, count in packet.usage:
            total[name] = total.get(name, 0) + count
    return tuple(total.items())


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of generated text. Deltas concatenate to the text and never split a character; ids may outnumber text.

    ``finish_reason`` is set on the last one (``stop`` or ``length``); ``usage`` are counts that this packet adds.
    """

    window: ClassVar[int] = TOKEN_WINDOW
    max_packet_bytes: ClassVar[int] = 64 << 10

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: str = ""
    usage: Usage = ()

    @classmethod
    def merge(cls, packets: Sequence[TextDelta]) -> TextDelta:
        """All deltas as one."""
        ids = tuple(token for packet in packets for token in packet.token_ids)
        reason = next((p.finish_reason for p in reversed(packets) if p.finish_reason), "")
        return cls("".join(p.text for p in packets), ids, reason, add_usage(packets))

    @classmethod
    def parse(cls, text: str) -> tuple[TextDelta, ...]:
        """The packets for a command-line value."""
        return (cls(text),)


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Mono sound: ``samples`` float32 (n,) in -1..1 at ``sample_rate`` Hz. Chunks concatenate."""

    samples: Array
    sample_rate: int
    usage: Usage = ()

    @classmethod
    def merge(cls, packets: Sequence[AudioChunk]) -> AudioChunk:
        """All chunks as one; no chunk at all is an empty one at rate 0."""
        import numpy as np

        if not packets:
            return cls(Array.empty(0), 0)
        samples = np.concatenate([p.samples.values for p in packets])
        return cls(Array.of(samples), packets[0].sample_rate, add_usage(packets))


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One picture: ``pixels`` uint8 (height, width, 3) RGB, shown at ``time`` seconds from the start."""

    max_packet_bytes: ClassVar[int] = 48 << 20
    window: ClassVar[int] = 2

    pixels: Array
    time: float


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that the framework does not look into, with a content type."""

    data: bytes
    content_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, cut into packets: first the messages, then the bytes of each medium, in order.

    The messages packet has ``media`` -1 and ``messages``, a JSON list of ``{"role", "content": [parts]}``; a media part is
    ``{"type", "media": k, "format", ...}`` with ``format`` ``file`` (``name``: what the user called it), or ``float32``
    (``shape``, ``sample_rate``) or ``uint8`` (``shape``, ``fps`` for a video) for raw little-endian arrays. A part with
    ``format`` ``live`` has no number and no bytes: what is written live belongs there. A media packet has ``media`` k, up to
    1 MiB less a little of ``data``, and ``last`` on the final piece.
    """

    messages: str = ""
    media: int = -1
    data: bytes = b""
    last: bool = True
