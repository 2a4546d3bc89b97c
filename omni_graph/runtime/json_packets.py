"""Packets as JSON and back, by their declared fields: the form that a control client sees. Strict, and nothing is guessed.

An Array is ``{"dtype", "shape", "data"}`` and bytes are ``{"data"}``, with the buffer in base64; tuples are lists.
"""

from __future__ import annotations

import base64
import binascii
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Union, get_args, get_origin

from omni_graph.errors import Code, RequestError
from omni_graph.payload import DTYPES, Array, payload_fields


def packet_to_json(packet: Any) -> dict[str, Any]:
    """A packet's fields, as ``json.dumps`` takes them."""
    return {name: _plain(getattr(packet, name)) for name, _ in payload_fields(type(packet))}


def _plain(value: Any) -> Any:
    if isinstance(value, Array):
        return {"dtype": value.dtype, "shape": list(value.shape), "data": _text(value.values.tobytes())}
    if isinstance(value, bytes):
        return {"data": _text(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def packet_from_json(cls: type, item: Any) -> Any:
    """A ``cls`` of what ``packet_to_json`` gave. Raises RequestError(invalid_input) with the field."""
    if not isinstance(item, Mapping):
        raise _bad(cls.__name__, item, "an object of its fields")
    hints = dict(payload_fields(cls))
    optional = {one.name for one in fields(cls) if one.default is not MISSING or one.default_factory is not MISSING}
    unknown, missing = item.keys() - hints.keys(), hints.keys() - item.keys() - optional
    if unknown or missing:
        raise _bad(cls.__name__, ", ".join(sorted(item)[:9]) or "no field", f"the fields {', '.join(hints)}")
    return cls(**{name: _value(hints[name], value, f"{cls.__name__}.{name}") for name, value in item.items()})


def _value(hint: Any, item: Any, place: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(one for one in get_args(hint) if one is not type(None))
        return None if item is None else _value(hint, item, place)
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint), item, place)
    if hint is Array:
        return _array(item, place)
    if hint is bytes:
        return _bytes(item, place)
    if hint is float and type(item) in (int, float) and math.isfinite(item):
        return float(item)
    if hint is float or type(item) is not hint:
        raise _bad(place, item, f"a finite {hint.__name__}" if hint is float else hint.__name__)
    return item


def _tuple(hints: tuple[Any, ...], item: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(item, list):
        raise _bad(place, item, "a list")
    each = [hints[0]] * len(item) if len(hints) == 2 and hints[1] is Ellipsis else list(hints)
    if len(each) != len(item):
        raise _bad(place, f"{len(item)} items", f"{len(each)} items")
    return tuple(_value(hint, one, f"{place}[{i}]") for i, (hint, one) in enumerate(zip(each, item, strict=True)))


def _array(item: Any, place: str) -> Array:
    import numpy as np

    if not isinstance(item, Mapping) or item.keys() != {"dtype", "shape", "data"} or item["dtype"] not in DTYPES:
        raise _bad(place, item, f"{{dtype, shape, data}} with a dtype of {', '.join(DTYPES)}")
    shape, (numpy_dtype, size) = item["shape"], DTYPES[item["dtype"]]
    if not isinstance(shape, list) or not all(type(one) is int and one >= 0 for one in shape):
        raise _bad(f"{place}.shape", shape, "a list of sizes")
    data = _bytes({"data": item["data"]}, place)
    if len(data) != math.prod(shape) * size:
        raise _bad(f"{place}.data", f"{len(data)} bytes", f"the {math.prod(shape) * size} bytes of {shape}")
    return Array.of(np.frombuffer(data, numpy_dtype).reshape(shape), item["dtype"])


def _bytes(item: Any, place: str) -> bytes:
    data = item.get("data") if isinstance(item, Mapping) and len(item) == 1 else None
    try:
        return base64.b64decode(data, validate=True)  # type: ignore[arg-type]
    except (TypeError, binascii.Error, ValueError):
        raise _bad(place, item, '{"data": base64}') from None


def _bad(place: str, seen: Any, allowed: str) -> RequestError:
    shown = seen if isinstance(seen, str) and len(seen) < 100 else type(seen).__name__
    return RequestError("", Code.INVALID_INPUT, f"{place}: got {shown}; expected {allowed}")
