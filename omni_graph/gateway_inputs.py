"""The inputs of one request at the Gateway: what the caller gave, on its way into the graph. Pure.

Invariant: a packet leaves when every reader that still reads has room, once in an attempt, and in the order it was given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omni_graph.errors import FlowControlError, RequestError
from omni_graph.frames import Credit, EdgeCounts, LinkId, Side, Stop
from omni_graph.replay import KeptInputs
from omni_graph.streams import Emit, OutStream
from omni_graph.wiring import Edge


class RequestInputs:
    """``keep``: bytes of all inputs together that are kept for a replay. ``broken``: what pulling an input has raised."""

    def __init__(self, request: str, keep: int, emit: Emit) -> None:
        self.broken: RequestError | None = None
        self._request = request
        self._emit = emit
        self._kept = KeptInputs(keep)
        self._ended: set[str] = set()
        self._streams: dict[int, OutStream] = {}

    @property
    def replayable(self) -> bool:
        """All of them can be given again."""
        return self._kept.replayable

    def add_stream(self, attempt: int, edge: Edge, reader: str) -> None:
        """Our end of an edge of the graph: we write it."""
        stream = OutStream(self._request, attempt, edge, LinkId(reader, Side.WRITES))
        self._streams[edge.number] = stream
        self._emit(stream.link, stream.start())

    def links(self) -> set[LinkId]:
        """Those on which we have said Start."""
        return {stream.link for stream in self._streams.values()}

    def counts(self) -> Iterable[EdgeCounts]:
        """For the wedge watch."""
        return (stream.counts() for stream in self._streams.values())

    # ---- what the caller gives

    def write(self, name: str, packets: Iterable[Any]) -> None:
        """Packets of an input; what is no sequence is pulled as the graph takes it."""
        self._kept.add(name, packets)

    def end(self, name: str) -> None:
        """The input is complete."""
        self._ended.add(name)

    def waiting(self, name: str) -> int:
        """Packets of an input that are here and have not left yet."""
        return self._kept.ready(name)

    # ---- into the graph

    def feed(self, now: float) -> None:
        """Move what was given into the graph, as far as credit goes; an input with two readers waits for both.

        What nobody reads, or nobody reads any more, is not pulled, and discarded where it is here. What pulling raises is
        kept as ``broken``.
        """
        if self.broken is not None:
            return
        try:
            for name in dict.fromkeys((*self._kept.names(), *self._ended)):
                self._feed(name, now)
        except RequestError as error:
            self.broken = error

    def _feed(self, name: str, now: float) -> None:
        streams = [s for s in self._streams.values() if s.edge.writer_port == name and not s.flow.stopped]
        if not streams:
            self._kept.discard(name)
            return
        while all(stream.flow.room > 0 for stream in streams) and self._kept.has(name):
            packet = self._kept.take(name)
            for stream in streams:
                self._emit(stream.link, stream.data(packet, now))
        if name in self._ended and not self._kept.has(name):
            self._end_streams(streams)

    def _end_streams(self, streams: Iterable[OutStream]) -> None:
        for stream in streams:
            stream.flow.end()
            frame = stream.end_if_due()
            if frame is not None:
                self._emit(stream.link, frame)

    def on_demand(self, link: LinkId, frame: Credit | Stop) -> None:
        """A reader of an input speaks."""
        stream = self._streams.get(frame.edge)
        if stream is None or stream.link != link:
            raise FlowControlError(
                f"{type(frame).__name__} on edge {frame.edge}, which the Gateway does not write to {link.peer}"
            )
        if isinstance(frame, Stop):
            stream.flow.on_stop()
        else:
            stream.flow.on_credit(frame.taken, frame.limit)

    def all_sent(self) -> bool:
        """Nothing more can leave us: every input has ended, was stopped, or has no room."""
        return all(s.flow.ended or s.flow.stopped or s.flow.room == 0 for s in self._streams.values())

    # ---- the end of an attempt

    def rewind(self) -> None:
        """The attempt is over; the inputs are there once more."""
        self._streams.clear()
        self._kept.rewind()

    def forget(self) -> None:
        """The request is over."""
        self._streams.clear()
        self._kept.forget()
