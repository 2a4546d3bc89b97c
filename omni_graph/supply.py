"""Packets of one graph input on their way in: those that are there, and those that are made when the graph wants them.

Invariant: order is the order of ``add``; of a source that is no sequence at most one packet is held here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from omni_graph.errors import Code, RequestError


class Supply:
    """True while there is a packet to take; asking may pull one, and raises RequestError where its source fails."""

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
            try:
                self._ready.append(next(self._sources[0]))
            except StopIteration:
                self._sources.popleft()
            except RequestError:
                raise
            except Exception as error:  # the caller's own code, and that request's trouble alone
                message = f"the source of an input failed: {type(error).__name__}: {error}"
                raise RequestError("", Code.INVALID_INPUT, message) from error
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
