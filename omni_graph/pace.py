"""How fast the queue moves, and so when a refused caller had better come back. Pure: admissions and the time in."""

from __future__ import annotations

import math
from collections import deque

LEAST_S, MOST_S = 1, 30
REMEMBERED = 64


class Pace:
    """The latest admissions out of the queue."""

    def __init__(self) -> None:
        self._admitted: deque[float] = deque(maxlen=REMEMBERED)

    def admitted(self, now: float) -> None:
        """A request has left the queue for its Route."""
        self._admitted.append(now)

    def retry_after_s(self, waiting: int, now: float) -> int:
        """Whole seconds until those ``waiting`` have left at the pace of the last 30 seconds; between 1 and 30."""
        lately = [at for at in self._admitted if now - at <= MOST_S]
        if not lately:
            return MOST_S
        return min(MOST_S, max(LEAST_S, math.ceil(waiting * (now - lately[0]) / len(lately))))
