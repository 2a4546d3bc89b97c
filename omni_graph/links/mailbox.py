"""What has arrived and was not polled yet, by link, and which losses its owner has not heard of. Pure; in arrival order."""

from __future__ import annotations

from collections.abc import Sequence

from omni_graph.frames import Frame, LinkId, LinkLost

Arrivals = list[tuple[LinkId, Sequence[Frame | LinkLost]]]


class Mailbox:
    """Truthy while something waits."""

    def __init__(self) -> None:
        self._arrived: dict[LinkId, list[Frame | LinkLost]] = {}
        self._losses: set[LinkId] = set()

    def __bool__(self) -> bool:
        return bool(self._arrived)

    def add(self, link: LinkId, frames: Sequence[Frame]) -> None:
        """Frames came on a link."""
        if frames:
            self._arrived.setdefault(link, []).extend(frames)

    def lose(self, link: LinkId, loss: LinkLost) -> None:
        """A link has ended; frames of a later one by the same name may follow."""
        self._arrived.setdefault(link, []).append(loss)
        self._losses.add(link)

    def owes_loss(self, link: LinkId) -> bool:
        """Has this link ended without its owner knowing? What the owner sends now was meant for the link that ended."""
        return link in self._losses

    def discard(self, link: LinkId) -> None:
        """Forget all that waits of a link."""
        self._arrived.pop(link, None)
        self._losses.discard(link)

    def take(self) -> Arrivals:
        """Everything, once."""
        arrived, self._arrived = self._arrived, {}
        self._losses.clear()
        return list(arrived.items())
