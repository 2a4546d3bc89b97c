"""The record of one request: what each stage spent and what flowed on each edge. Written and read as JSON lines.

Times are seconds since the Gateway accepted the request. A trace holds no content of the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_graph.errors import OmniGraphError
from omni_graph.payload import AudioChunk, TextDelta
from omni_graph.plan import Plan

STAGE_KEYS = (
    "computing_s",
    "stalled_s",
    "queued_s",
    "waiting_s",
    "transit_s",
    "first_output_s",
    "packets",
    "bytes",
)
EMPTY = {
    **dict.fromkeys(STAGE_KEYS, 0),
    "first_output_s": None,
    "opened_s": 0.0,
    "ended_s": 0.0,
    "edges": {},
    "spans": [],
}
MAX_LINE = 1 << 20


class TraceError(OmniGraphError):
    """A trace file that cannot be read as one."""


@dataclass(frozen=True, slots=True)
class Trace:
    """``stages``: {name: timings} in the order of the graph; ``edges``: {name: {packets, bytes}}."""

    trace_id: str
    request: str
    graph: str
    total_s: float
    first_text_s: float | None
    first_audio_s: float | None
    stages: Mapping[str, Mapping[str, Any]]
    edges: Mapping[str, Mapping[str, int]]

    def timing(self) -> dict[str, Any]:
        """The ``timing`` object of ``run --json``."""
        stages = {name: {key: stage[key] for key in STAGE_KEYS} for name, stage in self.stages.items()}
        return {
            "first_text_s": self.first_text_s,
            "first_audio_s": self.first_audio_s,
            "total_s": self.total_s,
            "stages": stages,
        }

    def summary(self) -> dict[str, Any]:
        """What ``trace FILE --json`` prints."""
        return {"trace_id": self.trace_id, **self.timing(), "edges": {name: dict(e) for name, e in self.edges.items()}}

    def write(self, path: Path) -> None:
        """One line for the request, one per stage, one per edge."""
        head: dict[str, Any] = {
            "type": "request",
            "trace_id": self.trace_id,
            "request": self.request,
            "graph": self.graph,
        }
        head |= {"total_s": self.total_s, "first_text_s": self.first_text_s, "first_audio_s": self.first_audio_s}
        lines: list[Mapping[str, Any]] = [head]
        lines += [{"type": "stage", "stage": name, **stage} for name, stage in self.stages.items()]
        lines += [{"type": "edge", "edge": name, **edge} for name, edge in self.edges.items()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_trace(plan: Plan, trace_id: str, request: str, total_s: float, timings: Mapping[str, Any]) -> Trace:
    """The trace of an ended request; ``timings`` as the replicas report them, {stage: summary}."""
    stages = {name: timings[name] for name in plan.stages if name in timings}
    edges = {}
    firsts: dict[type, float] = {}
    for stage in stages.values():
        for number, count in stage["edges"].items():
            edge = plan.edges[int(number)]
            edges[edge.name] = {"packets": int(count["packets"]), "bytes": int(count["bytes"])}
            if edge.is_output:
                firsts[edge.type] = min(firsts.get(edge.type, count["first_s"]), count["first_s"])
    total = round(total_s, 6)
    return Trace(trace_id, request, plan.graph, total, firsts.get(TextDelta), firsts.get(AudioChunk), stages, edges)


def read_trace(path: Path) -> Trace:
    """The trace of ``Trace.write``. Raises TraceError with file and line."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from None
    records = [_record(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    heads = [one for one in records if one["type"] == "request"]
    if len(heads) != 1:
        raise TraceError(f"{path}: a trace has one line of type 'request'; this file has {len(heads)}")
    stages = {str(one["stage"]): EMPTY | one for one in records if one["type"] == "stage"}
    edges = {str(one["edge"]): one for one in records if one["type"] == "edge"}
    keys = ("trace_id", "request", "graph", "total_s", "first_text_s", "first_audio_s")
    try:
        flows = {name: {"packets": int(e["packets"]), "bytes": int(e["bytes"])} for name, e in edges.items()}
        return Trace(**{key: heads[0][key] for key in keys}, stages=stages, edges=flows)
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{path}: not a trace of this version: {error!r}") from None


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line) if len(line) <= MAX_LINE else None
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("type") not in ("request", "stage", "edge"):
        raise TraceError(f"{path}:{number}: not a line of a trace (JSON with type request, stage or edge)")
    return record
