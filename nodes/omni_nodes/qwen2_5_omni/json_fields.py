"""A JSON object that came from outside, read field by field: each reader checks one, and an error names its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omni_graph.errors import OmniGraphError

NAME_LENGTH = 200


class InvalidInput(OmniGraphError):
    """The user's conversation cannot be served. The frontend fails the request with this line as ``invalid_input``."""


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object with its place; each reader checks one field."""

    values: Mapping[str, object]
    place: str

    @classmethod
    def of(cls, value: object, place: str, allowed: Sequence[str] | None = None) -> Fields:
        if not isinstance(value, dict):
            raise InvalidInput(f"{place}: an object is needed, not {type(value).__name__}")
        fields = cls(value, place)
        if allowed is not None:
            fields.only(*allowed)
        return fields

    def only(self, *allowed: str) -> None:
        unknown = sorted(set(self.values) - set(allowed))
        if unknown:
            raise InvalidInput(f"{self.place}: unknown field {unknown[0]!r}; allowed: {', '.join(allowed)}")

    def get(self, name: str) -> object:
        if name not in self.values:
            raise InvalidInput(f"{self.place}: {name} is missing")
        return self.values[name]

    def fail(self, name: str, needed: str) -> InvalidInput:
        return InvalidInput(f"{self.place}.{name}: {needed} is needed, not {self.values.get(name)!r:.80}")

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str):
            raise self.fail(name, "text")
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InvalidInput(f"{self.place}.{name}: half of a surrogate pair is no text")
        return value

    def one_of(self, name: str, allowed: Sequence[str]) -> str:
        value = self.get(name)
        if not isinstance(value, str) or value not in allowed:
            raise self.fail(name, "one of " + ", ".join(allowed))
        return value

    def medium(self) -> tuple[int, str]:
        """Which medium's bytes belong to this part, and what the user called it (its place, where they did not)."""
        return self.count("media", least=0), self.name()

    def name(self) -> str:
        """What the user called it (its place, where they did not)."""
        name = self.text("name") if "name" in self.values else self.place
        return "".join(c if c.isprintable() else "?" for c in name[:NAME_LENGTH])

    def count(self, name: str, *, least: int = 1) -> int:
        value = self.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.fail(name, f"an integer of at least {least}")
        return value

    def rate(self, name: str) -> float:
        value = self.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.fail(name, "a number above 0")
        return float(value)

    def flag(self, name: str) -> bool | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.fail(name, "true or false")
        return value

    def shape(self, *ranks: int) -> tuple[int, ...]:
        value = self.get("shape")
        if not isinstance(value, list) or len(value) not in ranks:
            raise self.fail("shape", f"a list of {' or '.join(map(str, ranks))} lengths")
        if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in value):
            raise self.fail("shape", "a list of positive integers")
        return tuple(value)
