"""Admission: who waits for a Route, in what order, and the Open that ends the wait. Pure.

Nobody overtakes: replays come first, the oldest first, then the others as they came. Whoever is admitted has a slot in a
replica of every stage on its way, all taken at once.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Collection

from omni_graph.errors import Code, Overloaded, request_error
from omni_graph.frames import GATEWAY, Address, EdgeEnds, LinkId, Open, Side
from omni_graph.gateway_request import GatewayRequest, Submission
from omni_graph.pace import Pace
from omni_graph.router import Route, Router
from omni_graph.streams import Emit
from omni_graph.topology import Topology
from omni_graph.wiring import Edge


class WaitingLine:
    """Requests without a Route."""

    def __init__(self) -> None:
        self._replays: list[GatewayRequest] = []
        self._others: deque[GatewayRequest] = deque()

    def __len__(self) -> int:
        return len(self._replays) + len(self._others)

    @property
    def first(self) -> GatewayRequest:
        """Whose turn it is; there must be one."""
        return self._replays[0] if self._replays else self._others[0]

    def join(self, one: GatewayRequest) -> None:
        """At the end; a replay behind the older replays."""
        if one.attempt:
            insort(self._replays, one, key=lambda other: other.accepted_at)
        else:
            self._others.append(one)

    def leave(self, one: GatewayRequest) -> None:
        """It has a Route, or is over."""
        if one.attempt:
            self._replays.remove(one)
        else:
            self._others.remove(one)


class Admission:
    """Lets requests in, as far as there are slots. ``address``: the Gateway's, on every Open."""

    def __init__(self, topology: Topology, router: Router, address: Address, emit: Emit) -> None:
        self.line = WaitingLine()
        self.refusing = False
        self._topology = topology
        self._router = router
        self._address = address
        self._emit = emit
        self._pace = Pace()

    def check(self, asked: Submission, running: int, now: float) -> None:
        """Raises Overloaded, or RequestError (closed, unavailable), where a new request is not even to wait."""
        hosts, waiting = self._topology.hosts(asked.stages), len(self.line)
        if self.refusing:
            raise request_error(asked.request, Code.CLOSED, "the deployment is being shut down")
        dead = self._router.without_replica(hosts)
        if dead is not None:
            raise request_error(asked.request, Code.UNAVAILABLE, "no live replica", dead)
        busy = running >= self._topology.max_requests or waiting or not self._router.has_room(hosts)
        if busy and waiting >= self._topology.queue:
            again = self._pace.retry_after_s(waiting + 1, now)
            message = f"{running} running, {waiting} waiting (queue: {self._topology.queue}); try again in {again} s"
            raise Overloaded(asked.request, message, stage=self._router.fullest(hosts), retry_after_s=again)

    def route(self, one: GatewayRequest) -> Route | None:
        """Its slots; None while there is no room. Raises RequestError(unavailable) where no replica is to be waited for."""
        hosts, pinned = self._topology.hosts(one.submission.stages), one.pinned
        dead = self._router.without_replica(hosts, pinned)
        if dead is not None:
            began = f" of revision {pinned[dead]}, on which the answer began" if pinned else ""
            before = "" if one.failure is None else f"; before that: {one.failure}"
            raise request_error(one.request, Code.UNAVAILABLE, f"no live replica{began}{before}", dead)
        session = one.submission.session
        return self._router.route(one.request, hosts, one.probation, session=session, revisions=pinned)

    def open(self, one: GatewayRequest, route: Route, heard: Collection[LinkId], now: float) -> None:
        """Its next attempt begins. ``heard``: links on which a peer has spoken to us."""
        self.line.leave(one)
        self._pace.admitted(now)
        one.state, one.route, one.attempt, one.opened_at = "open", route, one.attempt + 1, now
        one.revisions = {host: self._router.revision(address.name) for host, address in route.items()}
        edges = tuple(self._topology.routed_edges(one.submission.stages, one.submission.outputs))
        ends = [EdgeEnds(e.number, self._end_at(e.writer, route), self._end_at(e.reader, route)) for e in edges]
        for address in dict.fromkeys(route.values()):
            mine = [(e, end) for e, end in zip(edges, ends, strict=True) if address in (end.writer, end.reader)]
            self._emit(LinkId(address.name, Side.CONTROL), self._frame(one, address, mine, now))
        for edge, end in zip(edges, ends, strict=True):
            one.add_stream(edge, end, heard.__contains__)
        one.feed(now)

    def _frame(self, one: GatewayRequest, to: Address, edges: list[tuple[Edge, EdgeEnds]], now: float) -> Open:
        """The Open for one replica, with the choices of its own nodes."""
        asked = one.submission
        return Open(
            request=asked.request,
            attempt=one.attempt,
            edges=tuple(ends for _, ends in edges),
            params=asked.params,
            seed=asked.seed,
            age_s=now - one.accepted_at,
            deadline_s=one.deadline - now,
            traceparent=asked.traceparent,
            forced=tuple(c for c in one.outputs.forced() if one.route.get(self._topology.host_of[c.node]) == to),
            accepted=tuple((edge.number, one.outputs.accepted(edge)) for edge, _ in edges if edge.is_output),
        )

    def _end_at(self, node: str, route: Route) -> Address:
        return self._address if node == GATEWAY else route[self._topology.host_of[node]]
