"""The packets of the frontend's outputs: made on demand, filled as live input comes, or one after the other. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class AnyArm(Protocol):
    """The packets of one output."""

    @property
    def left(self) -> int:
        """How many are still to come, or 1 and more where nobody knows; 0: the output is complete."""

    @property
    def ready(self) -> bool:
        """``advance`` has work to do."""

    def advance(self) -> Any:
        """The next packet, or None after a slice of work that completed none."""

    def drop(self) -> None:
        """Nobody reads them: keep nothing."""


@dataclass(slots=True)
class Arm(Generic[T]):
    """Packets made on demand. ``left`` says how many are still to come, without making one."""

    packets: Iterator[T | None]
    left: int

    @classmethod
    def of(cls, packets: Sequence[T]) -> Arm[T]:
        return cls(iter(packets), len(packets))

    @property
    def ready(self) -> bool:
        return self.left > 0

    def advance(self) -> T | None:
        packet = next(self.packets)
        if packet is not None:
            self.left -= 1
        return packet

    def drop(self) -> None:
        self.packets, self.left = iter(()), 0


@dataclass(slots=True)
class Queue(Generic[T]):
    """Packets that somebody else puts here, until it sets ``ended``."""

    packets: deque[T] = field(default_factory=deque)
    ended: bool = False
    dropped: bool = False

    @property
    def left(self) -> int:
        return len(self.packets) + (not self.ended)

    @property
    def ready(self) -> bool:
        return bool(self.packets)

    def advance(self) -> T | None:
        return self.packets.popleft() if self.packets else None

    def drop(self) -> None:
        self.dropped = True
        self.packets.clear()

    def put(self, packets: Sequence[T]) -> None:
        """Append them."""
        if not self.dropped:
            self.packets.extend(packets)


class Chain:
    """The packets of several arms, one arm after the other."""

    def __init__(self, *arms: AnyArm) -> None:
        self._arms = deque(arms)

    @property
    def left(self) -> int:
        return sum(arm.left for arm in self._arms)

    @property
    def ready(self) -> bool:
        return bool(self._current()) and self._arms[0].ready

    def advance(self) -> Any:
        return self._arms[0].advance() if self._current() else None

    def drop(self) -> None:
        for arm in self._arms:
            arm.drop()

    def _current(self) -> bool:
        """Step over arms that are complete; False when all are."""
        while self._arms and not self._arms[0].left:
            self._arms.popleft()
        return bool(self._arms)
