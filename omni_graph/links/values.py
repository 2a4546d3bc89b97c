"""Values <-> header items and raw parts, by their declared type: strict in both directions, and no more than declared.

``coder(hint)`` knows str, int, float, bool, bytes, Array, enums of words, tuples, X | None, and frozen dataclasses and
NamedTuples of those. Decoding raises LinkError and nothing else; encoding a value that is not of its declared type
raises FlowControlError, at the place it was sent.
"""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Union, get_args, get_origin

from omni_graph.errors import FlowControlError, LinkError, NodeError
from omni_graph.links.parts import MAX_INLINE_ITEMS, PartReader, PartWriter, show
from omni_graph.links.scalars import LEAVES, NUMBERS, Coder


@cache
def coder(hint: Any) -> Coder:
    """The Coder of a declared type. NodeError when values of it cannot travel."""
    if hint in LEAVES:
        return LEAVES[hint]
    if get_origin(hint) is tuple:
        return _tuple_coder(get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return _optional_coder(hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enum_coder(hint)
    if isinstance(hint, type) and (is_dataclass(hint) or hasattr(hint, "_fields")):
        return record_coder(hint)
    raise NodeError(f"{hint} cannot travel on a link")


def record_coder(cls: type, **replaced: Any) -> Coder:
    """Coder of a dataclass or NamedTuple as the array of its fields; ``replaced``: another type, or Coder, of a field."""
    hints = {**typing.get_type_hints(cls), **replaced}
    names = [field.name for field in fields(cls)] if is_dataclass(cls) else list(getattr(cls, "_fields"))  # noqa: B009
    coders = [_coder_or(hints[name]) for name in names]
    writers = [(name, one.encode) for name, one in zip(names, coders)]
    readers = [(name, one.decode) for name, one in zip(names, coders)]

    def encode(value: Any, parts: PartWriter) -> list[Any]:
        if type(value) is not cls:
            raise FlowControlError(f"expected {cls.__qualname__}, saw {type(value).__qualname__}")
        items = []
        for name, write in writers:
            try:
                items.append(write(getattr(value, name), parts))
            except FlowControlError as error:
                raise FlowControlError(f"{cls.__name__}.{name}: {error}") from None
        return items

    def decode(item: Any, parts: PartReader) -> Any:
        _expect_list(item, len(names), cls.__name__)
        values = []
        for (name, read), field in zip(readers, item):
            try:
                values.append(read(field, parts))
            except LinkError as error:
                raise LinkError(f"{cls.__name__}.{name}: {error}") from None
        return _construct(cls, values)

    return Coder(encode, decode)


def _coder_or(hint: Any) -> Coder:
    return hint if isinstance(hint, Coder) else coder(hint)


def _construct(cls: type, values: list[Any]) -> Any:
    try:
        return cls(*values)
    except Exception as error:  # a payload class may check its values and raise what it likes
        raise LinkError(f"{cls.__name__} refuses its values: {error}") from error


def _expect_list(item: Any, length: int, what: str) -> None:
    if type(item) is not list or len(item) != length:
        raise LinkError(f"{what}: expected {length} items, saw {show(item)}")


def _tuple_coder(args: tuple[Any, ...]) -> Coder:
    if len(args) == 2 and args[1] is Ellipsis:
        return NUMBERS.get(args[0]) or _sequence_coder(coder(args[0]))
    return _fixed_coder([coder(arg) for arg in args])


def _sequence_coder(one: Coder) -> Coder:
    def encode(value: Any, parts: PartWriter) -> list[Any]:
        if not isinstance(value, tuple) or len(value) > MAX_INLINE_ITEMS:
            raise FlowControlError(f"expected a tuple of at most {MAX_INLINE_ITEMS}, saw {show(value)}")
        return [one.encode(item, parts) for item in value]

    def decode(item: Any, parts: PartReader) -> tuple[Any, ...]:
        if type(item) is not list:
            raise LinkError(f"expected an array, saw {show(item)}")
        return tuple([one.decode(element, parts) for element in item])

    return Coder(encode, decode)


def _fixed_coder(coders: list[Coder]) -> Coder:
    def encode(value: Any, parts: PartWriter) -> list[Any]:
        if not isinstance(value, tuple) or len(value) != len(coders):
            raise FlowControlError(f"expected a tuple of {len(coders)}, saw {show(value)}")
        return [one.encode(item, parts) for one, item in zip(coders, value)]

    def decode(item: Any, parts: PartReader) -> tuple[Any, ...]:
        _expect_list(item, len(coders), "tuple")
        return tuple([one.decode(element, parts) for one, element in zip(coders, item)])

    return Coder(encode, decode)


def _optional_coder(hint: Any) -> Coder:
    inner = [arg for arg in get_args(hint) if arg is not type(None)]
    if len(inner) != 1 or len(get_args(hint)) != 2:
        raise NodeError(f"{hint} cannot travel on a link; allowed: one type or None")
    one = coder(inner[0])

    def encode(value: Any, parts: PartWriter) -> Any:
        return None if value is None else one.encode(value, parts)

    def decode(item: Any, parts: PartReader) -> Any:
        return None if item is None else one.decode(item, parts)

    return Coder(encode, decode)


def _enum_coder(cls: type[StrEnum]) -> Coder:
    words = {member.value: member for member in cls}

    def encode(value: Any, parts: PartWriter) -> str:
        if type(value) is not cls:
            raise FlowControlError(f"expected {cls.__name__}, saw {value!r}")
        return str(value.value)

    def decode(item: Any, parts: PartReader) -> StrEnum:
        if type(item) is not str or item not in words:
            raise LinkError(f"{show(item)} is no {cls.__name__}; allowed: {', '.join(words)}")
        return words[item]

    return Coder(encode, decode)
