"""Where each key and value of a file stands, and how a fault of it is shown: line, column, the line itself, a caret.

A value; opens no file. A Source without marks belongs to a spec that was made in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from omni_graph.codes import FaultCode
from omni_graph.errors import Fault

Place = tuple[str, ...]
V = TypeVar("V")
SHOWN_COLUMNS = 200


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something stands: line and column from 1, width in characters."""

    line: int
    column: int
    width: int


@dataclass(frozen=True, slots=True)
class Source:
    """A file's lines and where its keys and values stand; ``settings`` are values that the command line put there."""

    file: str = ""
    lines: tuple[str, ...] = ()
    keys: Mapping[Place, Mark] = field(default_factory=dict)
    values: Mapping[Place, Mark] = field(default_factory=dict)
    settings: Mapping[Place, str] = field(default_factory=dict)

    def at_value(self, code: FaultCode, place: Place, message: str, inside: Place = ()) -> Fault:
        """A fault of ``place``, pointing at its value, or at the part ``inside`` of it where the file has that part."""
        return self._fault(code, place, message, _nearest(self.values, place + inside), place + inside)

    def at_key(self, code: FaultCode, place: Place, message: str) -> Fault:
        """A fault of ``place``, pointing at its key, or at the nearest key around it."""
        return self._fault(code, place, message, _nearest(self.keys, place), place)

    def at_mark(self, code: FaultCode, mark: Mark, message: str, place: Place = ()) -> Fault:
        """A fault at a line and column."""
        return self._fault(code, place, message, mark, place)

    def _fault(self, code: FaultCode, place: Place, message: str, mark: Mark | None, exact: Place) -> Fault:
        path = ".".join(place)
        setting = _nearest(self.settings, exact) or self._made_by(exact)
        if setting is not None:
            return Fault(code, message, path, f"--set {setting}")
        if mark is None:
            return Fault(code, message, path, self.file)
        text = self.lines[mark.line - 1] if mark.line <= len(self.lines) else ""
        shown = text[:SHOWN_COLUMNS] if mark.column < SHOWN_COLUMNS else ""
        width = min(mark.width, max(1, len(shown) - mark.column + 1))
        return Fault(code, message, path, self.file, mark.line, mark.column, width, shown)

    def _made_by(self, place: Place) -> str | None:
        """The setting that made the mapping at ``place``, where the file has none."""
        below = (text for inside, text in self.settings.items() if inside[: len(place)] == place)
        return None if place in self.values else next(below, None)


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """The faults as a person reads the files: by file, line and column."""
    return sorted(faults, key=lambda fault: (fault.file, fault.line, fault.column))


def _nearest(marks: Mapping[Place, V], place: Place) -> V | None:
    for length in range(len(place), 0, -1):
        if place[:length] in marks:
            return marks[place[:length]]
    return None
