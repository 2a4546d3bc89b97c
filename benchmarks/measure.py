"""Side by side: run the sides of a comparison in turn, round after round, so that both meet the same machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

Samples = tuple[float, ...]
Side = Callable[[], Sequence[float]]


def interleaved(rounds: int, sides: Mapping[str, Side]) -> dict[str, tuple[Samples, ...]]:
    """{side: its samples, by round}. Every round runs each side once, every other round in reverse order.

    One round more goes before, uncounted, so that neither side pays for being first.
    """
    names = list(sides)
    for name in names:
        sides[name]()
    samples: dict[str, list[Samples]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            samples[name].append(tuple(sides[name]()))
    return {name: tuple(kept) for name, kept in samples.items()}


def percentile(share: float) -> Callable[[Sequence[float]], float]:
    """The statistic that ``share`` (0 to 1) of the samples do not exceed: nearest rank."""

    def of(samples: Sequence[float]) -> float:
        return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]

    return of


def seconds(work: Callable[[], object]) -> float:
    """Wall time of ``work``."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
