"""GatewayCore: the client's side of the graph as a state machine. Admits, routes, watches, and ends requests.

Frames, commands and the time in; frames and events out. It alone decides a request's one terminal event. No socket, no
thread, no clock of its own: ``now`` is in seconds of a monotonic clock.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from omni_graph.errors import REPLAYED, Code, FlowControlError, Overloaded, request_error
from omni_graph.frames import (
    GATEWAY,
    Address,
    Close,
    Closed,
    Credit,
    Data,
    EdgeEnds,
    End,
    Frame,
    Goaway,
    LinkId,
    Open,
    Ping,
    Pong,
    Report,
    Reset,
    Side,
    Start,
    Stop,
)
from omni_graph.gateway_request import Ended, Event, GatewayRequest, Released, Submission
from omni_graph.pace import Pace
from omni_graph.replay import Diverged
from omni_graph.router import Route, Router
from omni_graph.topology import Topology as Topology
from omni_graph.wedge import WedgeWatch
from omni_graph.wiring import Edge

PING_PERIOD_S = 0.5
PROBATION_S = (
    1.0  # how long a suspect has a replica to itself: a poisonous one kills it by then, or is found by its retries
)


class GatewayCore:
    """All requests of one deployment."""

    def __init__(self, topology: Topology, address: Address) -> None:
        self.address = address
        self.counts = {"completed": 0, "failed": 0, "cancelled": 0}
        self.dropped: Counter[str] = Counter()
        self._topology = topology
        self._edges = {edge.number: edge for edge in topology.edges}
        self._router = Router(set(topology.host_of.values()))
        self._requests: dict[str, GatewayRequest] = {}
        self._queue: deque[str] = deque()
        self._pace = Pace()
        self._refusing = False
        self._outgoing: dict[LinkId, list[Frame]] = {}
        self._events: list[tuple[str, Event]] = []
        self._broken: list[tuple[LinkId, str]] = []
        self._heard: set[LinkId] = set()
        self._wedges = WedgeWatch()
        self._looked_at = 0.0

    # ---- what the loop asks

    def outgoing(self) -> list[tuple[LinkId, list[Frame]]]:
        """Frames to send, per link and in order; they leave the core."""
        out = list(self._outgoing.items())
        self._outgoing = {}
        return out

    def events(self) -> list[tuple[str, Event]]:
        """What callers must hear, in order; they leave the core."""
        out, self._events = self._events, []
        return out

    def broken_links(self) -> list[tuple[LinkId, str]]:
        """Links whose peer broke the protocol, with the reason."""
        out, self._broken = self._broken, []
        return out

    @property
    def running(self) -> int:
        """Requests that hold slots."""
        return len(self._requests) - len(self._queue)

    @property
    def waiting(self) -> int:
        """Requests that wait for a Route."""
        return len(self._queue)

    def load(self) -> Mapping[str, int]:
        """Requests per replica."""
        return self._router.load()

    def paused(self) -> tuple[str, ...]:
        """Requests that wait for their caller to read."""
        return tuple(request for request, one in self._requests.items() if one.paused)

    def waiting_input(self, request: str, name: str) -> int:
        """Packets of an input that have not left yet; 0 when the request is over."""
        one = self._requests.get(request)
        return 0 if one is None else one.waiting_input(name)

    def next_tick(self, now: float) -> float | None:
        """Seconds until ``tick`` has something to do; None: not before something else happens."""
        deadlines = [one.deadline for one in self._requests.values() if one.state != "closing"]
        if not deadlines:
            return None
        return max(0.0, min(*deadlines, self._looked_at + PING_PERIOD_S) - now)

    # ---- replicas

    def replica_up(self, host: str, address: Address, now: float, revision: int = 0) -> None:
        """A replica is ready to serve, with this revision of config and weights."""
        self._router.add(host, address, self._topology.slots[host], revision)
        self._admit(now)

    def expect(self, host: str, revisions: Iterable[int], now: float) -> None:
        """Replicas of ``host`` of these revisions are on their way; with none, requests that need one fail at once."""
        self._router.expect(host, revisions)
        self._admit(now)

    def drain(self, name: str) -> None:
        """No new requests for this replica."""
        self._router.drain(name)

    def replica_down(self, name: str, code: Code, message: str, now: float) -> None:
        """A replica died, is stuck, or leaves drained: its requests are replayed elsewhere, or fail. Idempotent.

        A request that has lost a replica before is replayed alone in that stage for a while; one that takes that replica
        down too, alone, is poison. A drain is nobody's fault and counts for neither.
        """
        if not self._router.knows(name):
            return
        self._wedges.forget_replica(name)
        host, poisoned = stage_of(name), [r for r in self._router.load_of(name) if self._router.is_alone(r, name)]
        for request in self._router.remove(name):
            one = self._requests[request]
            one.route = {host: address for host, address in one.route.items() if address.name != name}
            one.closing.discard(name)
            self._fault(one, code, message, host, now)
            if one.state == "resetting" and one.faults > 1 and code is not Code.DRAINED:
                one.alone_in.add(host)
                if request in poisoned:
                    one.failure = request_error(request, Code.POISON, f"took down {name} alone: {message}", host)
                    one.final = True
            self._release_if_closed(one, now)
        self._heard = {link for link in self._heard if link.peer != name}
        self._admit(now)

    # ---- the caller's side

    def submit(self, submission: Submission, now: float) -> None:
        """Admit a request or queue it. Raises Overloaded, or RequestError(unavailable); then nothing is kept."""
        request, hosts = submission.request, self._topology.hosts(submission.stages)
        if request in self._requests:
            raise FlowControlError(f"a second request called {request}, which is not over yet")
        if self._refusing:
            raise request_error(request, Code.CLOSED, "the deployment is being shut down")
        dead = self._router.without_replica(hosts)
        if dead is not None:
            raise request_error(request, Code.UNAVAILABLE, "no live replica", dead)
        busy = self.running >= self._topology.max_requests or self._queue or not self._router.has_room(hosts)
        if busy and len(self._queue) >= self._topology.queue:
            again = self._pace.retry_after_s(len(self._queue) + 1, now)
            message = f"{self.running} running, {len(self._queue)} waiting (queue: {self._topology.queue}); "
            message += f"try again in {again} s"
            raise Overloaded(request, message, stage=self._router.fullest(hosts), retry_after_s=again)
        self._requests[request] = GatewayRequest(submission, now, self._topology, self._emit, self._tell)
        self._queue.append(request)
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
            one.read(output, size)
            self._complete_if_done(one, now)
            self._admit(now)

    def drop(self, request: str, output: str, now: float) -> None:
        """The caller does not want this output any more: a Stop goes up."""
        one = self._requests.get(request)
        if one is not None and one.state != "closing":
            one.drop(output)
            self._complete_if_done(one, now)
            self._admit(now)

    def cancel(self, request: str, now: float) -> None:
        """The caller gave up. Harmless after the end."""
        if request in self._requests:
            self._end(self._requests[request], Code.CANCELLED, "cancelled by the caller", "", now)
            self._admit(now)

    def refuse(self) -> None:
        """Admit nothing any more; what was admitted goes on."""
        self._refusing = True

    def cancel_all(self, now: float) -> None:
        """The deployment closes."""
        for one in tuple(self._requests.values()):
            self._end(one, Code.CLOSED, "the deployment was closed", "", now)

    def tick(self, now: float) -> None:
        """Deadlines, inputs that broke while they were read, and the watch for requests that nothing can move any more."""
        for one in tuple(self._requests.values()):
            if one.bad_input is not None:
                self._end(one, one.bad_input.code, one.bad_input.message, "", now)
            if one.alone_in and one.state == "open" and now >= one.opened_at + PROBATION_S:
                one.alone_in.clear()
                self._router.share(one.request)
            if now >= one.deadline:
                message = f"not complete after {one.submission.deadline_s:g} s"
                self._end(one, Code.DEADLINE_EXCEEDED, message, "", now)
        if now >= self._looked_at + PING_PERIOD_S:
            self._looked_at = now
            self._look_for_wedges(now)
        self._admit(now)

    # ---- frames

    def receive(self, link: LinkId, frame: Frame, now: float) -> None:
        """One frame from a link; a peer that breaks the protocol loses its link."""
        self._heard.add(link)
        try:
            self._receive(link, frame, now)
        except FlowControlError as error:
            self._broken.append((link, str(error)))
            self.lost(link, str(error), now, Code.PROTOCOL)
        self._admit(now)

    def lost(self, link: LinkId, reason: str, now: float, code: Code = Code.LINK_LOST) -> None:
        """A link has ended unannounced. Without its control link a replica is as good as dead."""
        self._heard.discard(link)
        if link.side is Side.CONTROL:
            self.replica_down(link.peer, Code.REPLICA_DIED, f"control link lost: {reason}", now)
            return
        for one in tuple(self._requests.values()):
            if one.state == "open" and one.uses(link):
                message = f"link to {link.peer} lost: {reason}"
                self._fault(one, code, message, stage_of(link.peer), now, {link.peer: GATEWAY})
                self._release_if_closed(one, now)
            else:
                one.unlink(link)
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
                self._wedges.heard(link.peer, frame.clock, frame.requests)
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
            if isinstance(frame, Credit | Stop):
                one.on_demand(link, frame, now)
            else:
                one.on_supply(link, frame)
                self._complete_if_done(one, now)
        except Diverged as error:
            self._end(one, Code.DIVERGED, str(error), stage_of(link.peer), now)

    def _on_report(self, link: LinkId, frame: Report, now: float) -> None:
        one = self._open_here(frame)
        if one is None:
            return
        if link.peer not in one.members:
            raise FlowControlError(f"a Report of {frame.request}, which is not routed over {link.peer}")
        stage = frame.stage or stage_of(link.peer)
        if frame.code is not Code.LINK_LOST:
            self._end(one, frame.code, frame.message, stage, now)
            return
        ends = {link.peer: frame.peer, frame.peer: link.peer}
        self._fault(one, frame.code, f"link to {frame.peer} lost: {frame.message}", stage, now, ends)
        self._release_if_closed(one, now)

    def _on_closed(self, link: LinkId, frame: Closed, now: float) -> None:
        one = self._requests.get(frame.request)
        if one is None or one.attempt != frame.attempt or link.peer not in one.closing:
            self.dropped["Closed"] += 1
            return
        one.timings.update(_timings_of(frame))
        one.closing.discard(link.peer)
        self._release_if_closed(one, now)

    # ---- admission

    def _admit(self, now: float) -> None:
        """First come, first served, as far as there are slots; nobody overtakes."""
        while self._queue and self.running < self._topology.max_requests:
            one = self._requests[self._queue[0]]
            hosts = self._topology.hosts(one.submission.stages)
            pinned = one.revisions if one.has_delivered else {}
            dead = self._router.without_replica(hosts, pinned)
            if dead is not None:
                began = f" of revision {pinned[dead]}, on which the answer began" if pinned else ""
                self._end(one, Code.UNAVAILABLE, f"no live replica{began}", dead, now)
                continue
            session = one.submission.session
            route = self._router.route(one.request, hosts, one.alone_in, session=session, revisions=pinned)
            if route is None:
                return
            self._queue.popleft()
            self._pace.admitted(now)
            self._open(one, route, now)
            self._complete_if_done(one, now)

    def _open(self, one: GatewayRequest, route: Route, now: float) -> None:
        one.state, one.route, one.attempt, one.opened_at = "open", route, one.attempt + 1, now
        one.revisions = {host: self._router.revision(address.name) for host, address in route.items()}
        routed = tuple(self._topology.routed_edges(one.submission.stages, one.submission.outputs))
        edges = tuple(EdgeEnds(e.number, self._end_at(e.writer, route), self._end_at(e.reader, route)) for e in routed)
        for address in dict.fromkeys(route.values()):
            mine = tuple(ends for ends in edges if address in (ends.writer, ends.reader))
            self._emit(LinkId(address.name, Side.CONTROL), self._open_frame(one, mine, routed, now))
        for edge, ends in zip(routed, edges, strict=True):
            one.add_stream(edge, ends, self._heard.__contains__)
        one.feed(now)

    def _open_frame(
        self, one: GatewayRequest, ends: tuple[EdgeEnds, ...], routed: tuple[Edge, ...], now: float
    ) -> Open:
        asked = one.submission
        return Open(
            request=asked.request,
            attempt=one.attempt,
            edges=ends,
            params=asked.params,
            seed=asked.seed,
            age_s=now - one.accepted_at,
            deadline_s=one.deadline - now,
            traceparent=asked.traceparent,
            forced=one.forced(),
            accepted=one.accepted(edge for edge in routed if any(end.edge == edge.number for end in ends)),
        )

    def _end_at(self, node: str, route: Route) -> Address:
        return self.address if node == GATEWAY else route[self._topology.host_of[node]]

    def addresses(self, request: str) -> tuple[Address, ...]:
        """The replicas on a request's Route."""
        one = self._requests.get(request)
        return () if one is None else tuple(one.route.values())

    # ---- the end

    def _complete_if_done(self, one: GatewayRequest, now: float) -> None:
        if one.state == "open" and one.all_read:
            self.counts["completed"] += 1
            self._finish(one, Close(one.request, one.attempt), Ended(None, now - one.accepted_at), now)

    def _end(self, one: GatewayRequest, code: Code, message: str, stage: str, now: float) -> None:
        if one.state == "closing":
            return
        if one.state == "waiting":
            self._queue.remove(one.request)
        self.counts["cancelled" if code is Code.CANCELLED else "failed"] += 1
        error = request_error(one.request, code, message, stage)
        reset = Reset(one.request, one.attempt, code, stage, message[:500])
        self._finish(one, reset, Ended(error, now - one.accepted_at), now)

    def _finish(self, one: GatewayRequest, word: Close | Reset, ended: Ended, now: float) -> None:
        """The one terminal event, and the word to every replica of the Route that has not heard it yet."""
        self._tell(one.request, ended)
        if one.state != "resetting":
            one.closing = one.members
            for name in sorted(one.closing):
                self._emit(LinkId(name, Side.CONTROL), word)
        one.state = "closing"
        one.forget_streams()
        self._release_if_closed(one, now)

    def _fault(
        self,
        one: GatewayRequest,
        code: Code,
        message: str,
        stage: str,
        now: float,
        peers: Mapping[str, str] | None = None,
    ) -> None:
        """A replica or a link of the Route is lost: reset the request everywhere. Once all have forgotten it, it is replayed
        while it has retries, and fails else: only then is it known whether a lost link was a death.

        ``peers``: for either end of a lost link the other end, which it must not hear from on the old link again.
        """
        died = code in (Code.REPLICA_DIED, Code.STUCK)
        if one.state == "resetting" and died and one.failure is not None and one.failure.code is Code.LINK_LOST:
            one.failure = request_error(one.request, code, message, stage)
        if one.state != "open":
            return
        if code not in REPLAYED:
            self._end(one, code, message, stage, now)
            return
        one.failure = request_error(one.request, code, message, stage)
        one.final = not (one.may_move if code is Code.DRAINED else one.may_replay)
        one.faults += code is not Code.DRAINED
        one.state = "resetting"
        one.closing = one.members
        for name in sorted(one.closing):
            peer = (peers or {}).get(name, "")
            reset = Reset(one.request, one.attempt, Code.LINK_LOST, stage, message[:500], peer)
            self._emit(LinkId(name, Side.CONTROL), reset)
        one.forget_streams() if one.final else one.rewind()

    def _release_if_closed(self, one: GatewayRequest, now: float) -> None:
        """Its slots are free again; a replay waits for a Route, before all others. Whoever called goes on to admit."""
        if one.closing or one.state not in ("closing", "resetting"):
            return
        self._router.release(one.request)
        self._wedges.forget(one.request)
        if one.state == "resetting" and not one.final:
            one.state, one.route = "waiting", {}
            self._queue.appendleft(one.request)
            return
        if one.state == "resetting":
            self.counts["failed"] += 1
            self._tell(one.request, Ended(one.failure, now - one.accepted_at))
        del self._requests[one.request]
        self._tell(one.request, Released(one.timings, one.retries))

    # ---- wedges

    def _look_for_wedges(self, now: float) -> None:
        if not self._wedges.round_complete:
            return
        suspects = [one for one in self._requests.values() if one.state == "open" and _may_be_wedged(one)]
        for one in suspects:
            edges = self._wedges.verdict(one.request, one.attempt, one.members, one.counts())
            if edges is not None:
                names = ", ".join(self._edges[number].name for number in edges) or "none"
                self._end(one, Code.WEDGED, f"nothing can move any more; edges without room: {names}", "", now)
        suspects = [one for one in suspects if one.state == "open"]
        replicas = dict.fromkeys(name for one in suspects for name in sorted(one.members))
        self._wedges.new_round(now, {one.request for one in suspects}, replicas)
        for name in replicas:
            self._emit(LinkId(name, Side.CONTROL), Ping(now))

    def _emit(self, link: LinkId, frame: Frame) -> None:
        self._outgoing.setdefault(link, []).append(frame)

    def _tell(self, request: str, event: Event) -> None:
        self._events.append((request, event))


def _may_be_wedged(one: GatewayRequest) -> bool:
    return one.wholly_fed() and not any(one.buffered.values())


def _timings_of(frame: Closed) -> dict[str, Any]:
    try:
        timings = json.loads(frame.timings)
    except ValueError as error:
        raise FlowControlError(f"Closed of {frame.request}: timings are no JSON: {error}") from error
    if not isinstance(timings, dict):
        raise FlowControlError(f"Closed of {frame.request}: timings must be {{stage: ...}}")
    return timings


def stage_of(replica: str) -> str:
    """``thinker`` of ``thinker/0.2``."""
    return replica.partition("/")[0]
