"""What must hold at any moment of any run, seen from outside: counters per stream and attempt, choices per request.

It reads frames only, as they are sent and as they arrive, and trusts no core.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from omni_graph.frames import Credit, Data, End, Frame, Open, Start
from omni_graph.wiring import Edge
from tests.core.sim_shapes import CHOOSERS


class Violation(AssertionError):
    """A rule of the protocol does not hold. The message has the shape and the seed."""


@dataclass(slots=True)
class Stream:
    """One attempt's stream on one edge: what was said at either end, and what the other end has heard of it. ``start``: how
    many packets the reader had before."""

    sent: int = 0
    arrived: int = 0
    granted: int = -1
    heard: int = -1
    taken: int = 0
    ended: bool = False
    start: int = 0
    carried: dict[str, int] = field(default_factory=dict)


class Oracle:
    """``dead`` replicas and ``cuts`` of links are told to it: they excuse what follows."""

    def __init__(self, edges: Sequence[Edge]) -> None:
        self.dead: set[str] = set()
        self.cuts: list[set[str]] = []
        self._edges = edges
        self._streams: dict[tuple[str, int, int], Stream] = {}
        self._attempts: dict[str, int] = {}
        self._choices: dict[tuple[str, int], dict[str, dict[int, tuple[int, ...]]]] = {}
        self._told: dict[str, dict[str, list[tuple[int, ...]]]] = defaultdict(lambda: defaultdict(list))

    def _stream(self, frame: Data | End | Credit | Start) -> Stream:
        return self._streams.setdefault((frame.request, frame.attempt, frame.edge), Stream())

    def opens(self, frame: Open) -> None:
        """The Gateway opens an attempt."""
        self._attempts[frame.request] = frame.attempt
        for edge, count in frame.accepted:
            self._streams.setdefault((frame.request, frame.attempt, edge), Stream()).start = count

    def sent(self, frame: Frame) -> None:
        """A core has sent it."""
        if isinstance(frame, Data):
            stream = self._stream(frame)
            self._check(frame.seq == stream.sent, f"packet {frame.seq} sent where {stream.sent} was due", frame)
            self._check(frame.seq < stream.heard, f"packet {frame.seq} sent past the limit {stream.heard}", frame)
            self._check(not stream.ended, "a packet sent after the end", frame)
            stream.sent += 1
        elif isinstance(frame, End):
            stream = self._stream(frame)
            self._check(frame.count == stream.sent, f"an end after {stream.sent} says {frame.count}", frame)
            self._check(not stream.ended, "a second end", frame)
            self._check(stream.heard >= 0, "an end before the first credit", frame)
            stream.ended = True
        elif isinstance(frame, Credit):
            stream = self._stream(frame)
            window = self._edges[frame.edge].window
            self._check(
                stream.taken <= frame.taken <= stream.arrived, f"{frame.taken} taken of {stream.arrived}", frame
            )
            most = max(frame.taken, stream.start) + window
            self._check(stream.granted <= frame.limit <= most, f"limit {frame.limit}", frame)
            stream.taken, stream.granted = frame.taken, frame.limit

    def arrives(self, frame: Frame, is_open: bool, at_gateway: bool) -> None:
        """It is about to be received, by an end at which its attempt is open or not."""
        if isinstance(frame, Credit) and is_open:
            stream = self._stream(frame)
            stream.heard = max(stream.heard, frame.limit)
        elif isinstance(frame, Data | End) and is_open:
            stream = self._stream(frame)
            if isinstance(frame, Data):
                self._check(frame.seq == stream.arrived, f"packet {frame.seq} where {stream.arrived} was due", frame)
                stream.arrived += 1
            self._learn(frame, stream)
            if at_gateway:
                self._tell(frame)

    def _tell(self, frame: Data | End) -> None:
        """What the Gateway was once told is repeated by every later attempt."""
        for choice in frame.choices:
            told = self._told[frame.request][choice.node]
            self._check(choice.index <= len(told), f"{choice} leaves a gap behind {len(told)}", frame)
            if choice.index == len(told):
                told.append(choice.values)
            self._check(told[choice.index] == choice.values, f"{choice}, before it was {told[choice.index]}", frame)

    def told(self, request: str) -> Mapping[str, Sequence[tuple[int, ...]]]:
        """The choices of each node that the Gateway has heard of."""
        return self._told[request]

    def _learn(self, frame: Data | End, stream: Stream) -> None:
        """Every stream carries each node's choices from 0, each once, all streams the same ones, and before their fruits."""
        known = self._choices.setdefault((frame.request, frame.attempt), {})
        for choice in frame.choices:
            due = stream.carried.get(choice.node, 0)
            self._check(choice.index == due, f"{choice} where {due} was due", frame)
            stream.carried[choice.node] = due + 1
            same = known.setdefault(choice.node, {}).setdefault(choice.index, choice.values)
            self._check(same == choice.values, f"{choice}, elsewhere {same}", frame)
        if isinstance(frame, Data) and frame.packet is not None:
            for node, needed in zip(CHOOSERS, frame.packet.needs, strict=True):
                carried = stream.carried.get(node, 0)
                self._check(carried >= needed, f"{needed} choices of {node} needed, {carried} carried", frame)

    def carried(self, request: str, output: str) -> Mapping[str, int]:
        """How many choices of each node the output has brought to the Gateway in the last attempt."""
        edge = next(edge for edge in self._edges if edge.is_output and edge.reader_port == output)
        return self._streams[request, self._attempts[request], edge.number].carried

    def _check(self, holds: bool, message: str, frame: Data | End | Credit) -> None:
        if not holds:
            raise Violation(f"{frame.request} on {self._edges[frame.edge].name}: {message}")
