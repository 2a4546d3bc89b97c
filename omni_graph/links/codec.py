"""Frames <-> messages: a msgpack header and raw buffers as further parts. Knows no socket, keeps no state.

``decode`` trusts nothing: what is not exactly a legal message is a LinkError with a reason, and nothing else comes out.
``encode`` refuses what ``decode`` would. No object is ever built by name: a payload's class is its edge's declared type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgpack

from omni_graph.errors import FlowControlError, LinkError
from omni_graph.frames import (
    Close,
    Closed,
    Credit,
    Data,
    End,
    Frame,
    Goaway,
    Hello,
    Open,
    Ping,
    Pong,
    Report,
    Reset,
    Start,
    Stop,
)
from omni_graph.links.columns import CHOICES, STATES
from omni_graph.links.handshake import Refusal
from omni_graph.links.parts import (
    CONTROL_PART_BYTES,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_INLINE_ITEMS,
    MAX_INLINE_TEXT,
    MAX_PARTS,
    MESSAGE_BYTES,
    PACKET_ALLOWANCE,
    Buffer,
    PartReader,
    PartWriter,
    byte_length,
    show,
)
from omni_graph.links.scalars import Coder
from omni_graph.links.values import record_coder
from omni_graph.payload import max_packet_bytes, packet_bytes, payload_fields

WireFrame = Frame | Refusal
Message = Sequence[Buffer]

# The number of a frame on the wire is its place here. Hello and Refusal stay first and as they are in every version.
KINDS: tuple[type, ...] = (
    Hello, Refusal, Goaway, Ping, Pong, Open, Close, Reset, Report, Closed, Start, Data, Credit, End, Stop,
)  # fmt: skip
DATA = KINDS.index(Data)
_EDGE_FIELD = 2  # of Data, in declared order
_LEAST = {"attempt": 1, "edge": 0, "seq": 0, "count": 0, "taken": 0, "limit": 0, "version": 0}
_BOUNDS = {cls: tuple((one.name, _LEAST[one.name]) for one in fields(cls) if one.name in _LEAST) for cls in KINDS}
_NUMBERS = {cls: number for number, cls in enumerate(KINDS)}
_SPECIAL: dict[type, dict[str, Coder]] = {
    Open: {"forced": CHOICES},
    End: {"choices": CHOICES},
    Pong: {"requests": STATES},
}


@dataclass(slots=True)
class _Group:
    """Frames on their way into one message."""

    headers: list[bytes] = field(default_factory=list)
    parts: list[Buffer] = field(default_factory=list)
    header_bytes: int = 0
    part_bytes: int = 0

    def fits(self, header: bytes, parts: PartWriter) -> bool:
        return (
            len(self.headers) < MAX_FRAMES
            and self.header_bytes + len(header) <= MAX_HEADER_BYTES - 3
            and len(self.parts) + len(parts.parts) <= MAX_PARTS
            and self.part_bytes + parts.nbytes <= MESSAGE_BYTES
        )

    def add(self, header: bytes, parts: PartWriter) -> None:
        self.headers.append(header)
        self.parts += parts.parts
        self.header_bytes += len(header)
        self.part_bytes += parts.nbytes

    def message(self, packer: msgpack.Packer) -> list[Buffer]:
        return [packer.pack_array_header(len(self.headers)) + b"".join(self.headers), *self.parts]


class Codec:
    """Both directions for one plan. ``types``: every edge of the plan and the payload class declared for it."""

    def __init__(self, types: Mapping[int, type]) -> None:
        for cls in types.values():
            payload_fields(cls)
        self._types = dict(types)
        self._coders = {cls: record_coder(cls, **_SPECIAL.get(cls, {})) for cls in KINDS if cls is not Data}
        self._data = {edge: record_coder(Data, choices=CHOICES, packet=cls | None) for edge, cls in types.items()}
        self._packer = msgpack.Packer()
        largest = max((max_packet_bytes(cls) for cls in types.values()), default=0)
        self.max_part_bytes = max(CONTROL_PART_BYTES, largest + PACKET_ALLOWANCE)

    def encode(self, frames: Sequence[WireFrame]) -> list[list[Buffer]]:
        """As few messages as the limits allow, in order; buffers are referenced, not copied.

        FlowControlError, and nothing is sent, when a frame is not legal: a value that is not of its declared type, an
        unknown edge, a packet over its type's limit.
        """
        messages: list[list[Buffer]] = []
        group = _Group()
        for frame in frames:
            header, parts = self._encode_frame(frame)
            if group.headers and not group.fits(header, parts):
                messages.append(group.message(self._packer))
                group = _Group()
            group.add(header, parts)
        return [*messages, group.message(self._packer)] if group.headers else messages

    def decode(self, message: Message) -> list[WireFrame]:
        """The frames of one message. LinkError, with the reason, when it is not a legal one."""
        if not 1 <= len(message) <= MAX_PARTS + 1:
            raise LinkError(f"a message of {len(message)} parts; allowed: 1 to {MAX_PARTS + 1}")
        items = _unpack(message[0])
        if type(items) is not list or not 1 <= len(items) <= MAX_FRAMES:
            raise LinkError(f"expected an array of 1 to {MAX_FRAMES} frames, saw {show(items)}")
        parts = PartReader(message[1:], self.max_part_bytes)
        frames = [self._decode_frame(item, parts) for item in items]
        parts.finish()
        return frames

    def _encode_frame(self, frame: WireFrame) -> tuple[bytes, PartWriter]:
        parts = PartWriter(self.max_part_bytes)
        fault = self._fault(frame)
        if fault:
            raise FlowControlError(f"{type(frame).__name__}: {fault}")
        items = self._coder_of(frame).encode(frame, parts)
        header: bytes = self._packer.pack([_NUMBERS[type(frame)], *items])
        if len(header) > MAX_HEADER_BYTES - 3 or len(parts.parts) > MAX_PARTS:
            raise FlowControlError(
                f"{type(frame).__name__}: a header of {len(header)} bytes and {len(parts.parts)} parts; "
                f"allowed: {MAX_HEADER_BYTES - 3} and {MAX_PARTS}"
            )
        return header, parts

    def _coder_of(self, frame: WireFrame) -> Coder:
        if type(frame) is Data:
            return self._data[frame.edge]
        if type(frame) not in self._coders:
            raise FlowControlError(f"{type(frame).__name__} is no frame")
        return self._coders[type(frame)]

    def _decode_frame(self, item: Any, parts: PartReader) -> WireFrame:
        if type(item) is not list or not item or type(item[0]) is not int or not 0 <= item[0] < len(KINDS):
            raise LinkError(f"expected a frame, saw {show(item)}")
        frame: WireFrame = self._decoder(item).decode(item[1:], parts)
        fault = self._fault(frame)
        if fault:
            raise LinkError(f"{type(frame).__name__}: {fault}")
        return frame

    def _decoder(self, item: list[Any]) -> Coder:
        if item[0] != DATA:
            return self._coders[KINDS[item[0]]]
        edge = item[1 + _EDGE_FIELD] if len(item) > 1 + _EDGE_FIELD else None
        if type(edge) is not int or edge not in self._data:
            raise LinkError(f"Data: edge {show(edge)}; the plan has {self._edge_names()}")
        return self._data[edge]

    def _fault(self, frame: WireFrame) -> str:
        """What is wrong with a frame whose fields have their types; empty when nothing is."""
        for name, least in _BOUNDS.get(type(frame), ()):
            value = getattr(frame, name)
            if type(value) is int and value < least:
                return f"{name} {value}; allowed: {least} and more"
        for edge in _edges(frame):
            if type(edge) is not int or edge not in self._types:
                return f"edge {show(edge)}; the plan has {self._edge_names()}"
        if isinstance(frame, Data) and frame.packet is not None:
            return self._packet_fault(frame)
        return ""

    def _packet_fault(self, frame: Data) -> str:
        cls = self._types[frame.edge]
        if type(frame.packet) is not cls:
            return f"edge {frame.edge} carries {cls.__qualname__}, not {type(frame.packet).__qualname__}"
        size, limit = packet_bytes(frame.packet), max_packet_bytes(cls) + PACKET_ALLOWANCE
        return f"a packet of {size} bytes; {cls.__qualname__} allows {limit}" if size > limit else ""

    def _edge_names(self) -> str:
        return f"edges {', '.join(map(str, sorted(self._types)))}" if self._types else "no edges"


def _edges(frame: WireFrame) -> Sequence[Any]:
    """The numbers of all edges that a frame speaks of."""
    if isinstance(frame, Data | Credit | Start | End | Stop):
        return (frame.edge,)
    if isinstance(frame, Open):
        return [*(ends.edge for ends in frame.edges), *(edge for edge, _ in frame.accepted)]
    if isinstance(frame, Pong):
        return [counts.edge for state in frame.requests for counts in state.edges]
    return ()


def _unpack(header: Buffer) -> Any:
    size = byte_length(header)
    if size > MAX_HEADER_BYTES:
        raise LinkError(f"a header of {size} bytes; allowed {MAX_HEADER_BYTES}")
    try:
        return msgpack.unpackb(
            header,
            raw=False,
            max_str_len=MAX_INLINE_TEXT,
            max_bin_len=MAX_INLINE_TEXT,
            max_array_len=MAX_INLINE_ITEMS,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError) as error:
        raise LinkError(
            f"a header that is not msgpack within the limits: {type(error).__name__}: {error}"[:200]
        ) from None
