"""Packets of one graph input on their way in: those that are there, and those that are made when the graph wants them.

Invariant: order is the order of ``add``; of a source that is no sequence at most one packet is held here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


class Supply:
    """True while there is a packet to take; asking may pull one, and raises what its source raises."""

    def __init__(self) -> None:
        self._ready: deque[Any] = deque()
        self._sources: deque[Iterator[Any]] = deque()

    @property
    def ready(self) -> int:
        """Packets that are held here."""
        return len(self._ready)

    def add(self, packets: Iterable[Any]) -> None:
        """More packets, after all others."""
        if isinstance(packets, Sequence) and not self._sources:
            self._ready.extend(packets)
        else:
            self._sources.append(iter(packets))

    def __bool__(self) -> bool:
        while not self._ready and self._sources:
            for packet in self._sources[0]:
                self._ready.append(packet)
                break
            else:
                self._sources.popleft()
        return bool(self._ready)

    def take(self) -> Any:
        """The next packet; there must be one."""
        return self._ready.popleft()

    def put_back(self, packets: Sequence[Any]) -> None:
        """These were the latest to be taken; they come first again."""
        self._ready.extendleft(reversed(packets))

    def clear(self) -> None:
        """Forget everything."""
        self._ready.clear()
        self._sources.clear()
