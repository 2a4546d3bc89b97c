"""GatewayCore: the client's side of the graph as a state machine. Admits, routes, watches, and ends requests.

Frames, commands and the time in; frames and events out. No socket, no thread, no clock of its own: ``now`` is in seconds of
a monotonic clock. Here is what arrives, and to whom it goes: admission.py lets requests in, recovery.py ends them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from omni_graph.admission import Admission
from omni_graph.errors import Code, FlowControlError, RequestError
from omni_graph.frames import (
    Address,
    Closed,
    Credit,
    Data,
    End,
    Frame,
    Goaway,
    LinkId,
    Ping,
    Pong,
    Report,
    Side,
    Start,
    Stop,
)
from omni_graph.gateway_mail import GatewayMail
from omni_graph.gateway_request import Event, GatewayRequest, Submission
from omni_graph.recovery import Recovery, stage_of
from omni_graph.replay import Diverged
from omni_graph.router import Router
from omni_graph.topology import Topology as Topology
from omni_graph.wedge import WedgeRounds


class GatewayCore:
    """All requests of one deployment."""

    def __init__(self, topology: Topology, address: Address) -> None:
        self.address = address
        self.dropped: Counter[str] = Counter()
        self._topology = topology
        self._router = Router(set(topology.host_of.values()))
        self._requests: dict[str, GatewayRequest] = {}
        self._broken: list[tuple[LinkId, str]] = []
        self._mail = GatewayMail()
        self._wedges = WedgeRounds(topology.edges, self._mail.emit)
        self._admission = Admission(topology, self._router, address, self._mail.emit)
        self._recovery = Recovery(self._requests, self._admission.line, self._router, self._wedges.watch, self._mail)
        self.counts = self._recovery.counts

    # ---- what the loop asks

    def outgoing(self) -> list[tuple[LinkId, list[Frame]]]:
        """Frames to send, per link and in order; they leave the core."""
        return self._mail.take_frames()

    def events(self) -> list[tuple[str, Event]]:
        """What callers must hear, in order; they leave the core."""
        return self._mail.take_events()

    def broken_links(self) -> list[tuple[LinkId, str]]:
        """Links whose peer broke the protocol, with the reason."""
        out, self._broken = self._broken, []
        return out

    def old_links(self) -> list[LinkId]:
        """Links to drop at once, as ``WorkerCore.old_links``; they leave the core."""
        out, self._recovery.old_links = self._recovery.old_links, []
        return out

    @property
    def running(self) -> int:
        """Requests that hold slots."""
        return len(self._requests) - self.waiting

    @property
    def waiting(self) -> int:
        """Requests that wait for a Route."""
        return len(self._admission.line)

    def addresses(self, request: str) -> tuple[Address, ...]:
        """The replicas on a request's Route."""
        one = self._requests.get(request)
        return () if one is None else tuple(one.route.values())

    def load(self) -> Mapping[str, int]:
        """Requests per replica."""
        return self._router.load()

    def paused(self) -> tuple[str, ...]:
        """Requests that wait for their caller to read."""
        return tuple(request for request, one in self._requests.items() if one.outputs.full)

    def waiting_input(self, request: str, name: str) -> int:
        """Packets of an input that have not left yet; 0 when the request is over."""
        one = self._requests.get(request)
        return 0 if one is None else one.waiting_input(name)

    def next_tick(self, now: float) -> float | None:
        """Seconds until ``tick`` has something to do; None: not before something else happens."""
        deadlines = [one.deadline for one in self._requests.values() if one.state != "closing"]
        if not deadlines:
            return None
        return max(0.0, min(*deadlines, self._wedges.next_look) - now)

    # ---- replicas

    def replica_up(self, host: str, address: Address, now: float, revision: int = 0, slots: int | None = None) -> None:
        """A replica is ready to serve, with this revision of config and weights; ``slots``: fewer than its stage's."""
        self._router.add(host, address, self._topology.slots[host] if slots is None else slots, revision)
        self._admit(now)

    def resize(self, name: str, slots: int, now: float) -> None:
        """A replica takes so many requests at once from now on."""
        self._router.resize(name, slots)
        self._admit(now)

    def expect(self, host: str, revisions: Iterable[int], now: float) -> None:
        """Replicas of ``host`` of these revisions are on their way; with none, requests that need one fail at once."""
        self._router.expect(host, revisions)
        self._admit(now)

    def drain(self, name: str) -> None:
        """No new requests for this replica."""
        self._router.drain(name)

    def replica_down(self, name: str, code: Code, message: str, now: float) -> None:
        """A replica died, is stuck, or leaves drained: its requests are replayed elsewhere, or fail. Idempotent."""
        if not self._router.knows(name):
            return
        self._wedges.watch.forget_replica(name)
        self._recovery.lose_replica(name, code, message, now)
        self._mail.forget_peer(name)
        self._admit(now)

    # ---- the caller's side

    def submit(self, submission: Submission, now: float) -> None:
        """Admit a request or queue it. Raises Overloaded, or RequestError (unavailable, closed); then nothing is kept."""
        request = submission.request
        if request in self._requests:
            raise FlowControlError(f"a second request called {request}, which is not over yet")
        self._admission.check(submission, self.running, now)
        one = self._requests[request] = GatewayRequest(
            submission, now, self._topology, self._mail.emit, self._mail.tell
        )
        self._admission.line.join(one)
        self._admit(now)

    def write(self, request: str, name: str, packets: Iterable[Any], now: float) -> None:
        """Packets of a graph input, pulled as the graph takes them. Ignored once the request has ended."""
        one = self._requests.get(request)
        if one is not None and one.state != "closing":
            one.write(name, packets, now)

    def end_input(self, request: str, name: str, now: float) -> None:
        """The input is complete."""
        one = self._requests.get(request)
        if one is not None and one.state != "closing":
            one.end_input(name, now)

    def read(self, request: str, output: str, size: int, now: float) -> None:
        """The caller took a packet of ``size`` bytes out of the output's buffer: room for more."""
        one = self._requests.get(request)
        if one is not None:
            one.outputs.read(output, size)
            self._recovery.complete_if_done(one, now)
            self._admit(now)

    def drop(self, request: str, output: str, now: float) -> None:
        """The caller does not want this output any more: a Stop goes up."""
        one = self._requests.get(request)
        if one is not None and one.state != "closing":
            one.outputs.drop(output)
            self._recovery.complete_if_done(one, now)
            self._admit(now)

    def cancel(self, request: str, now: float) -> None:
        """The caller gave up. Harmless after the end."""
        if request in self._requests:
            self._recovery.end(self._requests[request], Code.CANCELLED, "cancelled by the caller", "", now)
            self._admit(now)

    def refuse(self) -> None:
        """Admit nothing any more; what was admitted goes on."""
        self._admission.refusing = True

    def cancel_all(self, now: float) -> None:
        """The deployment closes."""
        for one in tuple(self._requests.values()):
            self._recovery.end(one, Code.CLOSED, "the deployment was closed", "", now)

    def tick(self, now: float) -> None:
        """Deadlines, inputs that broke while they were read, and the watch for requests that nothing can move any more."""
        for one in tuple(self._requests.values()):
            self._recovery.acquit(one, now)
            if one.broken_input is not None:
                self._recovery.end(one, one.broken_input.code, one.broken_input.message, "", now)
            if now >= one.deadline:
                message = f"not complete after {one.submission.deadline_s:g} s"
                self._recovery.end(one, Code.DEADLINE_EXCEEDED, message, "", now)
        for one, message in self._wedges.look(self._requests.values(), now):
            self._recovery.end(one, Code.WEDGED, message, "", now)
        self._admit(now)

    def unsendable(self, frame: Data, reason: str, now: float) -> None:
        """A packet that the caller gave is not what its type declares, so no link can carry it: the request fails."""
        one = self._requests.get(frame.request)
        if one is not None:
            name = self._topology.edges[frame.edge].writer_port
            self._recovery.end(one, Code.INVALID_INPUT, f"input {name!r}: {reason}", "", now)
            self._admit(now)

    # ---- frames

    def receive(self, link: LinkId, frame: Frame, now: float) -> None:
        """One frame from a link; a peer that breaks the protocol loses its link."""
        self._mail.heard.add(link)
        try:
            self._receive(link, frame, now)
        except FlowControlError as error:
            self._broken.append((link, str(error)))
            self.lost(link, str(error), now, Code.PROTOCOL)
        self._admit(now)

    def lost(self, link: LinkId, reason: str, now: float, code: Code = Code.LINK_LOST) -> None:
        """A link has ended unannounced. Without its control link a replica is as good as dead."""
        if link.side is Side.CONTROL:
            self.replica_down(link.peer, Code.REPLICA_DIED, f"control link lost: {reason}", now)
            return
        self._recovery.lose_link(link, code, reason, now)
        self._admit(now)

    def _receive(self, link: LinkId, frame: Frame, now: float) -> None:
        if isinstance(frame, Data | Start | End | Credit | Stop):
            self._on_edge(link, frame, now)
        elif isinstance(frame, Report | Closed) and link.side is not Side.CONTROL:
            raise FlowControlError(f"{type(frame).__name__} on an edge's link: only a control link carries it")
        elif isinstance(frame, Report):
            self._on_report(link, frame, now)
        elif isinstance(frame, Closed):
            self._on_closed(link, frame, now)
        elif isinstance(frame, Pong):
            if link.side is Side.CONTROL:
                self._wedges.watch.heard(link.peer, frame.clock, frame.requests)
        elif not isinstance(frame, Ping | Goaway):
            raise FlowControlError(f"{type(frame).__name__} is no frame for the Gateway")

    def _open_here(self, frame: Data | Start | End | Credit | Stop | Report) -> GatewayRequest | None:
        """The request that the frame speaks of; None, and counted, when that attempt is not open."""
        one = self._requests.get(frame.request)
        if one is not None and one.state == "open" and one.attempt == frame.attempt:
            return one
        self.dropped[type(frame).__name__] += 1
        return None

    def _on_edge(self, link: LinkId, frame: Data | Start | End | Credit | Stop, now: float) -> None:
        one = self._open_here(frame)
        if one is None:
            return
        try:
            one.on_edge(link, frame, now)
        except Diverged as error:
            self._recovery.end(one, Code.DIVERGED, str(error), stage_of(link.peer), now)
        self._recovery.complete_if_done(one, now)

    def _on_report(self, link: LinkId, frame: Report, now: float) -> None:
        one = self._open_here(frame)
        if one is None:
            return
        if link.peer not in one.members:
            raise FlowControlError(f"a Report of {frame.request}, which is not routed over {link.peer}")
        self._recovery.report(one, link.peer, frame, now)

    def _on_closed(self, link: LinkId, frame: Closed, now: float) -> None:
        one = self._requests.get(frame.request)
        if one is None or one.attempt != frame.attempt or link.peer not in one.closing:
            self.dropped["Closed"] += 1
            return
        one.add_timings(frame)
        self._recovery.closed(one, link.peer, now)

    # ---- admission

    def _admit(self, now: float) -> None:
        """First come, first served, as far as there are slots; nobody overtakes."""
        line = self._admission.line
        while len(line) and self.running < self._topology.max_requests:
            one = line.first
            try:
                route = self._admission.route(one)
            except RequestError as error:
                self._recovery.end(one, error.code, error.message, error.stage, now)
                continue
            if route is None:
                return
            self._admission.open(one, route, self._mail.heard, now)
            self._recovery.complete_if_done(one, now)
