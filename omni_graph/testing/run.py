"""run_node: one node by itself, fed and read like in a graph, with credit, in one thread and in a repeatable order."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from omni_graph.core import CONTROL, WorkerCore
from omni_graph.credit import StreamReceiver, StreamSender
from omni_graph.errors import RequestError
from omni_graph.frames import (
    Address,
    Choice,
    Close,
    Credit,
    Data,
    EdgeEnds,
    End,
    Frame,
    LinkId,
    Open,
    Report,
    Side,
    Start,
    Stop,
)
from omni_graph.node import In, Node, Out, ports_of
from omni_graph.payload import default_window
from omni_graph.replay import ChoiceMemory
from omni_graph.testing.silent import SilentObserver
from omni_graph.wiring import Edge

Packets = dict[str, dict[str, list[Any]]]
Choices = Sequence[tuple[int, ...]]
PEER = Address("peer", "")
SELF = Address("node", "")


class NodeRun:
    """A node in a WorkerCore, and the peer that writes its inputs and reads its outputs.

    ``rng`` None: everything that can move moves, inputs first. With an rng, one random thing moves at a time. Requests in
    ``paused`` are not read until taken out of it; ``stop(request, port)`` says that nobody reads an output any more.
    In ``outputs`` a packet that the node skipped is None.
    """

    def __init__(
        self,
        node: Node,
        *,
        windows: Mapping[str, int] | None = None,
        rng: random.Random | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self.node = node
        self.rng = rng
        self.outputs: Packets = {}
        self.errors: dict[str, RequestError] = {}
        self.paused: set[str] = set()
        ports = ports_of(type(node))
        read = set(ports.outputs if outputs is None else outputs)
        wired: list[tuple[str, In[Any] | Out[Any]]] = [("in", port) for port in ports.inputs.values()]
        wired += [("out", port) for port in ports.outputs.values() if port.name in read]
        self._edges = {}
        for number, (way, port) in enumerate(wired):
            window = (windows or {}).get(port.name, default_window(port.type))
            ends = ("peer", port.name, "node", port.name) if way == "in" else ("node", port.name, "peer", port.name)
            self._edges[number] = Edge(number, *ends, port.type, window)
        self.core = WorkerCore(
            "node", {"node": node}, tuple(self._edges.values()), clock=lambda: 0.0, observer=SilentObserver()
        )
        self._senders: dict[tuple[str, int], StreamSender] = {}
        self._supply: dict[tuple[str, int], list[Any]] = {}
        self._readers: dict[tuple[str, int], StreamReceiver] = {}
        self._buffered: dict[tuple[str, int], list[Any]] = {}
        self._finished: set[str] = set()
        self._choices: dict[str, ChoiceMemory] = {}

    def open(
        self,
        request: str,
        inputs: Mapping[str, Sequence[Any]],
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        *,
        forced: Choices = (),
        accepted: Mapping[str, int] | None = None,
    ) -> None:
        """Route a request to the node and queue its input packets.

        For a replay: ``forced`` are the choices to repeat, ``accepted`` is {output: packets that its reader has}.
        """
        has = accepted or {}
        self._choices[request] = ChoiceMemory()
        self.outputs[request] = {edge.writer_port: [] for edge in self._edges.values() if edge.writer == "node"}
        ends = []
        for number, edge in self._edges.items():
            if edge.reader == "node":
                self._senders[request, number] = StreamSender()
                self._supply[request, number] = list(inputs.get(edge.reader_port, ()))
                ends.append(EdgeEnds(number, PEER, SELF))
            else:
                self._readers[request, number] = StreamReceiver(edge.window, start=has.get(edge.writer_port, 0))
                self._buffered[request, number] = []
                ends.append(EdgeEnds(number, SELF, PEER))
        values = json.dumps({"node": dict(params or {})})
        repeat = tuple(Choice("node", index, choice) for index, choice in enumerate(forced))
        counts = tuple((n, has.get(e.writer_port, 0)) for n, e in self._edges.items() if e.writer == "node")
        self._to_core(CONTROL, Open(request, 1, tuple(ends), values, seed, 0.0, 600.0, forced=repeat, accepted=counts))
        for number, edge in self._edges.items():
            if edge.reader == "node":
                self._to_core(LinkId("peer", Side.READS), Start(request, 1, number))

    def close(self, request: str) -> None:
        """The request is over, or cancelled."""
        self._to_core(CONTROL, Close(request, 1))

    def stop(self, request: str, port: str) -> None:
        """Nobody reads ``port`` any more."""
        number = next(n for n, edge in self._edges.items() if edge.writer == "node" and edge.writer_port == port)
        self._readers[request, number].close()
        self._to_core(LinkId("peer", Side.WRITES), Stop(request, 1, number))

    def run(self, max_slices: int = 1_000_000) -> None:
        """Until nothing can move any more."""
        for _ in range(max_slices):
            if not self.move():
                return
        raise AssertionError(f"the node never came to rest in {max_slices} slices: does step() return True for ever?")

    def move(self) -> bool:
        """One thing that can move: a packet in, a packet read, or a slice. False when nothing can."""
        moves: list[tuple[Any, ...]] = [("feed", key) for key in self._senders if self._can_feed(key)]
        moves += [("read", key) for key, buffer in self._buffered.items() if buffer and key[0] not in self.paused]
        if self.core.awake:
            moves.append(("step", None))
        if not moves:
            return False
        what, key = self.rng.choice(moves) if self.rng else moves[0]
        if what == "feed":
            self._feed(key)
        elif what == "read":
            self._read(key)
        else:
            self.core.step()
            self._from_core()
        return True

    def _can_feed(self, key: tuple[str, int]) -> bool:
        sender = self._senders[key]
        if key[0] in self._finished or sender.stopped or sender.ended:
            return False
        return sender.room > 0 if self._supply[key] else sender.limit is not None

    def _feed(self, key: tuple[str, int]) -> None:
        sender, (request, number) = self._senders[key], key
        if self._supply[key]:
            packet = self._supply[key].pop(0)
            frame: Frame = Data(request, 1, number, sender.send(), 0.0, (), packet)
        else:
            sender.end()
            frame = End(request, 1, number, sender.sent)
        self._to_core(LinkId("peer", Side.READS), frame)

    def _read(self, key: tuple[str, int]) -> None:
        request, number = key
        reader = self._readers[key]
        self.outputs[request][self._edges[number].writer_port].append(self._buffered[key].pop(0))
        grant = reader.take()
        if grant is not None:
            self._to_core(LinkId("peer", Side.WRITES), Credit(request, 1, number, reader.taken, grant))

    def _to_core(self, link: LinkId, frame: Frame) -> None:
        self.core.receive(link, frame)
        broken = self.core.broken_links()
        if broken:
            raise AssertionError(f"the run broke the protocol: {broken[0][1]}")
        self._from_core()

    def _from_core(self) -> None:
        for link, frames in self.core.outgoing():
            for frame in frames:
                self._on_frame(link, frame)

    def _on_frame(self, link: LinkId, frame: Frame) -> None:
        if isinstance(frame, Report):
            self._finished.add(frame.request)
            self.errors[frame.request] = RequestError(frame.request, frame.code, frame.message, stage=frame.stage)
        elif isinstance(frame, Start):
            reader = self._readers[frame.request, frame.edge]
            self._to_core(link, Credit(frame.request, 1, frame.edge, reader.taken, reader.limit))
        elif isinstance(frame, Data):
            self._choices[frame.request].learn(frame.choices)
            self._readers[frame.request, frame.edge].on_data(frame.seq)
            self._buffered[frame.request, frame.edge].append(frame.packet)
        elif isinstance(frame, End):
            self._choices[frame.request].learn(frame.choices)
            self._readers[frame.request, frame.edge].on_end(frame.count)
        elif isinstance(frame, Credit):
            self._senders[frame.request, frame.edge].on_credit(frame.taken, frame.limit)
        elif isinstance(frame, Stop):
            self._senders[frame.request, frame.edge].on_stop()

    def choices(self, request: str) -> tuple[tuple[int, ...], ...]:
        """What the node has chosen, as far as its packets and ends have brought it."""
        return tuple(choice.values for choice in self._choices[request].forced())

    def complete(self, request: str) -> bool:
        """Every output has ended and was read."""
        return all(reader.drained or reader.closed for key, reader in self._readers.items() if key[0] == request)


def run_node(
    node: Node,
    inputs: Mapping[str, Mapping[str, Sequence[Any]]],
    params: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    seed: int = 0,
    windows: Mapping[str, int] | None = None,
    rng: random.Random | None = None,
    outputs: Sequence[str] | None = None,
    forced: Mapping[str, Choices] | None = None,
    accepted: Mapping[str, Mapping[str, int]] | None = None,
) -> Packets:
    """Feed ``inputs`` ({request: {port: packets}}) to a node and return all it sends, {request: {port: packets}}.

    ``windows``: {port: packets in flight}; ``rng``: a random order of events; ``outputs``: the ports that someone reads
    (default: all); ``forced`` and ``accepted``: {request: what ``NodeRun.open`` takes}, for a replay. Raises the first
    RequestError of a request that failed; AssertionError when a request does not end.
    """
    run = NodeRun(node, windows=windows, rng=rng, outputs=outputs)
    for request, packets in inputs.items():
        repeat, has = (forced or {}).get(request, ()), (accepted or {}).get(request)
        run.open(request, packets, (params or {}).get(request), seed, forced=repeat, accepted=has)
    run.run()
    for error in run.errors.values():
        raise error
    for request in inputs:
        assert run.complete(request), f"{request}: the node came to rest without ending its outputs"
        run.close(request)
    return run.outputs
