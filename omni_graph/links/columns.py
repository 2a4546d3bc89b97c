"""Choices and request states as columns: their text once, all their integers in one tuple, long ones as a raw part.

Thousands of forced choices, or a Pong for a thousand requests, thus stay outside the bounded header.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omni_graph.errors import FlowControlError, LinkError
from omni_graph.frames import Choice, EdgeCounts, RequestState
from omni_graph.links.parts import PartReader, PartWriter, show
from omni_graph.links.scalars import LEAVES, NUMBERS, Coder
from omni_graph.links.values import coder

_NAMES = coder(tuple[str, ...])
_INTS = NUMBERS[int]
_TEXT = LEAVES[str]
UNKNOWN = -1  # a counter the sender does not know


class _Integers:
    """Reads a column of integers from the front, with bounds."""

    def __init__(self, values: Sequence[int]) -> None:
        self._values = values
        self._next = 0

    def take(self, count: int) -> tuple[int, ...]:
        end = self._next + count
        if end > len(self._values):
            raise LinkError(f"a column of {len(self._values)} integers ends before its {end}th")
        taken = tuple(self._values[self._next : end])
        self._next = end
        return taken

    def one(self, least: int, most: int | None = None) -> int:
        (value,) = self.take(1)
        if value < least or (most is not None and value > most):
            raise LinkError(f"{value} in a column; allowed: {least} to {'any' if most is None else most}")
        return value

    def more(self) -> bool:
        return self._next < len(self._values)


def _encode_choices(choices: Any, parts: PartWriter) -> list[Any]:
    names: dict[str, int] = {}
    flat: list[int] = []
    for choice in choices:
        if type(choice) is not Choice or not isinstance(choice.values, tuple):
            raise FlowControlError(f"expected a Choice with a tuple of ints, saw {choice!r}")
        flat += (names.setdefault(choice.node, len(names)), choice.index, len(choice.values), *choice.values)
    return [_NAMES.encode(tuple(names), parts), _INTS.encode(tuple(flat), parts)] if flat else []


def _decode_choices(item: Any, parts: PartReader) -> tuple[Choice, ...]:
    if type(item) is list and not item:
        return ()
    names, ints = _columns(item, 2)
    nodes: tuple[str, ...] = _NAMES.decode(names, parts)
    column = _Integers(_INTS.decode(ints, parts))
    choices = []
    while column.more():
        node = nodes[column.one(0, len(nodes) - 1)]
        choices.append(Choice(node, column.one(0), column.take(column.one(0))))
    return tuple(choices)


def _encode_states(states: Any, parts: PartWriter) -> list[Any]:
    flat: list[int] = []
    for state in states:
        flat += (len(state.request), state.attempt, int(state.idle), len(state.edges))
        for counts in state.edges:
            flat += counts
    text = "".join(state.request for state in states)
    return [_TEXT.encode(text, parts), _INTS.encode(tuple(flat), parts)] if flat else []


def _decode_states(item: Any, parts: PartReader) -> tuple[RequestState, ...]:
    if type(item) is list and not item:
        return ()
    text_item, ints = _columns(item, 2)
    text: str = _TEXT.decode(text_item, parts)
    column = _Integers(_INTS.decode(ints, parts))
    states, start = [], 0
    while column.more():
        length = column.one(0, len(text) - start)
        request, start = text[start : start + length], start + length
        attempt, idle = column.one(1), bool(column.one(0, 1))
        states.append(RequestState(request, attempt, idle, tuple(_counts(column) for _ in range(_edges(column)))))
    if start != len(text):
        raise LinkError(f"{len(text) - start} characters that belong to no request")
    return tuple(states)


def _edges(column: _Integers) -> int:
    return column.one(0, 1 << 16)


def _counts(column: _Integers) -> EdgeCounts:
    return EdgeCounts(column.one(0), *(column.one(UNKNOWN) for _ in range(4)))


def _columns(item: Any, count: int) -> list[Any]:
    if type(item) is not list or len(item) != count:
        raise LinkError(f"expected {count} columns, saw {show(item)}")
    return item


CHOICES = Coder(_encode_choices, _decode_choices)
STATES = Coder(_encode_states, _decode_states)
