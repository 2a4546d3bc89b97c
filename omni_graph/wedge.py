"""WedgeWatch and WedgeRounds: find requests that nothing can move any more. Pure.

Two successive rounds of Pongs must agree: every replica of the Route idle, every counter as before, everything sent has
been received (an End and a Stop too), and every writer knows its reader's limit. A round begins when the last is complete.
One look alone raises false alarms in almost every healthy run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from omni_graph.frames import EdgeCounts, LinkId, Ping, RequestState, Side
from omni_graph.gateway_request import GatewayRequest
from omni_graph.streams import Emit
from omni_graph.wiring import Edge

PING_PERIOD_S = 0.5


class WedgeWatch:
    """The Pongs of the current round and the counters of the last."""

    def __init__(self) -> None:
        self._round: dict[str, dict[str, RequestState]] = {}
        self._last: dict[str, frozenset[EdgeCounts]] = {}
        self._clock = 0.0
        self._owed: set[str] = set()

    @property
    def round_complete(self) -> bool:
        """Every replica that was asked has answered, or is gone."""
        return not self._owed

    def heard(self, replica: str, clock: float, states: Iterable[RequestState]) -> None:
        """A Pong on a control link; ``clock`` is that of the Ping it answers."""
        if clock != self._clock or replica not in self._owed:
            return
        self._owed.discard(replica)
        for state in states:
            if state.request in self._round:
                self._round[state.request][replica] = state

    def new_round(self, clock: float, requests: Collection[str], replicas: Iterable[str]) -> None:
        """Pings with ``clock`` leave now for these requests; what was heard before is old."""
        self._clock = clock
        self._owed = set(replicas)
        self._round = {request: {} for request in requests}
        self._last = {request: counts for request, counts in self._last.items() if request in requests}

    def forget(self, request: str) -> None:
        """The request has ended."""
        self._round.pop(request, None)
        self._last.pop(request, None)

    def forget_replica(self, replica: str) -> None:
        """The replica is gone and will not answer."""
        self._owed.discard(replica)

    def verdict(
        self, request: str, attempt: int, members: Collection[str], own: Iterable[EdgeCounts]
    ) -> tuple[int, ...] | None:
        """Edges without room when the request is wedged, else None. ``own``: the Gateway's counters."""
        states = self._round.get(request, {})
        fresh = [state for name, state in states.items() if name in members and state.attempt == attempt]
        if len(fresh) < len(members) or not all(state.idle for state in fresh):
            self._last.pop(request, None)
            return None
        counts = frozenset([*own, *(one for state in fresh for one in state.edges)])
        before = self._last.get(request)
        self._last[request] = counts
        if counts != before or not _settled(counts):
            return None
        return tuple(sorted(one.edge for one in counts if one.sent >= 0 and one.sent == one.limit))


class WedgeRounds:
    """Asks the replicas of each request that waits neither for its caller nor for the Gateway; judges by the answers."""

    def __init__(self, edges: Iterable[Edge], emit: Emit) -> None:
        self.watch = WedgeWatch()
        self._edges = {edge.number: edge.name for edge in edges}
        self._emit = emit
        self._looked_at = 0.0

    @property
    def next_look(self) -> float:
        """When ``look`` has something to do again."""
        return self._looked_at + PING_PERIOD_S

    def look(self, requests: Iterable[GatewayRequest], now: float) -> list[tuple[GatewayRequest, str]]:
        """Those that are wedged, and what to say of it. Begins the next round when the last is complete."""
        if now < self.next_look:
            return []
        self._looked_at = now
        if not self.watch.round_complete:
            return []
        suspects = [one for one in requests if one.may_be_wedged]
        wedged = [(one, message) for one in suspects if (message := self._judge(one)) is not None]
        over = [one for one, _ in wedged]
        self._ask([one for one in suspects if one not in over], now)
        return wedged

    def _judge(self, one: GatewayRequest) -> str | None:
        edges = self.watch.verdict(one.request, one.attempt, one.members, one.counts())
        if edges is None:
            return None
        names = ", ".join(self._edges[number] for number in edges) or "none"
        return f"nothing can move any more; edges without room: {names}"

    def _ask(self, suspects: Collection[GatewayRequest], now: float) -> None:
        replicas = dict.fromkeys(name for one in suspects for name in sorted(one.members))
        self.watch.new_round(now, {one.request for one in suspects}, replicas)
        for name in replicas:
            self._emit(LinkId(name, Side.CONTROL), Ping(now))


def _settled(counts: frozenset[EdgeCounts]) -> bool:
    """Nothing is under way on any edge."""
    writers = {one.edge: one for one in counts if one.sent >= 0}
    readers = {one.edge: one for one in counts if one.sent < 0}
    return all(
        number in readers and (writer.sent, writer.limit) == (readers[number].received, readers[number].limit)
        for number, writer in writers.items()
    )
