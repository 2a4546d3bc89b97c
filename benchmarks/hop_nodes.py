"""The two ends of the ``hop`` graph: a Source that sends groups of packets, and a Sink that says how long each took.

A group leaves when the reader's credit for a whole group is there, so exactly one is under way per request; the window of
their edge is the packets of a group. A group's time runs from just before its first send to just after its last take.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from omni_graph import In, Inbox, Out, Outbox
from omni_graph.payload import Array

MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class Go:
    """Send ``groups`` groups of ``pieces`` packets of ``size`` bytes, once ``together`` requests have such an order."""

    groups: int
    pieces: int
    size: int
    together: int = 1


@dataclass(frozen=True, slots=True)
class Parcel:
    """``stamp``: when its group began, monotonic nanoseconds. Counting down to 0: packets of the group, groups."""

    max_packet_bytes: ClassVar[int] = MAX_BODY + 64

    stamp: int
    pieces_left: int
    groups_left: int
    body: Array


@dataclass(frozen=True, slots=True)
class Latencies:
    """One per group, in seconds."""

    seconds: tuple[float, ...]


@dataclass(slots=True)
class _Order:
    """What is left of a Go."""

    groups: int
    pieces: int
    together: int
    body: Array


class Source:
    """Carries out orders."""

    replay = False  # what it sends says when

    go = In(Go)
    parcels = Out(Parcel)

    def __init__(self) -> None:
        self._orders: dict[str, _Order] = {}

    def open(self, request: str, params: object) -> None:
        pass

    def close(self, request: str) -> None:
        self._orders.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for request in inbox.ready(self.go):
            if request not in self._orders and outbox.room(self.parcels, request) > 0:
                go = inbox.take(self.go, request)
                body = Array.of(np.zeros(go.size, np.uint8))
                self._orders[request] = _Order(go.groups, go.pieces, go.together, body)
        for request, order in list(self._orders.items()):
            if len(self._orders) >= order.together and outbox.room(self.parcels, request) >= order.pieces:
                self._send_group(request, order, outbox)
        for request in inbox.drained(self.go):
            if request not in self._orders:
                outbox.end(request)
        return False

    def _send_group(self, request: str, order: _Order, outbox: Outbox) -> None:
        order.groups -= 1
        stamp = time.monotonic_ns()
        for left in reversed(range(order.pieces)):
            outbox.send(self.parcels, request, Parcel(stamp, left, order.groups, order.body))
        if order.groups == 0:
            for one in self._orders.values():
                one.together = 1  # those that are still at it finish without us
            del self._orders[request]


class Sink:
    """Takes at once whatever has come."""

    replay = False

    parcels = In(Parcel)
    latencies = Out(Latencies)

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {}

    def open(self, request: str, params: object) -> None:
        self._seen[request] = []

    def close(self, request: str) -> None:
        self._seen.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for request in inbox.ready(self.parcels):
            if outbox.room(self.latencies, request) > 0:
                self._take(request, inbox, outbox)
        for request in inbox.drained(self.parcels):
            outbox.end(request)
        return bool(inbox.ready(self.parcels))

    def _take(self, request: str, inbox: Inbox, outbox: Outbox) -> None:
        parcel = inbox.take(self.parcels, request)
        if parcel.pieces_left:
            return
        seen = self._seen[request]
        seen.append((time.monotonic_ns() - parcel.stamp) * 1e-9)
        if parcel.groups_left == 0:
            outbox.send(self.latencies, request, Latencies(tuple(seen)))
            seen.clear()
