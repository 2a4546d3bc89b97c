"""What the rules of ``check_link`` stand on: Links under test that remember all they heard, and waits with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from types import TracebackType
from typing import TypeVar

from omni_graph.frames import Frame, LinkId, LinkLost, Links, Side

F = TypeVar("F")
TURN_S = 0.002  # one peer's poll while several are waited for
SHOWN = 400  # characters of what was heard in a message


def require(holds: bool, message: str) -> None:
    """AssertionError with ``message`` unless the rule holds; also under ``python -O``."""
    if not holds:
        raise AssertionError(message)


class Peer:
    """One Links under test and everything that came out of its poll, by link."""

    def __init__(self, links: Links) -> None:
        self.links = links
        self.name = links.address.name
        self.heard: dict[LinkId, list[Frame | LinkLost]] = {}

    @property
    def losses(self) -> list[LinkLost]:
        """Every LinkLost heard, of any link."""
        return [event for events in self.heard.values() for event in events if isinstance(event, LinkLost)]

    def heard_frames(self, cls: type[F]) -> list[F]:
        """Every frame of one class heard, of any link."""
        return [event for events in self.heard.values() for event in events if isinstance(event, cls)]

    def poll(self, timeout: float) -> None:
        """Poll once and remember."""
        for link, events in self.links.poll(timeout):
            self.heard.setdefault(link, []).extend(events)

    def send(self, to: Peer, side: Side, frames: Sequence[Frame]) -> None:
        """Send on our link to ``to``."""
        self.links.send(LinkId(to.name, side), frames)

    def drop(self, to: Peer, side: Side) -> None:
        """Drop our link to ``to``."""
        self.links.drop(LinkId(to.name, side))


class Bench:
    """The Links of one rule; closed when it ends. Errors that a rule did not expect break it, by its name."""

    def __init__(
        self,
        rule: str,
        make: Callable[[str, str], Links],
        cut: Callable[[str, str], None] | None,
        deadline_s: float,
    ) -> None:
        self.deadline_s = deadline_s
        self._rule = rule
        self._make = make
        self._cut = cut
        self._peers: list[Peer] = []
        self._numbers = count()

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self._peers:
            peer.links.close(0)
        if isinstance(error, Exception):
            why = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{self._rule}: {why}") from error

    def peer(self, name: str = "", wiring: str = "wiring-of-the-kit") -> Peer:
        """A new Links, with a name that was not used before unless one is given."""
        peer = Peer(self._make(name or f"{self._rule[9:40]}-{next(self._numbers)}/0.0", wiring))
        self._peers.append(peer)
        return peer

    def pair(self) -> tuple[Peer, Peer]:
        """Two new Links that know each other's address."""
        a, b = self.peer(), self.peer()
        self.introduce(a, b)
        return a, b

    def introduce(self, a: Peer, b: Peer) -> None:
        """Tell each the other's address."""
        a.links.introduce(b.links.address)
        b.links.introduce(a.links.address)

    def leave(self, peer: Peer) -> None:
        """Poll and close this one no more: another thread has it."""
        self._peers.remove(peer)

    def cut(self, a: Peer, b: Peer) -> None:
        """Break every connection between both."""
        assert self._cut is not None
        self._cut(a.name, b.name)

    def until(self, holds: Callable[[], bool], what: str, peers: Sequence[Peer] = ()) -> None:
        """Poll these peers, else all, until ``holds()``; AssertionError at the deadline."""
        polled = list(peers) or self._peers
        give_up = time.monotonic() + self.deadline_s
        while not holds():
            if time.monotonic() > give_up:
                heard = "; ".join(f"{peer.name}: {peer.heard}" for peer in polled)
                raise AssertionError(f"waited {self.deadline_s} s for {what}; heard: {heard[-SHOWN:]}")
            for peer in polled:
                peer.poll(TURN_S)

    def until_heard(self, peer: Peer, other: Peer, side: Side, number: int) -> None:
        """Poll all until ``peer`` has heard ``number`` events on its link to ``other``."""
        link = LinkId(other.name, side)
        self.until(lambda: len(peer.heard.get(link, ())) >= number, f"{number} events on {link}")

    def expect(self, peer: Peer, other: Peer, side: Side, events: Sequence[Frame | LinkLost]) -> None:
        """All that ``peer`` has heard on this link since the start is exactly ``events``, once that many have come."""
        self.until_heard(peer, other, side, len(events))
        heard = peer.heard[LinkId(other.name, side)]
        if heard == list(events):
            return
        first = next((i for i, (a, b) in enumerate(zip(heard, events)) if a != b), len(events))
        seen = f"{heard[first]}"[:SHOWN] if first < len(heard) else "nothing"
        sent = f"{events[first]}"[:SHOWN] if first < len(events) else "nothing"
        raise AssertionError(f"event {first} of {len(events)} on a link should be {sent}; heard {seen}")

    def expect_loss(self, peer: Peer, other: Peer, side: Side, before: Sequence[Frame]) -> None:
        """All that ``peer`` has heard on this link is ``before``, then one LinkLost."""
        self.until_heard(peer, other, side, len(before) + 1)
        heard = peer.heard[LinkId(other.name, side)]
        require(isinstance(heard[-1], LinkLost), f"a LinkLost expected, heard {heard[-1]}")
        require(heard[:-1] == list(before), f"before the loss: expected {before}, heard {heard[:-1]}"[:SHOWN])

    def expect_loss_of(self, peer: Peer, link: LinkId, after: int = 0) -> LinkLost:
        """The LinkLost that ``peer`` hears on this link after ``after`` frames, and nothing else by then."""
        self.until(lambda: len(peer.heard.get(link, ())) > after, f"the loss of {link}")
        *_, last = peer.heard[link]
        require(isinstance(last, LinkLost) and len(peer.heard[link]) == after + 1, f"a loss expected, heard {last}")
        assert isinstance(last, LinkLost)
        return last

    def in_thread(self, work: Callable[[], None], what: str) -> None:
        """Run ``work`` beside us and wait for it; what it raises is raised here. AssertionError at the deadline."""
        raised: list[Exception] = []

        def run() -> None:
            try:
                work()
            except Exception as error:
                raised.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.deadline_s)
        require(not thread.is_alive(), f"{what} blocked for {self.deadline_s} s")
        if raised:
            raise raised[0]
