"""A request's events on their way from the Gateway's thread to its caller. Bounded by credit: the Gateway counts what is
in here and grants no more than its output buffer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from omni_graph.gateway_request import Event, OutputPacket

ReadBack = Callable[[dict[str, int]], None]
READ_BATCH_BYTES = 64 << 10


class Mailbox:
    """``put`` from the Gateway's thread; ``get`` from the caller's. ``read_back`` hears, per output, the bytes taken out.

    Reading is told in batches, and always before the caller waits: an unread buffer is never hidden from the Gateway.
    """

    def __init__(self, read_back: ReadBack) -> None:
        self._events: deque[Event] = deque()
        self._arrived = threading.Condition()
        self._read_back = read_back
        self._taken: dict[str, int] = {}
        self.on_arrival: Callable[[], None] | None = None

    def put(self, event: Event) -> None:
        """An event; never blocks."""
        with self._arrived:
            self._events.append(event)
            self._arrived.notify_all()
        if self.on_arrival is not None:
            self.on_arrival()

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None when there is none after ``timeout`` seconds (None: wait for ever)."""
        event = self.get_now()
        if event is not None:
            return event
        with self._arrived:
            self._arrived.wait_for(lambda: bool(self._events), timeout)
        return self.get_now()

    def get_now(self) -> Event | None:
        """The next event, if one is there."""
        with self._arrived:
            event = self._events.popleft() if self._events else None
        if isinstance(event, OutputPacket):
            self._taken[event.output] = self._taken.get(event.output, 0) + event.size
        if event is None or sum(self._taken.values()) >= READ_BATCH_BYTES:
            self._tell()
        return event

    def _tell(self) -> None:
        taken, self._taken = self._taken, {}
        if any(taken.values()):
            self._read_back(taken)
