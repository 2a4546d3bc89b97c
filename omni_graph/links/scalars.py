"""Leaf values <-> header items and raw parts: numbers, text, bytes and tuples of numbers, strict in both directions.

Short ones stand in the header; long text, bytes and tuples of numbers are one raw part each, and the header its length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from omni_graph.errors import FlowControlError, LinkError
from omni_graph.links.arrays import decode_array, encode_array
from omni_graph.links.parts import LONG_BYTES, LONG_NUMBERS, PartReader, PartWriter, show
from omni_graph.payload import Array

INT_LEAST, INT_MOST = -(1 << 63), (1 << 63) - 1


class Coder(NamedTuple):
    """Both directions of one declared type. Header items are what msgpack makes: nil, bool, int, float, str, bin, array."""

    encode: Callable[[Any, PartWriter], Any]
    decode: Callable[[Any, PartReader], Any]


def _encode_int(value: Any, parts: PartWriter) -> int:
    if type(value) is int and INT_LEAST <= value <= INT_MOST:  # what is right is the common case
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise FlowControlError(f"expected an int, saw {type(value).__name__}")
    if not INT_LEAST <= value <= INT_MOST:
        raise FlowControlError(f"{value} is not a 64-bit signed integer")
    return int(value)


def _decode_int(item: Any, parts: PartReader) -> int:
    if type(item) is not int or item > INT_MOST:
        raise LinkError(f"expected a 64-bit signed integer, saw {show(item)}")
    return item


def _encode_float(value: Any, parts: PartWriter) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FlowControlError(f"expected a float, saw {type(value).__name__}")
    if not math.isfinite(value):
        raise FlowControlError(f"expected a finite float, saw {value}")
    return float(value)


def _decode_float(item: Any, parts: PartReader) -> float:
    if type(item) is not float or not math.isfinite(item):
        raise LinkError(f"expected a finite float, saw {show(item)}")
    return item


def _encode_bool(value: Any, parts: PartWriter) -> bool:
    if not isinstance(value, bool):
        raise FlowControlError(f"expected a bool, saw {type(value).__name__}")
    return value


def _decode_bool(item: Any, parts: PartReader) -> bool:
    if type(item) is not bool:
        raise LinkError(f"expected a bool, saw {show(item)}")
    return item


def _encode_text(value: Any, parts: PartWriter) -> str | int:
    if type(value) is str and len(value) <= LONG_BYTES and value.isascii():  # its bytes need not be counted
        return value
    if not isinstance(value, str):
        raise FlowControlError(f"expected a str, saw {type(value).__name__}")
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise FlowControlError(f"text that is not Unicode: {error}") from None
    return str(value) if len(data) <= LONG_BYTES else parts.add(data)


def _decode_text(item: Any, parts: PartReader) -> str:
    if type(item) is str:
        return item
    try:
        return str(parts.take(item), "utf-8")
    except UnicodeDecodeError as error:
        raise LinkError(f"text that is not UTF-8: {error.reason} at byte {error.start}") from None


def _encode_bytes(value: Any, parts: PartWriter) -> bytes | int:
    if not isinstance(value, bytes):
        raise FlowControlError(f"expected bytes, saw {type(value).__name__}")
    return bytes(value) if len(value) <= LONG_BYTES else parts.add(value)


def _decode_bytes(item: Any, parts: PartReader) -> bytes:
    return item if type(item) is bytes else bytes(parts.take(item))


def _decode_none(item: Any, parts: PartReader) -> None:
    if item is not None:
        raise LinkError(f"expected nil, saw {show(item)}")


def _encode_none(value: Any, parts: PartWriter) -> None:
    if value is not None:
        raise FlowControlError(f"expected None, saw {type(value).__name__}")


def _numbers_coder(one: Coder, carrier: str) -> Coder:
    """Tuples of numbers: an array of the header while short, else one raw part of ``carrier`` elements."""
    itemsize = np.dtype(carrier).itemsize

    def encode(value: Any, parts: PartWriter) -> list[Any] | int:
        if not isinstance(value, tuple):
            raise FlowControlError(f"expected a tuple, saw {type(value).__name__}")
        items = [one.encode(item, parts) for item in value]
        return items if len(items) <= LONG_NUMBERS else parts.add(np.array(items, carrier).view(np.uint8).data)

    def decode(item: Any, parts: PartReader) -> tuple[Any, ...]:
        if type(item) is list:
            return tuple([one.decode(element, parts) for element in item])
        part = parts.take(item)
        if len(part) % itemsize:
            raise LinkError(f"{len(part)} bytes are no whole number of {carrier}")
        values = np.frombuffer(part, carrier)
        if not np.isfinite(values).all():
            raise LinkError("numbers that are not finite")
        return tuple(values.tolist())

    return Coder(encode, decode)


_INT = Coder(_encode_int, _decode_int)
_FLOAT = Coder(_encode_float, _decode_float)
LEAVES: dict[Any, Coder] = {
    int: _INT,
    float: _FLOAT,
    bool: Coder(_encode_bool, _decode_bool),
    str: Coder(_encode_text, _decode_text),
    bytes: Coder(_encode_bytes, _decode_bytes),
    Array: Coder(encode_array, decode_array),
    type(None): Coder(_encode_none, _decode_none),
}
NUMBERS: dict[Any, Coder] = {int: _numbers_coder(_INT, "<i8"), float: _numbers_coder(_FLOAT, "<f8")}
