"""Small nodes for graphs in tests: whole classes by the Node protocol, and classes that are no nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from omni_graph.node import In, Inbox, Out, Outbox
from omni_graph.payload import AudioChunk, TextDelta

if TYPE_CHECKING:
    from decimal import Decimal


class Silent:
    """Opens, does nothing and closes: enough for a graph that is only checked."""

    def open(self, request: str, params: Any) -> None: ...

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        return False

    def close(self, request: str) -> None: ...


class Echo(Silent):
    """Says again what it reads."""

    text = In(TextDelta)
    said = Out(TextDelta)


class Split(Silent):
    """Feeds two arms."""

    text = In(TextDelta)
    left = Out(TextDelta)
    right = Out(TextDelta)


class Join(Silent):
    """Reads two arms."""

    lookahead = 2
    left = In(TextDelta)
    right = In(TextDelta)
    said = Out(TextDelta)


class Speak(Silent):
    """Text to sound."""

    text = In(TextDelta)
    audio = Out(AudioChunk)

    @dataclass(frozen=True)
    class Params:
        """What a request may set."""

        pitch: float = 1.0

    def __init__(
        self,
        rate: int,
        voice: str = "low",
        mode: Literal["fast", "exact"] = "fast",
        steps: Sequence[int] = (1,),
        price: Decimal | None = None,
        device: str = "auto",
        kv_bytes: int | None = None,
    ) -> None:
        self.rate = rate


class Anything(Silent):
    """Takes any config."""

    text = In(TextDelta)
    said = Out(TextDelta)

    def __init__(self, **config: Any) -> None:
        self.config = config


class Clock(Silent):
    """Has no input port: a source."""

    tick = Out(TextDelta)


class Listen(Silent):
    """Reads what it is given, or nothing."""

    text = In(TextDelta, optional=True)
    audio = In(AudioChunk, optional=True)
    said = Out(TextDelta)


class NoStep:
    """Not a node: it cannot step."""

    text = In(TextDelta)

    def open(self, request: str, params: Any) -> None: ...

    def close(self, request: str) -> None: ...


class NoPorts(Silent):
    """Not a node: nothing can be wired to it."""


class MutableParams(Echo):
    """Not a node: its Params could change under a request."""

    @dataclass
    class Params:
        """Not frozen."""

        pitch: float = 1.0


def make() -> Echo:
    """A function, where a class is asked for."""
    return Echo()
