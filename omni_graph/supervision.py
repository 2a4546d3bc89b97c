"""When a dead replica is started again. Pure: deaths and the time in, a decision out.

Back-off doubles from 0.1 s to 10 s while a replica keeps dying young; more than 3 deaths of a stage in 30 s open its
circuit: nothing is started for 30 s, its requests fail fast, all other stages go on (after OTP's restart intensity).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 10.0
DEATHS = 3
WITHIN_S = 30.0
OPEN_S = 30.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Start the replica again at ``at``; ``circuit_open``: and until then the stage is unhealthy."""

    at: float
    circuit_open: bool


def slots_after_oom(slots: int, aboard: int) -> int:
    """Requests that the next life of a replica takes at once, which ran out of memory with so many ``aboard``: a quarter
    fewer. One alone says nothing about how many are too many; whether it is poison, its replay tells."""
    return slots if aboard < 2 else max(1, slots * 3 // 4)


class Supervision:
    """The deaths of one stage's replicas."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque()
        self._young = 0

    def died(self, now: float, lived_s: float) -> Decision:
        """A replica has died after ``lived_s`` seconds of readiness (0: it never was ready)."""
        self._deaths.append(now)
        while self._deaths and now - self._deaths[0] > WITHIN_S:
            self._deaths.popleft()
        self._young = 1 if lived_s > WITHIN_S else self._young + 1
        if len(self._deaths) > DEATHS:
            self._deaths.clear()
            return Decision(now + OPEN_S, True)
        return Decision(now + min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (self._young - 1)), False)
