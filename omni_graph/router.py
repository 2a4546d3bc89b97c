"""Router: which replica of every stage serves a request, chosen once, at admission. Pure.

A stage is known here by its host: stages that live in one worker share its replicas and take one slot together.
Invariant: used slots of a replica = admitted requests routed over it that are not released; never above its slots.
A session is a wish, never a claim: a replica that served it before is preferred while it has a free slot.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from omni_graph.frames import Address

Route = dict[str, Address]
ANY: Mapping[str, int] = {}
SESSIONS = 10_000


@dataclass(slots=True)
class _Replica:
    address: Address
    slots: int
    revision: int = 0
    draining: bool = False
    suspect: str = ""
    chosen: int = 0
    requests: dict[str, None] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return 0 if self.suspect else self.slots - len(self.requests)


class Router:
    """Live replicas by host stage, and who uses them. ``revisions`` (host -> revision): those a request began on, and so
    the only ones that may go on with it; a host that is not in it may serve with any."""

    def __init__(self, hosts: Iterable[str], sessions: int = SESSIONS) -> None:
        self._replicas: dict[str, dict[str, _Replica]] = {host: {} for host in hosts}
        self._coming: dict[str, frozenset[int]] = {}
        self._sessions: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._most_sessions = sessions
        self._routes = 0

    def add(self, host: str, address: Address, slots: int, revision: int = 0) -> None:
        """A replica is ready."""
        self._replicas[host][address.name] = _Replica(address, slots, revision)

    def resize(self, name: str, slots: int) -> None:
        """A live replica takes so many requests at once from now on; what it has, it keeps."""
        for replicas in self._replicas.values():
            if name in replicas:
                replicas[name].slots = slots

    def remove(self, name: str) -> tuple[str, ...]:
        """A replica is gone; the requests that were routed over it."""
        for replicas in self._replicas.values():
            replica = replicas.pop(name, None)
            if replica is not None:
                return tuple(replica.requests)
        return ()

    def drain(self, name: str) -> None:
        """No new requests for this replica."""
        for replicas in self._replicas.values():
            if name in replicas:
                replicas[name].draining = True

    def knows(self, name: str) -> bool:
        return any(name in replicas for replicas in self._replicas.values())

    def revision(self, name: str) -> int:
        """The revision that a live replica serves with."""
        return next(replicas[name].revision for replicas in self._replicas.values() if name in replicas)

    def expect(self, host: str, revisions: Iterable[int]) -> None:
        """Replicas of ``host`` of these revisions are on their way: while they are, requests wait for them."""
        self._coming[host] = frozenset(revisions)

    def route(
        self,
        request: str,
        hosts: Iterable[str],
        probation: Collection[str] = (),
        *,
        session: str = "",
        revisions: Mapping[str, int] = ANY,
    ) -> Route | None:
        """A slot in a replica of every host, or None and nothing taken: the one that served ``session`` last, else the
        least loaded, of those the one that was not chosen for longest. In the hosts of ``probation`` it is a suspect:
        nobody is let in beside it until ``share``."""
        before = self._sessions.get(session, {})
        chosen: dict[str, _Replica] = {}
        for host in hosts:
            preferred = "" if host in probation else before.get(host, "")
            replica = self._best(host, revisions.get(host), preferred)
            if replica is None:
                return None
            chosen[host] = replica
        self._routes += 1
        for host, replica in chosen.items():
            replica.chosen = self._routes
            replica.requests[request] = None
            replica.suspect = request if host in probation else ""
        route = {host: replica.address for host, replica in chosen.items()}
        if session:
            self._remember(session, {host: address.name for host, address in route.items()})
        return route

    def _remember(self, session: str, names: Mapping[str, str]) -> None:
        self._sessions.setdefault(session, {}).update(names)
        self._sessions.move_to_end(session)
        if len(self._sessions) > self._most_sessions:
            self._sessions.popitem(last=False)

    def _serving(self, host: str, revision: int | None) -> list[_Replica]:
        """Who takes new requests; for one that began on a revision which only draining replicas still have, those."""
        fit = [one for one in self._replicas[host].values() if revision is None or one.revision == revision]
        serving = [one for one in fit if not one.draining]
        last_ones = revision is not None and revision not in self._coming.get(host, frozenset())
        return fit if not serving and last_ones else serving

    def share(self, request: str) -> None:
        """The request is no suspect any more."""
        for replica in self._all():
            if replica.suspect == request:
                replica.suspect = ""

    def load_of(self, name: str) -> tuple[str, ...]:
        """The requests that are routed over a replica."""
        return next((tuple(one.requests) for one in self._all() if one.address.name == name), ())

    def on_probation(self, name: str) -> str:
        """The request that is a suspect in this replica, or empty."""
        return next((one.suspect for one in self._all() if one.address.name == name), "")

    def _all(self) -> Iterator[_Replica]:
        return (replica for replicas in self._replicas.values() for replica in replicas.values())

    def has_room(self, hosts: Iterable[str]) -> bool:
        """A replica of every host has a free slot."""
        return all(self._best(host, None) is not None for host in hosts)

    def _best(self, host: str, revision: int | None, preferred: str = "") -> _Replica | None:
        free = [replica for replica in self._serving(host, revision) if replica.free > 0]
        return min(free, key=lambda one: (one.address.name != preferred, len(one.requests), one.chosen), default=None)

    def release(self, request: str) -> None:
        """The request's slots are free again. Idempotent."""
        for replica in self._all():
            replica.requests.pop(request, None)
        self.share(request)

    def without_replica(self, hosts: Iterable[str], revisions: Mapping[str, int] = ANY) -> str | None:
        """The first host that has no replica to serve, and none on its way."""
        return next((host for host in hosts if self._is_without(host, revisions.get(host))), None)

    def _is_without(self, host: str, revision: int | None) -> bool:
        coming = self._coming.get(host, frozenset())
        is_coming = bool(coming) if revision is None else revision in coming
        return not is_coming and not self._serving(host, revision)

    def fullest(self, hosts: Iterable[str]) -> str:
        """The host with the fewest free slots: the one to name when there is no room."""
        return min(hosts, key=lambda host: sum(max(0, replica.free) for replica in self._serving(host, None)))

    def load(self) -> Mapping[str, int]:
        """Requests per replica name."""
        return {name: len(r.requests) for replicas in self._replicas.values() for name, r in replicas.items()}
