"""What a bench hands back: series of samples, rows that compare two of them, and the JSON of both.

Every sample is kept. A ratio is the median over rounds of (ours / against) inside one round, so that a machine that slows
down between rounds slows both sides; what is measured once stands against every round. A losing row stands beside a
winning one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import comb
from statistics import median
from typing import Any

from benchmarks.machine import Machine

OURS = "ours"
Statistic = Callable[[Sequence[float]], float]
Interval = tuple[float, float]
DIGITS = 7


class Of(StrEnum):
    """What a goal bounds."""

    RATIO = "ratio"
    INTERVAL = "95% interval of the ratio"
    OURS = "ours"
    MORE = "ours - against"


@dataclass(frozen=True, slots=True)
class Goal:
    """``at_most``/``at_least`` of a ratio, of ours, or of the difference; exactly one of the two is given."""

    of: Of
    at_most: float | None = None
    at_least: float | None = None

    def __str__(self) -> str:
        sign, bound = ("<=", self.at_most) if self.at_most is not None else (">=", self.at_least)
        return f"{self.of} {sign} {bound:g}"

    def met(
        self, ours: float, against: float | None, ratio: float | None, interval: Interval | None = None
    ) -> bool | None:
        """Is it reached, by the near end of ``interval`` where the goal is of that? None where a side was not measured."""
        more = None if against is None else ours - against
        near = None if interval is None else interval[0 if self.at_most is not None else 1]
        seen = {Of.RATIO: ratio, Of.OURS: ours, Of.MORE: more, Of.INTERVAL: near}[self.of]
        if seen is None:
            return None
        return seen <= self.at_most if self.at_most is not None else seen >= (self.at_least or 0.0)


@dataclass(frozen=True, slots=True)
class Series:
    """All samples of one side of one case, by round. ``of`` is ``ours`` or the name of what we are held against."""

    case: str
    metric: str
    of: str
    rounds: tuple[tuple[float, ...], ...]

    def by_round(self, statistic: Statistic) -> list[float]:
        """One figure a round."""
        return [statistic(samples) for samples in self.rounds]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. ``ours`` and ``against`` are medians over rounds, in the unit that ``metric`` names."""

    bench: str
    case: str
    metric: str
    ours: float
    against: float | None
    against_name: str
    ratio: float | None
    goal: str | None
    met: bool | None


@dataclass(frozen=True, slots=True)
class Spread:
    """How far a row's ratio moves from round to round: its least and its largest."""

    low: float
    high: float


@dataclass(slots=True)
class Report:
    """What one run of one bench found."""

    bench: str
    machine: Machine
    quick: bool = False
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    spreads: dict[int, Spread] = field(default_factory=dict)

    def keep(self, *series: Series) -> None:
        """Keep every sample of these."""
        self.series += [one for one in series if one not in self.series]

    def compare(
        self, ours: Series, against: Series, goal: Goal | None = None, statistic: Statistic = median, metric: str = ""
    ) -> Row:
        """The row of two series that were measured in the same rounds, or ``against`` once for all; both are kept."""
        self.keep(ours, against)
        mine, theirs = ours.by_round(statistic), against.by_round(statistic)
        theirs = theirs * len(mine) if len(theirs) == 1 else theirs
        ratios = [a / b for a, b in zip(mine, theirs, strict=True) if b]
        ratio = median(ratios) if ratios else None
        if ratios:
            self.spreads[len(self.rows)] = Spread(min(ratios), max(ratios))
        interval = median_interval(ratios) if ratios else None
        name = metric or ours.metric
        return self._add(ours.case, name, median(mine), median(theirs), against.of, ratio, goal, interval)

    def alone(self, ours: Series, why: str, goal: Goal | None = None, statistic: Statistic = median) -> Row:
        """The row of a series with nothing beside it; ``why`` says what is missing, or what the figure is."""
        self.keep(ours)
        return self._add(ours.case, ours.metric, median(ours.by_round(statistic)), None, why, None, goal)

    def _add(
        self,
        case: str,
        metric: str,
        ours: float,
        against: float | None,
        against_name: str,
        ratio: float | None,
        goal: Goal | None,
        interval: Interval | None = None,
    ) -> Row:
        met = None if goal is None else goal.met(ours, against, ratio, interval)
        row = Row(self.bench, case, metric, ours, against, against_name, ratio, str(goal) if goal else None, met)
        self.rows.append(row)
        return row

    def to_json(self) -> str:
        """The whole report as text; a series is one line, its samples to ``DIGITS`` decimals (of a second: 100 ns)."""
        record: dict[str, Any] = {
            "bench": self.bench,
            "quick": self.quick,
            **asdict(self.machine),
            "notes": self.notes,
            "rows": [asdict(row) for row in self.rows],
            "samples": [],
        }
        head = json.dumps(record, indent=1).removesuffix("[]\n}")
        samples = ",\n  ".join(json.dumps(_rounded(asdict(one)), separators=(",", ":")) for one in self.series)
        return f"{head}[\n  {samples}\n ]\n}}\n"


def median_interval(samples: Sequence[float]) -> Interval:
    """An interval that covers the median of what ``samples`` come from with at least 95%, by order statistics (binomial);
    with fewer than 6 samples there is none, and it is their whole range."""
    ordered, n = sorted(samples), len(samples)
    cut, tail = 0, 2 * 0.5**n
    while tail + 2 * comb(n, cut + 1) * 0.5**n <= 0.05:
        cut += 1
        tail += 2 * comb(n, cut) * 0.5**n
    return ordered[cut], ordered[n - 1 - cut]


def _rounded(value: Any) -> Any:
    """Numbers without the digits that no clock has."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
