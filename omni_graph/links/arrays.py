"""Array <-> a dtype tag, a shape and one raw part. An array never passes through msgpack and is not copied.

Decoded Arrays are read-only views of the received buffer; only a buffer that is not aligned to its elements is copied.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from omni_graph.errors import FlowControlError, LinkError
from omni_graph.links.parts import Buffer, PartReader, PartWriter, show
from omni_graph.payload import DTYPES, Array

MAX_RANK = 8
MAX_BYTES = (1 << 63) - 1


def encode_array(value: Any, parts: PartWriter) -> list[Any]:
    """[dtype, shape] for the header; the buffer is added to ``parts`` by reference. FlowControlError if it is no Array."""
    if not isinstance(value, Array):
        raise FlowControlError(f"expected an Array, saw {type(value).__name__}")
    values = value.values
    if value.dtype not in DTYPES or values.dtype != DTYPES[value.dtype][0]:
        raise FlowControlError(
            f"an Array tagged {value.dtype} over a buffer of {values.dtype}; allowed: {dtype_names()}"
        )
    if values.ndim > MAX_RANK or not values.flags.c_contiguous:
        raise FlowControlError(
            f"an Array of rank {values.ndim}; it must be C-contiguous and of rank {MAX_RANK} at most"
        )
    parts.add(values.reshape(-1).view(np.uint8).data)
    return [value.dtype, list(values.shape)]


def decode_array(item: Any, parts: PartReader) -> Array:
    """The Array that [dtype, shape] and the next part describe. LinkError on anything else."""
    if type(item) is not list or len(item) != 2:
        raise LinkError(f"expected [dtype, shape] of an Array, saw {show(item)}")
    dtype, shape = item
    if type(dtype) is not str or dtype not in DTYPES:
        raise LinkError(f"dtype {show(dtype)}; allowed: {dtype_names()}")
    carrier, itemsize = DTYPES[dtype]
    part = parts.take(_array_bytes(shape, itemsize))
    if dtype == "bool" and np.frombuffer(part, np.uint8).max(initial=0) > 1:
        raise LinkError("a bool Array with bytes other than 0 and 1")
    return Array(_view(part, carrier, shape), dtype)


def dtype_names() -> str:
    """The dtypes that may travel, for error messages."""
    return ", ".join(DTYPES)


def _array_bytes(shape: Any, itemsize: int) -> int:
    if type(shape) is not list or len(shape) > MAX_RANK:
        raise LinkError(f"shape {show(shape)}; allowed: a list of {MAX_RANK} dimensions at most")
    nbytes = itemsize
    for length in shape:
        if type(length) is not int or not 0 <= length <= MAX_BYTES:
            raise LinkError(f"dimension {show(length)}; allowed: 0 to {MAX_BYTES}")
        nbytes *= length or 1
    if nbytes > MAX_BYTES:
        raise LinkError(f"shape {shape} overflows; at most {MAX_BYTES} bytes")
    return 0 if 0 in shape else nbytes


def _view(part: Buffer, carrier: str, shape: list[int]) -> np.ndarray:
    values = np.frombuffer(part, carrier).reshape(shape)
    if not values.flags.aligned:
        values = values.copy()
    values.flags.writeable = False
    return values
