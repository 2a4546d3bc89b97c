"""A process with Links of its own, for tests between hosts: obeys JSON lines on stdin, tells what it hears on stdout.

Arguments: its name, its patience in seconds, and where it binds. Every Start that it hears is answered with Credit.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import deque
from dataclasses import astuple

from omni_graph.frames import Address, Credit, LinkId, LinkLost, Side, Start
from omni_graph.links.keys import Curve, KeyPair
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES


class Far:
    """Links, and the orders for them that a thread reads."""

    def __init__(self, name: str, patience_s: float, binds: list[str]) -> None:
        self._links = ZmqLinks(name, binds, LINK_TYPES, curve=Curve(KeyPair(), patience_s=patience_s))
        self._orders: deque[list[str]] = deque()
        self._answered: set[LinkId] = set()
        threading.Thread(target=self._read, daemon=True).start()
        tell("address", *astuple(self._links.address))

    def run(self) -> None:
        """Until told to close."""
        while True:
            for link, events in self._links.poll(60):
                for event in events:
                    self._hear(link, event)
            while self._orders:
                what, *arguments = self._orders.popleft()
                if what == "close":
                    self._links.close(1.0)
                    return
                getattr(self, what)(*arguments)

    def introduce(self, *address: str) -> None:
        self._links.introduce(Address(*address))

    def send(self, peer: str, request: str) -> None:
        self._links.send(LinkId(peer, Side.WRITES), [Start(request, 1, 0)])

    def send_on(self, peer: str, request: str) -> None:
        """Only while the link that was answered is not known to be lost: never opens a new one."""
        if LinkId(peer, Side.WRITES) in self._answered:
            self.send(peer, request)

    def count(self) -> None:
        counters = self._links.counters()
        tell("counters", str(counters.refused_callers), str(counters.bad_messages))

    def _hear(self, link: LinkId, event: object) -> None:
        if isinstance(event, LinkLost):
            self._answered.discard(link)
            tell("lost", link.peer, link.side, event.reason)
        elif isinstance(event, Start | Credit):
            tell(type(event).__name__, link.peer, link.side, event.request)
        if isinstance(event, Start):
            self._links.send(link, [Credit(event.request, 1, 0, 0, 8)])
        if isinstance(event, Credit):
            self._answered.add(link)

    def _read(self) -> None:
        for line in sys.stdin:
            self._orders.append(json.loads(line))
            self._links.wake()


def tell(*words: str) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    Far(sys.argv[1], float(sys.argv[2]), sys.argv[3:]).run()
