"""What a moment of a request had to wait for: the chain of stages, backwards from it to the request's start.

Read from the spans of a trace: where a stage waits for input, the path goes on in the stage upstream that computed last
before the wait was over. Invariant: the seconds of a path add up to the moment it explains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from omni_graph.frames import GATEWAY
from omni_graph.observe.timing import COMPUTING
from omni_graph.observe.trace import Span, Trace

TRANSIT, WAITING = "transit", "waiting"


@dataclass(frozen=True, slots=True)
class Leg:
    """``seconds`` of a stay at ``stage`` in which it is computing, stalled, queued or waiting, or its input in transit."""

    stage: str
    state: str
    seconds: float


def critical_paths(trace: Trace) -> dict[str, list[Leg]]:
    """``first_audio`` (empty where there was none) and ``total``, each in order of time."""
    audio = trace.first_audio_s
    return {
        "first_audio": [] if audio is None else _path(trace, [_maker_of_first_audio(trace, audio)], audio),
        "total": _path(trace, list(trace.stages), trace.total_s),
    }


def _maker_of_first_audio(trace: Trace, audio: float) -> str:
    """The stage whose first packet on some edge is the first audio."""
    gaps = {
        name: min((abs(edge["first_s"] - audio) for edge in stage["edges"].values()), default=math.inf)
        for name, stage in trace.stages.items()
    }
    return min(gaps, key=gaps.__getitem__)


def _path(trace: Trace, makers: Sequence[str], moment: float) -> list[Leg]:
    """From ``moment``, when something of one of ``makers`` was at the Gateway, back to 0."""
    upstream = _upstream(trace)
    stage, waits_for = GATEWAY, makers
    legs: list[Leg] = []
    while moment > 0:
        state, start = _state_before(trace.stages[stage]["spans"], moment) if stage != GATEWAY else (WAITING, 0.0)
        found = _last_computed(trace, waits_for, moment) if state == WAITING else None
        if found is not None:
            maker, start, end = found
            legs += [Leg(stage, TRANSIT, moment - end), Leg(maker, COMPUTING, end - start)]
            stage, waits_for = maker, upstream[maker]
        else:
            legs.append(Leg(stage, state, moment - start))
        moment = start
    return _merged(legs[::-1])


def _upstream(trace: Trace) -> Mapping[str, list[str]]:
    """The stages that feed each stage; edges are called ``writer.port -> reader.port``."""
    feeds: dict[str, list[str]] = {name: [] for name in trace.stages}
    for edge in trace.edges:
        writer, reader = (end.partition(".")[0] for end in edge.split(" -> "))
        if GATEWAY not in (writer, reader):
            feeds[reader].append(writer)
    return feeds


def _state_before(spans: Sequence[Span], moment: float) -> tuple[str, float]:
    """What a stage did right before ``moment``, and since when; before it opened it waits, from 0."""
    return next(((state, start) for state, start, _ in reversed(spans) if start < moment), (WAITING, 0.0))


def _last_computed(trace: Trace, stages: Sequence[str], moment: float) -> tuple[str, float, float] | None:
    """(stage, start, end) of the slices among ``stages`` that end last before ``moment``, cut there."""
    slices = [
        (min(end, moment), start, name)
        for name in stages
        for state, start, end in trace.stages[name]["spans"]
        if state == COMPUTING and start < moment
    ]
    if not slices:
        return None
    end, start, name = max(slices)
    return name, start, end


def _merged(legs: Sequence[Leg]) -> list[Leg]:
    """One leg per state for every stay at a stage; what took no time is left out."""
    merged: list[Leg] = []
    for stage, stay in groupby(legs, key=lambda leg: leg.stage):
        seconds: dict[str, float] = {}
        for leg in stay:
            seconds[leg.state] = seconds.get(leg.state, 0.0) + leg.seconds
        merged += [Leg(stage, state, spent) for state, spent in seconds.items() if spent > 0]
    return merged
