"""The raw parts behind a message's header, written and read in order, and every bound the codec keeps.

Values too long for the header, and all arrays, are parts. Nothing here copies a buffer.
"""

from __future__ import annotations

from collections.abc import Sequence

from omni_graph.errors import FlowControlError, LinkError

Buffer = bytes | memoryview

MAX_HEADER_BYTES = 64 << 10  # checked before the header is decoded
MAX_FRAMES = 64  # frames in one message
MAX_PARTS = 64  # raw parts in one message
MAX_INLINE_ITEMS = 256  # elements of one array of the header; msgpack allocates all of them when it sees the length
MAX_INLINE_TEXT = 4096  # bytes of one str or bin of the header
MESSAGE_BYTES = 1 << 20  # a message that has reached this is closed; a single frame may be larger
LONG_BYTES = 1024  # longer text and bytes travel as a part
LONG_NUMBERS = 64  # longer tuples of numbers travel as a part
CONTROL_PART_BYTES = 8 << 20  # the least limit of one part: forced choices, parameters
PACKET_ALLOWANCE = 4 << 10  # a packet may exceed its type's limit by its small fields, when it is cut by its buffer


def byte_length(part: Buffer) -> int:
    """Bytes of a part, whatever the format of its view."""
    return part.nbytes if isinstance(part, memoryview) else len(part)


class PartWriter:
    """Collects the parts of one frame."""

    def __init__(self, max_part_bytes: int) -> None:
        self.parts: list[Buffer] = []
        self.nbytes = 0
        self._limit = max_part_bytes

    def add(self, part: Buffer) -> int:
        """Append a part; returns its length in bytes, which stands for it in the header."""
        length = byte_length(part)
        if length > self._limit:
            raise FlowControlError(f"a part of {length} bytes; at most {self._limit} may travel")
        self.parts.append(part)
        self.nbytes += length
        return length


class PartReader:
    """Hands out the parts of one message in order."""

    def __init__(self, parts: Sequence[Buffer], max_part_bytes: int) -> None:
        self._parts = parts
        self._limit = max_part_bytes
        self._next = 0

    def take(self, length: object) -> Buffer:
        """The next part, which must have the length that the header announced."""
        if self._next == len(self._parts):
            raise LinkError(f"a part is missing: the message has {len(self._parts)}")
        part = self._parts[self._next]
        self._next += 1
        seen = byte_length(part)
        if type(length) is not int or seen != length:
            raise LinkError(f"a part of {seen} bytes where the header announces {show(length)}")
        if seen > self._limit:
            raise LinkError(f"a part of {seen} bytes; allowed {self._limit}")
        return part

    def finish(self) -> None:
        """LinkError when parts are left over."""
        if self._next != len(self._parts):
            raise LinkError(f"{len(self._parts) - self._next} parts that no field announced")


def show(item: object) -> str:
    """A header item for an error message, short whatever a peer sent."""
    if isinstance(item, str | bytes | list | dict):
        return f"{type(item).__name__} of length {len(item)}"
    return f"{type(item).__name__} {str(item)[:40]}"
