"""WorkerCore: one replica as a state machine. Frames in, frames out; no socket, no thread, time only as an argument.

It opens and forgets requests, routes frames to streams, gives each awake node its slice, and turns what goes wrong into
reports. It decides nothing about a request's end: the Gateway does. Only Open creates state; nothing is stashed.
"""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from omni_graph.attempt import OpenAttempt
from omni_graph.credit import StreamReceiver
from omni_graph.errors import Code, FatalNodeError, FlowControlError, NodeError, RequestError
from omni_graph.frames import (
    GATEWAY,
    Close,
    Closed,
    Credit,
    Data,
    End,
    Frame,
    Goaway,
    LinkId,
    Open,
    Ping,
    Pong,
    Report,
    RequestState,
    Reset,
    Side,
    Start,
    Stop,
)
from omni_graph.hosting import HostedNode, NodeRequest, Observer
from omni_graph.node import Node, make_params
from omni_graph.streams import InStream, OutStream
from omni_graph.wiring import Edge

CONTROL = LinkId(GATEWAY, Side.CONTROL)


class WorkerCore:
    """``nodes`` in the order of the graph; ``edges`` are those that touch one of them."""

    def __init__(
        self,
        name: str,
        nodes: Mapping[str, Node],
        edges: Sequence[Edge],
        *,
        clock: Callable[[], float],
        observer: Observer,
    ) -> None:
        self.name = name
        self.dropped: Counter[str] = Counter()
        self._edges = {edge.number: edge for edge in edges}
        self._clock = clock
        self._observer = observer
        self._requests: dict[str, OpenAttempt] = {}
        self._outgoing: dict[LinkId, list[Frame]] = {}
        self._local: list[tuple[LinkId, Frame]] = []
        self._broken: list[tuple[LinkId, str]] = []
        self._old: list[LinkId] = []
        self._heard: set[LinkId] = set()
        self._leftover: dict[tuple[str, int], str] = {}
        self._nodes = {key: HostedNode(key, node, self._emit, clock, observer) for key, node in nodes.items()}
        self._downstream_first = tuple(reversed(self._nodes.values()))

    # ---- what the worker loop asks

    @property
    def awake(self) -> bool:
        """A node could do something now."""
        return any(node.awake for node in self._downstream_first)

    @property
    def open_requests(self) -> tuple[str, ...]:
        return tuple(self._requests)

    @property
    def queued_packets(self) -> int:
        """Packets that wait to be taken."""
        return sum(len(stream.waiting) for opened in self._requests.values() for stream in opened.ins.values())

    def counters(self) -> dict[str, int]:
        """What the nodes count of themselves, as ``node.counter``. Raises FatalNodeError for what is no counter."""
        return {name: value for node in self._nodes.values() for name, value in node.counters().items()}

    def outgoing(self) -> list[tuple[LinkId, list[Frame]]]:
        """Frames to send, per link and in order; they leave the core."""
        out = list(self._outgoing.items())
        self._outgoing = {}
        return out

    def broken_links(self) -> list[tuple[LinkId, str]]:
        """Links whose peer broke the protocol: to be ended, with the reason."""
        out, self._broken = self._broken, []
        return out

    def old_links(self) -> list[LinkId]:
        """Links to drop at once: their requests were lost with another link to that peer, or at its end. They leave the
        core."""
        out, self._old = self._old, []
        return out

    # ---- frames

    def receive(self, link: LinkId, frame: Frame) -> None:
        """One frame from a link. A peer that breaks the protocol loses its link, and nothing else happens."""
        self._heard.add(link)
        try:
            self._receive(link, frame)
        except FlowControlError as error:
            self._broken.append((link, str(error)))
            self._lose([link], Code.PROTOCOL, str(error))
        self._deliver_local()

    def lost(self, link: LinkId, reason: str) -> None:
        """A link has ended unannounced: its requests are dropped and reported; without the Gateway, all are dropped."""
        if link.side is Side.CONTROL:
            for request in tuple(self._requests):
                self._forget(request)
            self._leftover.clear()
        else:
            self._old += self._lose([link], Code.LINK_LOST, reason)[1:]

    def _receive(self, link: LinkId, frame: Frame) -> None:
        if isinstance(frame, Data | Credit | Start | End | Stop):
            self._on_edge(link, frame)
        elif isinstance(frame, Open | Close | Reset) and link != CONTROL:
            raise FlowControlError(
                f"{type(frame).__name__} from {link.peer}: only the Gateway's control link carries it"
            )
        elif isinstance(frame, Open):
            self._on_open(frame)
        elif isinstance(frame, Close | Reset):
            self._on_close(frame)
        elif isinstance(frame, Ping):
            self._emit(link, Pong(frame.clock, self._states() if link == CONTROL else ()))
        elif not isinstance(frame, Pong | Goaway):
            raise FlowControlError(f"{type(frame).__name__} is no frame for a worker")

    def _on_edge(self, link: LinkId, frame: Data | Credit | Start | End | Stop) -> None:
        opened = self._requests.get(frame.request)
        if opened is None or opened.attempt != frame.attempt:
            self.dropped[type(frame).__name__] += 1
            return
        if isinstance(frame, Credit | Stop):
            self._on_demand(opened, link, frame)
        else:
            self._on_supply(opened, link, frame)

    def _on_demand(self, opened: OpenAttempt, link: LinkId, frame: Credit | Stop) -> None:
        stream = opened.outs.get(frame.edge)
        if stream is None or stream.link != link:
            raise FlowControlError(
                f"{type(frame).__name__} on edge {frame.edge}, which this replica does not write to {link.peer}"
            )
        if isinstance(frame, Stop):
            stream.flow.on_stop()
        else:
            stream.flow.on_credit(frame.taken, frame.limit)
        end = stream.end_if_due()
        if end is not None:
            self._emit(stream.link, end)
        self._nodes[stream.edge.writer].room_changed(frame.request)

    def _on_supply(self, opened: OpenAttempt, link: LinkId, frame: Data | Start | End) -> None:
        stream = opened.ins.get(frame.edge)
        if stream is None or stream.link != link:
            raise FlowControlError(
                f"{type(frame).__name__} on edge {frame.edge}, which this replica does not read from {link.peer}"
            )
        node = self._nodes[stream.edge.reader]
        if isinstance(frame, Start):
            self._emit(stream.link, stream.on_start())
        elif isinstance(frame, End):
            stream.on_end(frame)
            node.writer_ended(stream)
        elif frame.packet is None:
            raise FlowControlError(
                f"a skipped packet on {stream.edge.name}: only what goes to the Gateway may be skipped"
            )
        elif stream.on_data(frame):
            node.arrived(stream, frame.sent_at)
        else:
            self.dropped["Data"] += 1

    # ---- requests

    def _on_open(self, frame: Open) -> None:
        if frame.request in self._requests:
            raise FlowControlError(f"a second Open of {frame.request}, which is open here")
        params = _params_of(frame)
        opened = OpenAttempt(frame.attempt)
        self._make_streams(opened, frame)
        self._requests[frame.request] = opened
        for node in opened.nodes:
            forced = tuple(choice.values for choice in frame.forced if choice.node == node.name)
            try:
                node.node.open(frame.request, make_params(type(node.node), params.get(node.name, {}), frame.seed))
                _force(node, frame.request, forced)
            except Exception as error:
                self._fail([frame.request], node.name, error)
                return
            node.add(frame.request, self._node_request(node, opened, forced))
            self._observer.opened(frame.request, node.name, frame.age_s)
        self._start_streams(opened)

    def _start_streams(self, opened: OpenAttempt) -> None:
        """Writers say Start. Readers grant where the writer may have said it before this Open; else its Start will come."""
        for out in opened.outs.values():
            self._emit(out.link, out.start())
        for stream in opened.ins.values():
            if stream.link in self._heard:
                self._emit(stream.link, stream.credit())

    def _make_streams(self, opened: OpenAttempt, frame: Open) -> None:
        accepted = dict(frame.accepted)
        for ends in frame.edges:
            edge = self._edges.get(ends.edge)
            if edge is None:
                raise FlowControlError(
                    f"Open of {frame.request} names edge {ends.edge}, which is not an edge of this replica"
                )
            if ends.writer.name == self.name and edge.writer in self._nodes:
                link = LinkId(ends.reader.name, Side.WRITES)
                has = accepted.get(edge.number, 0)
                opened.outs[edge.number] = OutStream(frame.request, frame.attempt, edge, link, accepted=has)
            if ends.reader.name == self.name and edge.reader in self._nodes:
                link = LinkId(ends.writer.name, Side.READS)
                flow = StreamReceiver(edge.window)
                opened.ins[edge.number] = InStream(
                    frame.request, frame.attempt, edge, link, flow, one_clock=ends.one_clock
                )
        routed = {stream.edge.writer for stream in opened.outs.values()}
        routed |= {stream.edge.reader for stream in opened.ins.values()}
        opened.nodes = [node for name, node in self._nodes.items() if name in routed]

    def _node_request(self, node: HostedNode, opened: OpenAttempt, forced: tuple[tuple[int, ...], ...]) -> NodeRequest:
        ins = {s.edge.reader_port: s for s in opened.ins.values() if s.edge.reader == node.name}
        outs: dict[str, list[OutStream]] = {}
        for stream in opened.outs.values():
            if stream.edge.writer == node.name:
                outs.setdefault(stream.edge.writer_port, []).append(stream)
        return NodeRequest(ins, outs, forced)

    def _on_close(self, frame: Close | Reset) -> None:
        opened = self._requests.get(frame.request)
        timings = self._leftover.pop((frame.request, frame.attempt), "{}")
        if opened is not None and opened.attempt == frame.attempt:
            timings = self._forget(frame.request)
            if isinstance(frame, Reset) and frame.peer:
                self._old += self._lose(opened.links_with(frame.peer), Code.LINK_LOST, "the other end lost it")
        self._emit(CONTROL, Closed(frame.request, frame.attempt, timings))

    def _forget(self, request: str) -> str:
        opened = self._requests.pop(request)
        for node in opened.nodes:
            node.forget(request)
        return self._observer.closed(request)

    # ---- what goes wrong

    def _lose(self, first: Iterable[LinkId], code: Code, reason: str) -> list[LinkId]:
        """Report who had begun on these links; all links that are gone now.

        Those that a request had begun on with the same peer go too, so that its next attempt begins on new ones. A link that
        is newer than the loss stays: the request would have been lost with the old one.
        """
        gone = list(first)
        for link in gone:
            self._heard.discard(link)
            self._outgoing.pop(link, None)
            for request, opened in tuple(self._requests.items()):
                if link in opened.links():
                    gone += [one for one in opened.links_with(link.peer) if code is Code.LINK_LOST and one not in gone]
                    self._report(Report(request, opened.attempt, code, "", reason, link.peer))
                else:
                    opened.unlink(link)
        return gone

    def _report(self, report: Report) -> None:
        """Tell the Gateway and drop the request; its timings wait for the Reset that will come."""
        self._emit(CONTROL, report)
        self._leftover[report.request, report.attempt] = self._forget(report.request)

    def _fail(self, requests: Iterable[str], node: str, error: Exception) -> None:
        """Fail requests with what the node raised: one line, and below it the traceback as the detail."""
        if isinstance(error, RequestError):
            code, message = error.code, error.message
        else:
            code, message = Code.NODE_FAILED, f"{type(error).__name__}: {error}".replace("\n", " ")[:500]
            message += _place_of(error) + "\n" + "".join(traceback.format_exception(error))[-7000:]
        for request in requests:
            opened = self._requests.get(request)
            if opened is not None:
                self._report(Report(request, opened.attempt, code, node, message))

    def unsendable(self, frame: Data, reason: str) -> None:
        """A node's packet is not what its payload declares, so no link can carry it: the request fails, and it alone."""
        writer = self._edges[frame.edge].writer
        self._fail([frame.request], writer, NodeError(reason))

    # ---- slices

    def step(self) -> None:
        """One slice of each awake node, downstream first."""
        for node in self._downstream_first:
            if node.awake:
                self._step(node)
                self._deliver_local()

    def _step(self, node: HostedNode) -> None:
        try:
            node.step()
        except (FatalNodeError, MemoryError):
            raise
        except RequestError as error:
            blamed = [error.request] if error.request in node.requests else node.worked()
            self._fail(blamed, node.name, error)
        except Exception as error:
            if is_fatal(error):
                raise FatalNodeError(f"{node.name}: {error}") from error
            self._fail(node.worked(), node.name, error)

    # ---- frames out

    def _emit(self, link: LinkId, frame: Frame) -> None:
        if link.peer == self.name:
            self._local.append((link, frame))
        else:
            self._outgoing.setdefault(link, []).append(frame)

    def _deliver_local(self) -> None:
        """Edges between two nodes of this worker: the same frames, without a link."""
        while self._local:
            pending, self._local = self._local, []
            for link, frame in pending:
                side = Side.READS if link.side is Side.WRITES else Side.WRITES
                self._receive(LinkId(self.name, side), frame)

    def _states(self) -> tuple[RequestState, ...]:
        return tuple(
            RequestState(
                request,
                opened.attempt,
                not any(node.awake for node in opened.nodes),
                opened.counts(),
            )
            for request, opened in self._requests.items()
        )


def _force(node: HostedNode, request: str, forced: tuple[tuple[int, ...], ...]) -> None:
    """Hand a node the choices that it must repeat."""
    force = getattr(node.node, "force", None)
    if forced and force is None:
        raise NodeError(f"{node.name} has chosen before and cannot repeat it: it has no force()")
    if forced and force is not None:
        force(request, forced)


def _params_of(frame: Open) -> dict[str, dict[str, Any]]:
    try:
        params = json.loads(frame.params)
    except ValueError as error:
        raise FlowControlError(f"Open of {frame.request}: params are no JSON: {error}") from error
    if not isinstance(params, dict) or not all(isinstance(values, dict) for values in params.values()):
        raise FlowControlError(f"Open of {frame.request}: params must be {{node: {{name: value}}}}")
    return params


def _place_of(error: Exception) -> str:
    """Where it was raised: `` (loudness.py:31)``."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def is_fatal(error: Exception) -> bool:
    """Device errors after which the process cannot be trusted: CUDA faults and out-of-memory on the device."""
    kind = type(error).__name__
    return kind in ("OutOfMemoryError", "AcceleratorError") or (kind == "RuntimeError" and "CUDA error" in str(error))
