"""The worker: one blocking loop around a WorkerCore. Poll, receive, step (one slice of each node), send.

It never decides anything; the core does. A second thread may read ``progress`` at any time.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omni_graph.core import CONTROL, WorkerCore
from omni_graph.errors import GraphError, NodeError
from omni_graph.frames import GATEWAY, Frame, LinkId, LinkLost, Links, Open, Report
from omni_graph.node import Node, ports_of
from omni_graph.observe.timing import Timings
from omni_graph.resolve import node_class
from omni_graph.runtime.replica import Beat, ReplicaSpec
from omni_graph.runtime.sending import send_all
from omni_graph.wiring import Edge

log = logging.getLogger("omni_graph.worker")
IDLE_POLL_S = 5.0
COUNT_S = 0.1
MakeLinks = Callable[[ReplicaSpec, Mapping[int, type]], Links]


class Worker:
    """One replica, built; ``run`` returns when it is told to stop or the Gateway is gone.

    ``require_fit`` is called now and then, and raises when there is no sense in going on.
    """

    def __init__(
        self, spec: ReplicaSpec, make_links: MakeLinks, require_fit: Callable[[], None] = lambda: None
    ) -> None:
        self.spec = spec
        self._require_fit = require_fit
        set_threads(spec.threads)
        nodes = build_nodes(spec)
        set_threads(spec.threads)
        edges = build_edges(spec, nodes)
        self.links = make_links(spec, {edge.number: edge.type for edge in edges})
        self.core = WorkerCore(spec.name, nodes, edges, clock=time.monotonic, observer=Timings(time.monotonic))
        self._stopping = False
        self._steps = 0
        self._step_began: float | None = None
        self._busy = 0.0
        self._queued, self._counters = 0, self.core.counters()
        self._counted_at, self._counted_step = 0.0, 0

    def progress(self) -> Beat:
        """How the worker gets on, now. Thread-safe: each field is read once."""
        began = self._step_began
        in_step = 0.0 if began is None else time.monotonic() - began
        requests, busy = len(self.core.open_requests), self._busy + in_step
        return Beat(self._steps, in_step, requests, busy, self._queued, self._counters)

    def stop(self) -> None:
        """Make ``run`` return after the slice it is in. Thread-safe."""
        self._stopping = True
        self.links.wake()

    def run(self) -> None:
        """Serve until stopped. What a node raises as fatal, or ``require_fit``, comes out of here."""
        try:
            while not self._stopping:
                self._receive(self._patience())
                self._step()
                self._send()
                self._count()
        finally:
            self.links.close(drain_s=0.2)

    def _patience(self) -> float:
        """How long to wait for frames: not at all with work to do, and not long before the last steps are counted."""
        if self.core.awake:
            return 0.0
        return IDLE_POLL_S if self._counted_step == self._steps else COUNT_S

    def _receive(self, timeout: float) -> None:
        for link, frames in self.links.poll(timeout):
            for frame in frames:
                self._on(link, frame)

    def _on(self, link: LinkId, frame: Frame | LinkLost) -> None:
        if isinstance(frame, LinkLost):
            self._on_lost(link, frame)
        else:
            self._on_frame(link, frame)
        for old in self.core.old_links():
            self.links.drop(old)

    def _on_frame(self, link: LinkId, frame: Frame) -> None:
        if isinstance(frame, Open):
            log.info("%s: opened", frame.request)
            for ends in frame.edges:
                peer = ends.reader if ends.writer.name == self.spec.name else ends.writer
                if peer.name != self.spec.name:
                    self.links.introduce(peer)
        self.core.receive(link, frame)

    def _on_lost(self, link: LinkId, lost: LinkLost) -> None:
        if link.peer == GATEWAY and link == CONTROL:
            log.log(logging.INFO if lost.announced else logging.WARNING, "the Gateway is gone: %s", lost.reason)
            self._stopping = True
        if not lost.announced:
            log.warning("link %s to %s lost: %s", link.side, link.peer, lost.reason)
        self.core.lost(link, lost.reason)

    def _count(self) -> None:
        now = time.monotonic()
        if now - self._counted_at > COUNT_S:
            self._queued, self._counters = self.core.queued_packets, self.core.counters()
            self._counted_at, self._counted_step = now, self._steps
            self._require_fit()

    def _step(self) -> None:
        if self.core.awake:
            self._step_began = time.monotonic()
            self.core.step()
            self._busy += time.monotonic() - self._step_began
            self._step_began = None
            self._steps += 1

    def _send(self) -> None:
        for link, reason in self.core.broken_links():
            log.error("%s broke the protocol: %s", link.peer, reason)
            self.links.drop(link)
        send_all(self.links, self._outgoing, self.core.unsendable)

    def _outgoing(self) -> list[tuple[LinkId, list[Frame]]]:
        """What the core sends; what it reports to the Gateway stands in this replica's log too, by request."""
        outgoing = self.core.outgoing()
        for _, frames in outgoing:
            for frame in frames:
                if isinstance(frame, Report):
                    log.error("%s: %s at %s: %s", frame.request, frame.code, frame.stage or frame.peer, frame.message)
        return outgoing


def set_threads(count: int) -> None:
    """Compute threads of this worker, where torch is in use at all."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def build_nodes(spec: ReplicaSpec) -> dict[str, Node]:
    """The nodes of a worker, in graph order; weights load here, in the thread that will step them."""
    nodes: dict[str, Node] = {}
    for start in spec.nodes:
        cls = resolve_node(start.uses, Path(spec.folder))
        began = time.monotonic()
        try:
            nodes[start.name] = cls(**start.arguments)
        except TypeError as error:
            raise NodeError(f"{start.name}: {cls.__qualname__}(**{dict(start.arguments)!r}): {error}") from error
        log.info("%s loaded in %.1f s", start.name, time.monotonic() - began)
    return nodes


def resolve_node(uses: str, folder: Path) -> Any:
    """The node class; a failing import is a NodeError here, where the graph has been checked already."""
    try:
        return node_class(uses, folder)
    except GraphError as error:
        raise NodeError(str(error)) from error


def build_edges(spec: ReplicaSpec, nodes: Mapping[str, Node]) -> Sequence[Edge]:
    """The worker's edges with their payload types, which are those of its own ports."""
    edges = []
    for one in spec.edges:
        if one.writer in nodes:
            kind = ports_of(type(nodes[one.writer])).outputs[one.writer_port].type
        else:
            kind = ports_of(type(nodes[one.reader])).inputs[one.reader_port].type
        edges.append(Edge(one.number, one.writer, one.writer_port, one.reader, one.reader_port, kind, one.window))
    return edges
