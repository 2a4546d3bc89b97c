"""What each stage spends on each request: computing, stalled for credit, queued, waiting for input. An Observer.

Invariant: from the moment a stage opens a request until it ends it, every moment counts in exactly one of the four. Spans
for drawing are kept at a resolution that halves when there are too many, so memory a request is bounded. Clocks of two
machines are never compared: a stage counts from when it heard of the request, and how old that was by then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

MAX_SPANS = 200
COMPUTING = "computing"
ACTIVITIES = (COMPUTING, "stalled", "queued", "waiting")


@dataclass(slots=True)
class _EdgeCount:
    """What left on one edge, and when the first of it did."""

    first: float
    packets: int = 0
    bytes: int = 0

    def summary(self) -> dict[str, float]:
        return {"packets": self.packets, "bytes": self.bytes, "first_s": round(self.first, 6)}


@dataclass(slots=True)
class _Stage:
    """One request at one node; times in seconds since the Gateway accepted the request."""

    since: float
    activity: str = "waiting"
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ACTIVITIES, 0.0))
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    resolution: float = 1e-4
    opened: float = 0.0
    ended: float | None = None
    transit: float | None = 0.0  # None: some of its input came from another machine
    edges: dict[int, _EdgeCount] = field(default_factory=dict)

    def until(self, now: float, activity: str) -> None:
        """Everything since the last mark was ``self.activity``; from now on it is ``activity``."""
        if self.ended is None:
            self._add(self.activity, self.since, now)
            self.since, self.activity = now, activity

    def computed(self, start: float, end: float) -> None:
        """A slice ran from start to end."""
        if self.ended is None:
            self._add(self.activity, self.since, start)
            self._add(COMPUTING, max(start, self.since), end)
            self.since = end

    def _add(self, activity: str, start: float, end: float) -> None:
        if end <= start:
            return
        self.seconds[activity] += end - start
        if self.spans and self.spans[-1][0] == activity and start - self.spans[-1][2] <= self.resolution:
            self.spans[-1] = (activity, self.spans[-1][1], end)
            return
        self.spans.append((activity, start, end))
        if len(self.spans) > MAX_SPANS:
            self._coarsen()

    def _coarsen(self) -> None:
        """Drop spans below twice the resolution: drawing loses them, the totals do not."""
        while len(self.spans) > MAX_SPANS // 2:
            self.resolution *= 2
            kept: list[tuple[str, float, float]] = []
            for activity, start, end in self.spans:
                near = kept and kept[-1][0] == activity and start - kept[-1][2] <= self.resolution
                if near:
                    kept[-1] = (activity, kept[-1][1], end)
                elif end - start >= self.resolution:
                    kept.append((activity, start, end))
            self.spans = kept

    def summary(self) -> dict[str, object]:
        return {
            **{f"{activity}_s": round(seconds, 6) for activity, seconds in self.seconds.items()},
            "transit_s": None if self.transit is None else round(self.transit, 6),
            "first_output_s": min((round(edge.first, 6) for edge in self.edges.values()), default=None),
            "opened_s": round(self.opened, 6),
            "ended_s": round(self.ended if self.ended is not None else self.since, 6),
            "packets": sum(edge.packets for edge in self.edges.values()),
            "bytes": sum(edge.bytes for edge in self.edges.values()),
            "edges": {str(number): edge.summary() for number, edge in self.edges.items()},
            "spans": [[activity, round(start, 6), round(end, 6)] for activity, start, end in self.spans],
        }


class Timings:
    """The Observer of a worker. ``clock``: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._accepted: dict[str, float] = {}
        self._stages: dict[str, dict[str, _Stage]] = {}

    def _now(self, request: str) -> float:
        return self._clock() - self._accepted[request]

    def opened(self, request: str, node: str, age_s: float) -> None:
        self._accepted.setdefault(request, self._clock() - age_s)
        now = self._now(request)
        self._stages.setdefault(request, {})[node] = _Stage(since=now, opened=now)

    def computed(self, node: str, requests: Iterable[str], seconds: float) -> None:
        for request in requests:
            stage = self._stages.get(request, {}).get(node)
            if stage is not None:
                end = self._now(request)
                stage.computed(end - seconds, end)

    def became(self, request: str, node: str, activity: str) -> None:
        self._stages[request][node].until(self._now(request), activity)

    def received(self, request: str, node: str, sent_at: float | None) -> None:
        stage = self._stages[request][node]
        if sent_at is None or stage.transit is None:
            stage.transit = None
        else:
            stage.transit += self._clock() - sent_at

    def sent(self, request: str, node: str, edge: int, size: int) -> None:
        stage = self._stages[request][node]
        if edge not in stage.edges:
            stage.edges[edge] = _EdgeCount(self._now(request))
        stage.edges[edge].packets += 1
        stage.edges[edge].bytes += size

    def ended(self, request: str, node: str) -> None:
        stage = self._stages[request][node]
        now = self._now(request)
        stage.until(now, "waiting")
        stage.ended = now

    def closed(self, request: str) -> str:
        stages = self._stages.pop(request, {})
        for stage in stages.values():
            stage.until(self._now(request), "waiting")
        self._accepted.pop(request, None)
        return json.dumps({node: stage.summary() for node, stage in stages.items()})
