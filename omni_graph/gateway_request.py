"""One request at the Gateway, from its submission until every replica has forgotten it. Pure.

Its inputs and outputs live here; what becomes of it is decided in admission.py (waiting -> open) and recovery.py (the rest).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from omni_graph.errors import FlowControlError, RequestError
from omni_graph.frames import Closed, Credit, Data, EdgeCounts, EdgeEnds, End, LinkId, Start, Stop
from omni_graph.gateway_inputs import RequestInputs
from omni_graph.gateway_outputs import RequestOutputs
from omni_graph.router import Route
from omni_graph.streams import Emit
from omni_graph.topology import Topology
from omni_graph.wiring import Edge


@dataclass(frozen=True, slots=True)
class Submission:
    """A request as the caller made it. ``stages``: those that the asked outputs need; ``params`` is checked JSON;
    ``session``: a key that keeps requests on the replicas that hold its state, or empty."""

    request: str
    stages: tuple[str, ...]
    outputs: tuple[str, ...]
    params: str
    seed: int
    deadline_s: float
    traceparent: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True)
class OutputPacket:
    """An event: a packet of an output, in order of arrival. ``size`` is what it counts in the buffer, in bytes."""

    output: str
    packet: Any
    size: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The terminal event; ``error`` None: completed. ``after_s``: seconds since the request was accepted."""

    error: RequestError | None
    after_s: float


@dataclass(frozen=True, slots=True)
class Released:
    """Every replica has forgotten the request, or died. ``timings``: {stage: what it spent}, see observe/timing.py;
    ``retries``: how often it was replayed."""

    timings: Mapping[str, Any]
    retries: int = 0


Event = OutputPacket | Ended | Released
Tell = Callable[[str, Event], None]
State = Literal["waiting", "open", "resetting", "closing"]


class GatewayRequest:
    """``state``: waiting for a Route; open; resetting (a replica or link was lost: the others are still to forget it, then
    it waits for another Route, or fails); or closing (ended; replicas are still to forget it).

    ``closing``: replicas that are still to forget it. ``faults``: what was lost so far, as ``retries`` counts it;
    ``deaths``: replicas that died with it, per host. ``probation``: hosts in which it is a suspect. ``failure``: why the
    last attempt ended; ``loss_counts``: that uses up a retry; ``final``: nothing may follow it.
    """

    def __init__(self, submission: Submission, accepted_at: float, topology: Topology, emit: Emit, tell: Tell) -> None:
        self.submission = submission
        self.accepted_at = accepted_at
        self.state: State = "waiting"
        self.attempt = 0
        self.opened_at = 0.0
        self.route: Route = {}
        self.revisions: dict[str, int] = {}
        self.closing: set[str] = set()
        self.timings: dict[str, Any] = {}
        self.faults = 0
        self.deaths: Counter[str] = Counter()
        self.probation: set[str] = set()
        self.failure: RequestError | None = None
        self.loss_counts = True
        self.final = False
        self._topology = topology
        self._once = bool(topology.once.intersection(submission.stages))
        self._inputs = RequestInputs(self.request, 0 if self._once else topology.input_bytes, emit)
        # not of ``self``: what is over must go without a search for cycles
        deliver = partial(_deliver, tell, self.request)
        self.outputs = RequestOutputs(self.request, submission.outputs, topology.output_bytes, emit, deliver)

    @property
    def request(self) -> str:
        return self.submission.request

    @property
    def deadline(self) -> float:
        return self.accepted_at + self.submission.deadline_s

    @property
    def members(self) -> set[str]:
        """Names of the replicas on the Route."""
        return {address.name for address in self.route.values()}

    @property
    def retries(self) -> int:
        """How often it was opened again."""
        return max(0, self.attempt - 1)

    # ---- its caller

    def write(self, name: str, packets: Iterable[Any], now: float) -> None:
        """Packets of a graph input."""
        self._inputs.write(name, packets)
        self.feed(now)

    def end_input(self, name: str, now: float) -> None:
        """The input is complete."""
        self._inputs.end(name)
        self.feed(now)

    def waiting_input(self, name: str) -> int:
        """Packets of an input that have not left yet."""
        return self._inputs.waiting(name)

    def feed(self, now: float) -> None:
        """Move inputs into the graph, as far as credit goes; not while there is no graph to take them."""
        if self.state == "open":
            self._inputs.feed(now)

    @property
    def broken_input(self) -> RequestError | None:
        """What reading an input has raised."""
        return self._inputs.broken

    # ---- its streams

    def add_stream(self, edge: Edge, ends: EdgeEnds, heard: Callable[[LinkId], bool]) -> None:
        """Our end of an edge: write an input, read an output."""
        if edge.is_input:
            self._inputs.add_stream(self.attempt, edge, ends.reader.name)
        elif edge.is_output:
            self.outputs.add_stream(self.attempt, edge, ends.writer.name, heard)

    def on_edge(self, link: LinkId, frame: Data | Start | End | Credit | Stop, now: float) -> None:
        """The other end of one of our streams speaks. Raises FlowControlError, or Diverged."""
        if isinstance(frame, Credit | Stop):
            self._inputs.on_demand(link, frame)
            self.feed(now)
        else:
            self.outputs.on_supply(link, frame)

    def links(self) -> set[LinkId]:
        """Those on which a Start was sent or received: what is lost on them is missing."""
        return self._inputs.links() | self.outputs.links()

    def links_with(self, peer: str) -> list[LinkId]:
        """Those of them that lead to ``peer``."""
        return sorted(link for link in self.links() if link.peer == peer)

    def counts(self) -> tuple[EdgeCounts, ...]:
        """Our counters, for the wedge watch."""
        return (*self._inputs.counts(), *self.outputs.counts())

    @property
    def may_be_wedged(self) -> bool:
        """Neither we nor the caller could move it."""
        return self.state == "open" and self._inputs.all_sent() and self.outputs.all_taken

    def add_timings(self, frame: Closed) -> None:
        """What a replica's stages spent on it. Raises FlowControlError where that is no JSON object."""
        try:
            timings = json.loads(frame.timings)
        except ValueError as error:
            raise FlowControlError(f"Closed of {frame.request}: timings are no JSON: {error}") from error
        if not isinstance(timings, dict):
            raise FlowControlError(f"Closed of {frame.request}: timings must be {{stage: ...}}")
        self.timings.update(timings)

    # ---- replay

    @property
    def may_move(self) -> bool:
        """Every input can be given again, and no stage on the way must run only once."""
        return not self._once and self._inputs.replayable

    @property
    def may_follow(self) -> bool:
        """Another attempt may follow the one that was lost."""
        return not self.final and (not self.loss_counts or self.faults < self._topology.retries)

    @property
    def pinned(self) -> Mapping[str, int]:
        """Host -> revision: where the client has a part of the answer, what goes on with it is of the same revisions."""
        return self.revisions if self.outputs.delivered else {}

    def rewind(self) -> None:
        """The attempt is over, and another may follow."""
        self._inputs.rewind()
        self.outputs.rewind()

    def forget_streams(self) -> None:
        """The last attempt is over: only the timings are still to come."""
        self._inputs.forget()
        self.outputs.rewind()


def _deliver(tell: Tell, request: str, output: str, packet: Any, size: int) -> None:
    tell(request, OutputPacket(output, packet, size))
