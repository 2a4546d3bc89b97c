"""Simulated links: FIFO a direction, interleaved as the caller likes, cut at any frame. They move frames and judge nothing.

As ``Links`` promises: the writer, and the Gateway on control, opens a link on first use; a lost link stays lost; what
follows on a new one is heard only after the loss of the old.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from omni_graph.frames import GATEWAY, Frame, LinkId, LinkLost, Side

LOST = LinkLost("cut")
Key = tuple[str, str, Side]


class Link:
    """One connection. ``pipes``: what is under way to each of its ends, by name."""

    __slots__ = ("dead", "opener", "other", "pipes", "side")

    def __init__(self, opener: str, other: str, side: Side, after: Pipe | None) -> None:
        self.opener, self.other, self.side = opener, other, side
        self.dead = False
        answer = Side.CONTROL if side is Side.CONTROL else Side.READS
        to_other = Pipe(self, other, LinkId(opener, answer), after)
        self.pipes = {other: to_other, opener: Pipe(self, opener, LinkId(other, side), None)}

    @property
    def key(self) -> Key:
        return self.opener, self.other, self.side


class Pipe:
    """One direction of a link. ``after``: the same direction of the link before, which is heard to its end first."""

    __slots__ = ("active", "after", "frames", "link", "name", "slow", "to")

    def __init__(self, link: Link, to: str, name: LinkId, after: Pipe | None) -> None:
        self.link, self.to, self.name, self.after = link, to, name, after
        self.frames: deque[Frame | LinkLost] = deque()
        self.active = self.slow = False


class Network:
    """All links. ``active``: the pipes with something under way. ``slow_share`` of the pipes hardly ever get a turn."""

    def __init__(self, rng: random.Random, slow_share: float, is_alive: Callable[[str], bool]) -> None:
        self.active: list[Pipe] = []
        self.links: list[Link] = []
        self._rng = rng
        self._slow_share = slow_share
        self._is_alive = is_alive
        self._opened: dict[Key, Link] = {}
        self._accepted: dict[Key, Link] = {}
        self._latest: dict[Key, Link] = {}

    def link_from(self, source: str, name: LinkId) -> Link | None:
        """The link that ``source`` calls ``name``, opened where that is its part; None: no link to answer over."""
        if name.side is Side.WRITES or (name.side is Side.CONTROL and source == GATEWAY):
            return self._opened.get((source, name.peer, name.side)) or self._open(source, name)
        side = Side.CONTROL if name.side is Side.CONTROL else Side.WRITES
        return self._accepted.get((name.peer, source, side))

    def control(self, replica: str) -> Link | None:
        """The Gateway's link to ``replica``, while it has one."""
        return self._opened.get((GATEWAY, replica, Side.CONTROL))

    def _open(self, source: str, name: LinkId) -> Link:
        key = (source, name.peer, name.side)
        before = self._latest.get(key)
        link = self._opened[key] = self._latest[key] = Link(*key, None if before is None else before.pipes[name.peer])
        self.links.append(link)
        for pipe in link.pipes.values():
            pipe.slow = self._rng.random() < self._slow_share
        if not self._is_alive(name.peer):
            link.dead = True
            self._push(link.pipes[source], LOST)
        return link

    def send(self, link: Link, to: str, frame: Frame) -> None:
        """Into a link that is dead already it vanishes."""
        if not link.dead:
            self._push(link.pipes[to], frame)

    def _push(self, pipe: Pipe, frame: Frame | LinkLost) -> None:
        pipe.frames.append(frame)
        if not pipe.active:
            pipe.active = True
            self.active.append(pipe)

    def next(self, pipe: Pipe) -> tuple[Pipe, Frame | LinkLost] | None:
        """The next frame of ``pipe``, or of the one that must be heard before; None when a slow one has no turn."""
        if pipe.slow and len(self.active) > 1 and self._rng.random() < 0.9:
            return None
        while pipe.after is not None and pipe.after.frames:
            pipe = pipe.after
        frame = pipe.frames.popleft()
        if not pipe.frames:
            self._rest(pipe)
        self._heard(pipe, frame)
        return pipe, frame

    def _heard(self, pipe: Pipe, frame: Frame | LinkLost) -> None:
        link = pipe.link
        if frame is LOST:
            table = self._opened if pipe.to == link.opener else self._accepted
            if table.get(link.key) is link:
                del table[link.key]
        elif pipe.to == link.other:
            self._accepted[link.key] = link

    def _rest(self, pipe: Pipe) -> None:
        pipe.active = False
        self.active.remove(pipe)

    def cut(self, link: Link) -> None:
        """What is under way is lost from some point on; then each end that lives learns that the link is gone."""
        link.dead = True
        self.links.remove(link)
        for pipe in link.pipes.values():
            for _ in range(self._rng.randint(0, len(pipe.frames))):
                pipe.frames.pop()
            if self._is_alive(pipe.to):
                self._push(pipe, LOST)

    def drop(self, source: str, name: LinkId) -> None:
        """``source`` ends the link that it calls ``name``: nothing of it is heard there any more, not even the loss."""
        writes = name.side is Side.WRITES
        table, key = (
            (self._opened, (source, name.peer, Side.WRITES))
            if writes
            else (self._accepted, (name.peer, source, Side.WRITES))
        )
        link = table.pop(key, None)
        if link is None:
            return
        if not link.dead:
            self.cut(link)
        self._silence(link.pipes[source])

    def _silence(self, pipe: Pipe) -> None:
        pipe.frames.clear()
        if pipe.active:
            self._rest(pipe)

    def remove(self, replica: str) -> None:
        """The replica is gone: its links are cut, and nobody is there to hear."""
        for link in [link for link in self.links if replica in link.pipes]:
            self.cut(link)
        for pipe in [pipe for pipe in self.active if pipe.to == replica]:
            self._silence(pipe)
