"""Links between threads of one process: frames by reference, no bytes, no sockets, the same contract as ZMQ.

One lock guards a hub and every pipe in it; a poll sleeps on its own condition. A pipe that has ended never carries a
frame again: what was queued on it is delivered before its LinkLost, what is sent to it later is dropped and counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from omni_graph.errors import FlowControlError
from omni_graph.frames import Address, Frame, Hello, LinkId, LinkLost
from omni_graph.links.counters import LinkCounters, Tally
from omni_graph.links.handshake import announced, hello, link_at_acceptor, mismatch, opens, up_to_goodbye
from omni_graph.links.mailbox import Arrivals, Mailbox

SCHEME = "memory:"


class MemoryHub:
    """Where the MemoryLinks of one process find each other, by endpoint."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bound: dict[str, MemoryLinks] = {}

    def cut(self, a: str, b: str) -> None:
        """Break every link between the names ``a`` and ``b``, unannounced, as a dead wire would. For tests."""
        with self.lock:
            for links in self.bound.values():
                if links.address.name in (a, b):
                    links.lose_all({a, b} - {links.address.name}, f"the link between {a} and {b} was cut")


class _End:
    """One end of a pipe: whose it is, what its owner calls it, and the other end."""

    __slots__ = ("link", "open", "other", "owner")

    def __init__(self, owner: MemoryLinks, link: LinkId) -> None:
        self.owner = owner
        self.link = link
        self.open = True
        self.other = self


class MemoryLinks:
    """The Links of one worker or Gateway inside a hub. ``wiring`` must be equal at both ends of a link."""

    def __init__(
        self, hub: MemoryHub, name: str, wiring: str = "", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.address = Address(name, f"{SCHEME}{name}")
        self._hub = hub
        self._hello = hello(name, wiring)
        self._clock = clock
        self._changed = threading.Condition(hub.lock)
        self._addresses: dict[str, Address] = {}
        self._ends: dict[LinkId, _End] = {}
        self._mailbox = Mailbox()
        self._woken = False
        self._closed = False
        self._tally = Tally()
        with hub.lock:
            if self.address.endpoint in hub.bound:
                raise FlowControlError(f"the endpoint {self.address.endpoint} is taken; a name is used once in a hub")
            hub.bound[self.address.endpoint] = self

    def counters(self) -> LinkCounters:
        """Totals so far. Bytes stay 0: frames pass by reference."""
        return self._tally.snapshot()

    def introduce(self, address: Address) -> None:
        """How to reach a peer, before the first send to it."""
        self._addresses[address.name] = address

    def poll(self, timeout: float) -> Arrivals:
        """What has arrived, by link; see Links.poll."""
        deadline = self._clock() + timeout
        with self._hub.lock:
            while True:
                left = deadline - self._clock()
                if self._mailbox or self._woken or left <= 0 or self._closed:
                    self._woken = False
                    return self._mailbox.take()
                self._changed.wait(left)

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        """Hand frames to the peer's inbox, in order; see Links.send."""
        with self._hub.lock:
            self._assert_open()
            end = self._ends.get(link) or self._open(link)
            if end is None or self._mailbox.owes_loss(link):
                self._tally.add("dropped", len(frames))
            elif frames:
                self._deliver(end, tuple(frames))

    def drop(self, link: LinkId) -> None:
        """End a link without waiting; the peer sees LinkLost, we do not."""
        with self._hub.lock:
            self._mailbox.discard(link)
            end = self._ends.get(link)
            if end is not None:
                self._end(end)
                end.other.owner._lose(end.other, LinkLost(f"{self.address.name} dropped the link"))

    def wake(self) -> None:
        """Make a blocked poll return. Thread-safe."""
        with self._hub.lock:
            self._woken = True
            self._changed.notify()

    def close(self, drain_s: float) -> None:
        """Announce the end on every link. Nothing needs draining: what was sent is in the peers' inboxes already."""
        with self._hub.lock:
            if self._closed:
                return
            self._closed = True
            del self._hub.bound[self.address.endpoint]
            for end in list(self._ends.values()):
                self._end(end)
                end.other.owner._lose(end.other, announced(self.address.name))
            self._mailbox.take()
            self._changed.notify()

    def lose_all(self, peers: set[str], reason: str) -> None:
        """Lose every link to these peers. The hub calls it, under its lock."""
        for end in list(self._ends.values()):
            if end.link.peer in peers:
                self._lose(end, LinkLost(reason))

    # ---- all below runs under the hub's lock

    def _open(self, link: LinkId) -> _End | None:
        """A new pipe to ``link.peer``; None, and a LinkLost if we are its opener, when there can be none."""
        if not opens(self.address.name, link.side) or self._mailbox.owes_loss(link):
            return None
        reason = self._obstacle(link.peer)
        if reason:
            self._hear_loss(link, LinkLost(reason))
            return None
        return self._join(link, self._hub.bound[self._addresses[link.peer].endpoint])

    def _obstacle(self, name: str) -> str:
        """Why no link to ``name`` can be opened; empty when one can."""
        address = self._addresses.get(name)
        if address is None:
            return f"no link to {name}: its address is unknown"
        peer = self._hub.bound.get(address.endpoint)
        return peer._objection(self._hello, name) if peer else f"no link to {name}: nobody is at {address.endpoint}"

    def _objection(self, theirs: Hello, called: str) -> str:
        name = self.address.name
        reason = f"{called} expected, {name} found" if called != name else mismatch(self._hello, theirs)
        if reason:
            self._tally.add("bad_messages")
        return reason

    def _join(self, link: LinkId, peer: MemoryLinks) -> _End:
        mine = _End(self, link)
        theirs = _End(peer, link_at_acceptor(self.address.name, link.side))
        mine.other, theirs.other = theirs, mine
        assert theirs.link not in peer._ends, "both ends of a pipe end together"
        self._ends[link] = mine
        peer._ends[theirs.link] = theirs
        return mine

    def _deliver(self, end: _End, frames: Sequence[Frame]) -> None:
        whole, leaving = up_to_goodbye(frames)
        peer = end.other.owner
        if whole:
            peer._mailbox.add(end.other.link, whole)
            peer._tally.add("messages_received")
            peer._tally.add("frames_received", len(whole))
            peer._changed.notify()
        self._tally.add("messages_sent")
        self._tally.add("frames_sent", len(whole))
        if leaving:
            self._end(end)
            peer._lose(end.other, announced(self.address.name))

    def _lose(self, end: _End, loss: LinkLost) -> None:
        if end.open:
            self._end(end)
            self._hear_loss(end.link, loss)

    def _hear_loss(self, link: LinkId, loss: LinkLost) -> None:
        self._mailbox.lose(link, loss)
        self._changed.notify()

    def _end(self, end: _End) -> None:
        end.open = False
        if self._ends.get(end.link) is end:
            del self._ends[end.link]

    def _assert_open(self) -> None:
        if self._closed:
            raise FlowControlError(f"send on the links of {self.address.name}, which are closed")
