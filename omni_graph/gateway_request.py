"""One request at the Gateway: its inputs on the way in, its outputs on the way out to the caller's buffer. Pure.

Invariant: what waits for the caller is at most the output's buffer, one packet more, and the window of its edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from omni_graph.credit import StreamReceiver
from omni_graph.errors import FlowControlError, RequestError
from omni_graph.frames import Choice, Credit, Data, EdgeCounts, EdgeEnds, End, Frame, LinkId, Side, Start, Stop
from omni_graph.payload import packet_bytes
from omni_graph.replay import Accepted, ChoiceMemory, KeptSupply
from omni_graph.router import Route
from omni_graph.streams import InStream, OutStream
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
Emit = Callable[[LinkId, Frame], None]
Tell = Callable[[str, Event], None]


class GatewayRequest:
    """``state``: waiting for a Route; open; resetting (a replica or link was lost: the others are still to forget it, then
    it waits for another Route); or closing (ended; replicas are still to forget it)."""

    def __init__(self, submission: Submission, accepted_at: float, topology: Topology, emit: Emit, tell: Tell) -> None:
        self.submission = submission
        self.accepted_at = accepted_at
        self.state = "waiting"
        self.attempt = 0
        self.route: Route = {}
        self.revisions: dict[str, int] = {}
        self.closing: set[str] = set()
        self.faults = 0
        self.failure: RequestError | None = None
        self.final = False
        self.alone_in: set[str] = set()
        self.opened_at = 0.0
        self.bad_input: RequestError | None = None
        self.timings: dict[str, Any] = {}
        self.buffered = dict.fromkeys(submission.outputs, 0)
        self._accepted = {output: Accepted() for output in submission.outputs}
        self._choices = ChoiceMemory()
        self._topology = topology
        self._emit = emit
        self._tell = tell
        self._outs: dict[int, OutStream] = {}
        self._ins: dict[int, InStream] = {}
        self._supply: dict[str, KeptSupply] = {}
        self._supply_ended: set[str] = set()
        self._dropped: set[str] = set()

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

    # ---- streams

    def add_stream(self, edge: Edge, ends: EdgeEnds, heard: Callable[[LinkId], bool]) -> None:
        """Our end of an edge: write an input, read an output."""
        if edge.is_input:
            link = LinkId(ends.reader.name, Side.WRITES)
            self._outs[edge.number] = OutStream(self.request, self.attempt, edge, link)
            self._emit(link, self._outs[edge.number].start())
        elif edge.is_output:
            link = LinkId(ends.writer.name, Side.READS)
            flow = StreamReceiver(edge.window, start=self._accepted[edge.reader_port].count)
            stream = InStream(self.request, self.attempt, edge, link, flow)
            self._ins[edge.number] = stream
            if edge.reader_port in self._dropped:
                stream.close()
            elif heard(link):
                self._emit(link, stream.credit())

    def uses(self, link: LinkId) -> bool:
        """A Start was sent or received on this link."""
        if any(stream.link == link for stream in self._outs.values()):
            return True
        return any(stream.link == link and stream.started for stream in self._ins.values())

    def unlink(self, link: LinkId) -> None:
        """The link is gone, and nothing of ours had begun on it."""
        for stream in self._ins.values():
            if stream.link == link:
                stream.unlink()

    def counts(self) -> tuple[EdgeCounts, ...]:
        """Our counters, for the wedge watch."""
        return (*(out.counts() for out in self._outs.values()), *(stream.counts() for stream in self._ins.values()))

    # ---- inputs

    def write(self, name: str, packets: Iterable[Any], now: float) -> None:
        """Packets of a graph input; what is no sequence is pulled as the graph takes it."""
        self._supply.setdefault(name, KeptSupply(self._topology.input_bytes)).add(packets)
        self.feed(now)

    def end_input(self, name: str, now: float) -> None:
        """The input is complete."""
        self._supply_ended.add(name)
        self.feed(now)

    def waiting_input(self, name: str) -> int:
        """Packets of an input that have not left yet."""
        return self._supply[name].ready if name in self._supply else 0

    def feed(self, now: float) -> None:
        """Move what the caller gave into the graph, as far as credit goes; an input with two readers waits for both.

        What nobody reads, or nobody reads any more, is discarded. What pulling raises is kept as ``bad_input``.
        """
        if self.state != "open" or self.bad_input is not None:
            return
        try:
            self._feed(now)
        except RequestError as error:
            self.bad_input = error

    def _feed(self, now: float) -> None:
        by_input: dict[str, list[OutStream]] = {name: [] for name in (*self._supply, *self._supply_ended)}
        for stream in self._outs.values():
            if not stream.flow.stopped:
                by_input.setdefault(stream.edge.writer_port, []).append(stream)
        for name, streams in by_input.items():
            supply = self._supply.setdefault(name, KeptSupply(self._topology.input_bytes))
            if not streams:
                supply.discard()
            while all(stream.flow.room > 0 for stream in streams) and supply:
                packet = supply.take()
                for stream in streams:
                    self._emit(stream.link, stream.data(packet, now))
            if name in self._supply_ended and not supply:
                self._end_streams(streams)

    def _end_streams(self, streams: Iterable[OutStream]) -> None:
        for stream in streams:
            stream.flow.end()
            frame = stream.end_if_due()
            if frame is not None:
                self._emit(stream.link, frame)

    def wholly_fed(self) -> bool:
        """Nothing more can leave us: every input has ended, was stopped, or has no room."""
        return all(s.flow.ended or s.flow.stopped or s.flow.room == 0 for s in self._outs.values())

    # ---- frames

    def on_demand(self, link: LinkId, frame: Credit | Stop, now: float) -> None:
        """A reader of an input speaks."""
        stream = self._outs.get(frame.edge)
        if stream is None or stream.link != link:
            raise FlowControlError(
                f"{type(frame).__name__} on edge {frame.edge}, which the Gateway does not write to {link.peer}"
            )
        if isinstance(frame, Stop):
            stream.flow.on_stop()
        else:
            stream.flow.on_credit(frame.taken, frame.limit)
        self.feed(now)

    def on_supply(self, link: LinkId, frame: Data | Start | End) -> None:
        """The writer of an output speaks."""
        stream = self._ins.get(frame.edge)
        if stream is None or stream.link != link:
            raise FlowControlError(
                f"{type(frame).__name__} on edge {frame.edge}, which the Gateway does not read from {link.peer}"
            )
        if isinstance(frame, Start):
            self._emit(stream.link, stream.on_start())
        elif isinstance(frame, End):
            self._choices.learn(frame.choices)
            stream.on_end(frame)
            self._accepted[stream.edge.reader_port].check_end(frame.count)
        else:
            self._on_data(stream, frame)

    def _on_data(self, stream: InStream, frame: Data) -> None:
        """A packet that the client has from before is compared and dropped; any other goes to its buffer."""
        accepted = self._accepted[stream.edge.reader_port]
        has = frame.seq < accepted.count
        if frame.packet is None and not has:
            raise FlowControlError(f"a skipped packet {frame.seq} on {stream.edge.name}: the client has not got it yet")
        waits = stream.on_data(frame)
        self._choices.learn(frame.choices)
        if waits and has:
            self._take(stream)
            if frame.packet is not None:
                accepted.check(frame.seq, frame.packet)
        elif waits:
            self._fill(stream)

    # ---- outputs

    def _fill(self, stream: InStream) -> None:
        """Take packets into the caller's buffer while it has room. Taking returns credit, so a slow caller pauses its own
        request, up to the Thinker, and nothing else."""
        output = stream.edge.reader_port
        while stream.waiting and self.buffered[output] < self._topology.output_bytes:
            packet = self._take(stream)
            size = packet_bytes(packet)
            self.buffered[output] += size
            self._accepted[output].add(packet, size)
            self._tell(self.request, OutputPacket(output, packet, size))

    def _take(self, stream: InStream) -> Any:
        _choices, packet, credit = stream.take()
        if credit is not None:
            self._emit(stream.link, credit)
        return packet

    def read(self, output: str, size: int) -> None:
        """The caller took ``size`` bytes out of the output's buffer."""
        if output in self._dropped:
            return
        self.buffered[output] -= size
        for stream in self._ins.values():
            if self.state == "open" and stream.edge.reader_port == output:
                self._fill(stream)

    def drop(self, output: str) -> None:
        """The caller does not want this output any more, nor what waits for it; before the Route too."""
        self._dropped.add(output)
        self.buffered[output] = 0
        for stream in self._ins.values():
            if stream.edge.reader_port == output:
                stop = stream.close()
                if stop is not None:
                    self._emit(stream.link, stop)

    @property
    def all_read(self) -> bool:
        """Every asked output has ended and is in the caller's buffer, or was dropped."""
        return all(stream.flow.drained or stream.flow.closed for stream in self._ins.values())

    @property
    def paused(self) -> bool:
        """An output's buffer is full: the request waits for its caller."""
        return any(size >= self._topology.output_bytes for size in self.buffered.values())

    # ---- replay

    @property
    def may_replay(self) -> bool:
        """Retries are left, and it may move."""
        return self.faults < self._topology.retries and self.may_move

    @property
    def may_move(self) -> bool:
        """Every input can be given again, and no stage on the way must run only once."""
        if self._topology.once.intersection(self.submission.stages):
            return False
        return all(supply.replayable for supply in self._supply.values())

    @property
    def has_delivered(self) -> bool:
        """The client has a part of the answer: whatever goes on with it must be of the same revisions."""
        return any(accepted.count or accepted.ended is not None for accepted in self._accepted.values())

    @property
    def retries(self) -> int:
        """How often it was opened again."""
        return max(0, self.attempt - 1)

    def forced(self) -> tuple[Choice, ...]:
        """The choices that a replay repeats."""
        return self._choices.forced()

    def accepted(self, edges: Iterable[Edge]) -> tuple[tuple[int, int], ...]:
        """(edge, packets) that the client has, of each graph output."""
        return tuple((e.number, self._accepted[e.reader_port].count) for e in edges if e.is_output)

    def rewind(self) -> None:
        """The attempt is over; the inputs are there once more."""
        self._outs.clear()
        self._ins.clear()
        for supply in self._supply.values():
            supply.rewind()

    def forget_streams(self) -> None:
        """The request has ended: only the timings are still to come."""
        self._supply.clear()
        self._outs.clear()
        self._ins.clear()
