"""Router: which replica of every stage serves a request, chosen once, at admission. Pure.

A stage is known here by its host: stages that live in one worker share its replicas and take one slot together.
Invariant: used slots of a replica = admitted requests routed over it that are not released; never above its slots.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from omni_graph.frames import Address

Route = dict[str, Address]


@dataclass(slots=True)
class _Replica:
    address: Address
    slots: int
    draining: bool = False
    alone: str = ""
    requests: dict[str, None] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return 0 if self.draining or self.alone else self.slots - len(self.requests)


class Router:
    """Live replicas by host stage, and who uses them."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._replicas: dict[str, dict[str, _Replica]] = {host: {} for host in hosts}
        self._coming: set[str] = set()

    def add(self, host: str, address: Address, slots: int) -> None:
        """A replica is ready."""
        self._replicas[host][address.name] = _Replica(address, slots)

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

    def expect(self, host: str, coming: bool) -> None:
        """A replica of ``host`` is on its way, or none is: while one is, requests wait for it."""
        (self._coming.add if coming else self._coming.discard)(host)

    def route(self, request: str, hosts: Iterable[str], alone: Collection[str] = ()) -> Route | None:
        """A slot in a replica of every host, least loaded first, or None and nothing taken. In the hosts of ``alone`` the
        request has its replica to itself."""
        chosen = {host: self._empty(host) if host in alone else self._best(host) for host in hosts}
        if any(replica is None for replica in chosen.values()):
            return None
        route = {}
        for host, replica in chosen.items():
            assert replica is not None
            replica.requests[request] = None
            replica.alone = request if host in alone else ""
            route[host] = replica.address
        return route

    def _empty(self, host: str) -> _Replica | None:
        ready = (replica for replica in self._replicas[host].values() if not replica.draining)
        return next((replica for replica in ready if not replica.requests), None)

    def share(self, request: str) -> None:
        """The request needs its replicas to itself no longer."""
        for replicas in self._replicas.values():
            for replica in replicas.values():
                if replica.alone == request:
                    replica.alone = ""

    def load_of(self, name: str) -> tuple[str, ...]:
        """The requests that are routed over a replica."""
        return next((tuple(r[name].requests) for r in self._replicas.values() if name in r), ())

    def is_alone(self, request: str, name: str) -> bool:
        """The replica serves this request and no other."""
        replica = next((replicas[name] for replicas in self._replicas.values() if name in replicas), None)
        return replica is not None and tuple(replica.requests) == (request,)

    def has_room(self, hosts: Iterable[str]) -> bool:
        """A replica of every host has a free slot."""
        return all(self._best(host) is not None for host in hosts)

    def _best(self, host: str) -> _Replica | None:
        free = [replica for replica in self._replicas[host].values() if replica.free > 0]
        return min(free, key=lambda replica: len(replica.requests), default=None)

    def release(self, request: str) -> None:
        """The request's slots are free again. Idempotent."""
        for replicas in self._replicas.values():
            for replica in replicas.values():
                replica.requests.pop(request, None)
                if replica.alone == request:
                    replica.alone = ""

    def without_replica(self, hosts: Iterable[str]) -> str | None:
        """The first host that has no replica, and none on its way."""
        return next((host for host in hosts if not self._replicas[host] and host not in self._coming), None)

    def fullest(self, hosts: Iterable[str]) -> str:
        """The host with the fewest free slots: the one to name when there is no room."""
        return min(hosts, key=lambda host: sum(max(0, r.free) for r in self._replicas[host].values()))

    def load(self) -> Mapping[str, int]:
        """Requests per replica name."""
        return {name: len(r.requests) for replicas in self._replicas.values() for name, r in replicas.items()}
