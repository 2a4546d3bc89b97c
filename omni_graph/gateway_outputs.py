"""The outputs of one request at the Gateway, on their way to the caller's buffer; a replay does not give them twice. Pure.

Invariant: what waits for the caller is at most the output's buffer, one packet more, and the window of its edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from omni_graph.credit import StreamReceiver
from omni_graph.errors import FlowControlError
from omni_graph.frames import Choice, Data, EdgeCounts, End, LinkId, Side, Start
from omni_graph.payload import packet_bytes
from omni_graph.replay import Accepted, ChoiceMemory
from omni_graph.streams import Emit, InStream
from omni_graph.wiring import Edge

Deliver = Callable[[str, Any, int], None]  # output, packet, bytes


class RequestOutputs:
    """``names``: the asked outputs; up to ``most`` bytes of each wait for the caller, to whom ``deliver`` hands a packet."""

    def __init__(self, request: str, names: Iterable[str], most: int, emit: Emit, deliver: Deliver) -> None:
        self._request = request
        self._most = most
        self._emit = emit
        self._deliver = deliver
        self._buffered = dict.fromkeys(names, 0)
        self._accepted = {name: Accepted() for name in self._buffered}
        self._dropped: set[str] = set()
        self._choices = ChoiceMemory()
        self._streams: dict[int, InStream] = {}

    def add_stream(self, attempt: int, edge: Edge, writer: str, heard: Callable[[LinkId], bool]) -> None:
        """Our end of an edge of the graph: we read it. We grant at once where the writer may have said Start already."""
        link = LinkId(writer, Side.READS)
        flow = StreamReceiver(edge.window, start=self._accepted[edge.reader_port].count)
        stream = self._streams[edge.number] = InStream(self._request, attempt, edge, link, flow)
        if edge.reader_port in self._dropped:
            stream.close()
        elif heard(link):
            self._emit(link, stream.credit())

    def links(self) -> set[LinkId]:
        """Those on which a writer has said Start."""
        return {stream.link for stream in self._streams.values() if stream.started}

    def unlink(self, link: LinkId) -> None:
        """The link is gone, and nothing had begun on it."""
        for stream in self._streams.values():
            if stream.link == link:
                stream.unlink()

    def counts(self) -> Iterable[EdgeCounts]:
        """For the wedge watch."""
        return (stream.counts() for stream in self._streams.values())

    # ---- out of the graph

    def on_supply(self, link: LinkId, frame: Data | Start | End) -> None:
        """The writer of an output speaks. Raises Diverged where a replay says something else than the client has."""
        stream = self._streams.get(frame.edge)
        if stream is None or stream.link != link:
            raise FlowControlError(
                f"{type(frame).__name__} on edge {frame.edge}, which the Gateway does not read from {link.peer}"
            )
        if isinstance(frame, Start):
            self._emit(stream.link, stream.on_start())
        elif isinstance(frame, End):
            stream.on_end(frame)
            self._choices.learn(frame.choices)
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
        accepted.check(frame.seq, frame.packet)
        if waits and has:
            self._take(stream)
        elif waits:
            self._fill(stream)

    def _fill(self, stream: InStream) -> None:
        """Take packets into the caller's buffer while it has room. Taking returns credit, so a slow caller pauses its own
        request, up to the Thinker, and nothing else."""
        output = stream.edge.reader_port
        while stream.waiting and self._buffered[output] < self._most:
            packet = self._take(stream)
            size = packet_bytes(packet)
            self._buffered[output] += size
            self._accepted[output].add(packet, size)
            self._deliver(output, packet, size)

    def _take(self, stream: InStream) -> Any:
        _choices, packet, credit = stream.take()
        if credit is not None:
            self._emit(stream.link, credit)
        return packet

    # ---- what the caller does

    def read(self, output: str, size: int) -> None:
        """The caller took ``size`` bytes out of the output's buffer."""
        if output in self._dropped:
            return
        self._buffered[output] -= size
        for stream in self._streams.values():
            if stream.edge.reader_port == output:
                self._fill(stream)

    def drop(self, output: str) -> None:
        """The caller does not want this output any more, nor what waits for it; before the Route too."""
        self._dropped.add(output)
        self._buffered[output] = 0
        for stream in self._streams.values():
            stop = stream.close() if stream.edge.reader_port == output else None
            if stop is not None:
                self._emit(stream.link, stop)

    @property
    def all_read(self) -> bool:
        """Every asked output has ended and is in the caller's buffer, or was dropped."""
        return all(stream.flow.drained or stream.flow.closed for stream in self._streams.values())

    @property
    def all_taken(self) -> bool:
        """Nothing waits for the caller."""
        return not any(self._buffered.values())

    @property
    def full(self) -> bool:
        """A buffer is full: the request waits for its caller."""
        return any(size >= self._most for size in self._buffered.values())

    # ---- replay

    @property
    def delivered(self) -> bool:
        """The client has a part of the answer."""
        return any(accepted.count or accepted.ended is not None for accepted in self._accepted.values())

    def forced(self) -> tuple[Choice, ...]:
        """The choices that a replay repeats."""
        return self._choices.forced()

    def accepted(self, edge: Edge) -> int:
        """Packets of this output that the client has."""
        return self._accepted[edge.reader_port].count

    def rewind(self) -> None:
        """The attempt is over. What waits for the caller stays; what had no room there comes again."""
        self._streams.clear()
