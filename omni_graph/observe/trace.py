"""The record of one request: what each stage spent and what flowed on each edge. Written and read as JSON lines.

Times are seconds since the Gateway accepted the request. A trace holds no content of the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from omni_graph.errors import OmniGraphError
from omni_graph.payload import AudioChunk, TextDelta
from omni_graph.plan import Plan

STAGE_KEYS = ("computing_s", "stalled_s", "queued_s", "waiting_s", "transit_s", "first_output_s", "packets", "bytes")
MAX_LINE = 1 << 20

Finite = Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]
EdgeName = Annotated[str, StringConstraints(pattern=r"^[^ .]+\.[^ .]+ -> [^ .]+\.[^ .]+$")]
Span = tuple[Literal["computing", "stalled", "queued", "waiting"], Finite, Finite]
"""What a stage did, from when, until when."""


class TraceError(OmniGraphError):
    """A trace file that cannot be read as one."""


class EdgeFlow(TypedDict):
    """What passed on an edge."""

    packets: NonNegativeInt
    bytes: NonNegativeInt


class EdgeTiming(EdgeFlow):
    """The same, with the time of the first packet."""

    first_s: Finite


class StageTiming(TypedDict):
    """What one stage spent on the request, as its replica reports it; ``edges`` by the plan's number. ``transit_s`` None:
    some of its input came from a machine with another clock, and how long that took nobody knows."""

    computing_s: Finite
    stalled_s: Finite
    queued_s: Finite
    waiting_s: Finite
    transit_s: Finite | None
    first_output_s: Finite | None
    opened_s: Finite
    ended_s: Finite
    packets: NonNegativeInt
    bytes: NonNegativeInt
    edges: dict[str, EdgeTiming]
    spans: list[Span]


class _Head(TypedDict):
    trace_id: str
    request: str
    graph: str
    total_s: Finite
    first_text_s: Finite | None
    first_audio_s: Finite | None


@dataclass(frozen=True, slots=True)
class Trace:
    """``stages``: {name: timings} in the order of the graph; ``edges``: {``writer.port -> reader.port``: flow}."""

    trace_id: str
    request: str
    graph: str
    total_s: float
    first_text_s: float | None
    first_audio_s: float | None
    stages: Mapping[str, StageTiming]
    edges: Mapping[str, EdgeFlow]

    def timing(self) -> dict[str, Any]:
        """The ``timing`` object of ``run --json``."""
        stages = {
            name: {key: value for key, value in stage.items() if key in STAGE_KEYS}
            for name, stage in self.stages.items()
        }
        return {
            "first_text_s": self.first_text_s,
            "first_audio_s": self.first_audio_s,
            "total_s": self.total_s,
            "stages": stages,
        }

    def write(self, path: Path) -> None:
        """One line for the request, one per stage, one per edge. Raises TraceError where the file cannot be written."""
        head: dict[str, Any] = {"type": "request", "trace_id": self.trace_id, "request": self.request}
        head |= {"graph": self.graph, "total_s": self.total_s}
        head |= {"first_text_s": self.first_text_s, "first_audio_s": self.first_audio_s}
        lines: list[dict[str, Any]] = [head]
        lines += [{"type": "stage", "stage": name, **stage} for name, stage in self.stages.items()]
        lines += [{"type": "edge", "edge": name, **edge} for name, edge in self.edges.items()]
        try:
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            raise TraceError(f"{path}: cannot be written: {error.strerror or error}") from None


def make_trace(plan: Plan, trace_id: str, request: str, total_s: float, timings: Mapping[str, Any]) -> Trace:
    """The trace of an ended request; ``timings`` as the replicas report them, {stage: summary}."""
    stages: dict[str, StageTiming] = {name: timings[name] for name in plan.stages if name in timings}
    edges: dict[str, EdgeFlow] = {}
    firsts: dict[type, float] = {}
    for stage in stages.values():
        for number, count in stage["edges"].items():
            edge = plan.edges[int(number)]
            edges[edge.name] = {"packets": int(count["packets"]), "bytes": int(count["bytes"])}
            if edge.is_output:
                firsts[edge.type] = min(firsts.get(edge.type, count["first_s"]), count["first_s"])
    total = round(total_s, 6)
    return Trace(trace_id, request, plan.graph, total, firsts.get(TextDelta), firsts.get(AudioChunk), stages, edges)


_HEAD, _STAGE, _FLOW = TypeAdapter(_Head), TypeAdapter(StageTiming), TypeAdapter(EdgeFlow)
_NAME, _EDGE_NAME = TypeAdapter(str), TypeAdapter(EdgeName)


def read_trace(path: Path) -> Trace:
    """The trace of ``Trace.write``. Raises TraceError with file and line."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    heads: list[_Head] = []
    stages: dict[str, StageTiming] = {}
    edges: dict[str, EdgeFlow] = {}
    for number, line in enumerate(lines, 1):
        record = _record(f"{path}:{number}", line)
        try:
            if record["type"] == "request":
                heads.append(_HEAD.validate_python(record))
            elif record["type"] == "stage":
                stages[_NAME.validate_python(record.get("stage"))] = _STAGE.validate_python(record)
            else:
                edges[_EDGE_NAME.validate_python(record.get("edge"))] = _FLOW.validate_python(record)
        except ValidationError as error:
            raise TraceError(f"{path}:{number}: not a trace of this version: {_first(error)}") from None
    if len(heads) != 1:
        raise TraceError(f"{path}: a trace has one line of type 'request'; this file has {len(heads)}")
    _check_ends(path, stages, edges)
    return Trace(**heads[0], stages=stages, edges=edges)


def _record(place: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line) if len(line) <= MAX_LINE else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("type") not in ("request", "stage", "edge"):
        raise TraceError(f"{place}: not a line of a trace (JSON with type request, stage or edge)")
    return record


def _check_ends(path: Path, stages: Mapping[str, StageTiming], edges: Mapping[str, EdgeFlow]) -> None:
    for edge in edges:
        for end in edge.split(" -> "):
            if (name := end.partition(".")[0]) not in stages and name != "gateway":
                raise TraceError(f"{path}: the edge {edge} names {name}, which has no line of type 'stage'")


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'its name'}: {fault['msg'].lower()}"
