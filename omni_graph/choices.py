"""Choices travel with the data: what one outgoing stream still has to carry. Pure.

Invariant: per node, the choices a stream has carried are 0..n-1 without a gap, each once; so every packet brings along all
the choices it depends on.
"""

from __future__ import annotations

from collections.abc import Iterable

from omni_graph.errors import FlowControlError
from omni_graph.frames import Choice


class ChoiceLedger:
    """The choices that one stream has yet to carry, in the order in which they were made or taken."""

    __slots__ = ("_next", "_pending")

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._pending: list[Choice] = []

    def add(self, choices: Iterable[Choice]) -> None:
        """Choices that later packets depend on; those already carried (they came by two ways) are skipped."""
        for choice in choices:
            due = self._next.get(choice.node, 0)
            if choice.index > due:
                raise FlowControlError(f"choice {choice.index} of {choice.node} where {due} was due")
            if choice.index == due:
                self._next[choice.node] = due + 1
                self._pending.append(choice)

    def carry(self) -> tuple[Choice, ...]:
        """What the frame that leaves now must carry."""
        if not self._pending:
            return ()
        carried = tuple(self._pending)
        self._pending.clear()
        return carried


class ChoiceOrder:
    """The reader's side of that invariant: what one incoming stream has carried so far."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def check(self, choices: Iterable[Choice]) -> None:
        """FlowControlError where the writer left a gap or carried a choice twice."""
        for choice in choices:
            due = self._next.get(choice.node, 0)
            if choice.index != due:
                raise FlowControlError(f"the stream carries choice {choice.index} of {choice.node} where {due} was due")
            self._next[choice.node] = due + 1
