"""Frames from a core to its links. A packet that no link can carry fails its own request, and nothing else is held back.

The core is told of such a packet and forgets the request, so no later frame of it follows where one is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omni_graph.errors import FlowControlError
from omni_graph.frames import Data, Frame, LinkId, Links

Outgoing = Callable[[], list[tuple[LinkId, list[Frame]]]]
Unsendable = Callable[[Data, str], None]


def send_all(links: Links, outgoing: Outgoing, unsendable: Unsendable) -> None:
    """Send until nothing is left, also of what ``unsendable`` (the packet's frame, the reason) adds."""
    while waiting := outgoing():
        for link, frames in waiting:
            try:
                links.send(link, frames)
            except FlowControlError:  # nothing of them was sent
                _send_one_by_one(links, link, frames, unsendable)


def _send_one_by_one(links: Links, link: LinkId, frames: Sequence[Frame], unsendable: Unsendable) -> None:
    failed: set[str] = set()
    for frame in frames:
        if getattr(frame, "request", None) in failed:
            continue
        try:
            links.send(link, [frame])
        except FlowControlError as error:
            if not isinstance(frame, Data):
                raise
            failed.add(frame.request)
            unsendable(frame, str(error))
