"""Whose sound is computed next: that of the listener who runs dry first. Pure; the clock is an argument.

It decides an order and nothing else: what a call covers never depends on it. A listener hears what was delivered at the
pace of time, and stands still while there is nothing: so sound delivered late does not make the next piece later still,
and nobody falls behind for ever.
"""

from __future__ import annotations

from collections.abc import Callable

MEL_RATE = 100  # frames of payloads.Mel a second
HEAD_START = 10.0  # seconds by which a listener who has heard nothing yet goes before one who has run dry


class Playback:
    """What each request's listener has left, and the requests that have a piece of sound to compute.

    A piece is due when its listener has run dry, and not before it could be computed; a first one HEAD_START earlier. Once
    that moment has passed, nothing that becomes ready HEAD_START after it can go before it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._dry: dict[str, float] = {}  # when the listener has heard all that was delivered
        self._due: dict[str, float] = {}  # in the order in which the pieces became ready

    def __len__(self) -> int:
        """Requests that are known."""
        return len(self._dry.keys() | self._due.keys())

    def ready(self, request: str) -> None:
        """The request's next piece can be computed from now on."""
        now = self._clock()
        dry = self._dry.get(request)
        self._due[request] = now - HEAD_START if dry is None else max(dry, now)

    def delivered(self, request: str, seconds: float) -> None:
        """That piece is computed: the listener has ``seconds`` more to hear."""
        del self._due[request]
        now = self._clock()
        self._dry[request] = max(self._dry.get(request, now), now) + seconds

    def in_order(self) -> list[str]:
        """The requests with a piece to compute, the most urgent first; of equals the one that was ready first."""
        return sorted(self._due, key=self._due.__getitem__)

    def forget(self, request: str) -> None:
        """The request has ended. Idempotent."""
        self._dry.pop(request, None)
        self._due.pop(request, None)
