"""What the Gateway has to say until its loop comes for it: frames by link, events by request. Pure; in order."""

from __future__ import annotations

from omni_graph.frames import Frame, LinkId
from omni_graph.gateway_request import Event


class GatewayMail:
    """``heard``: links on which the peer has spoken, so that it can be answered there."""

    def __init__(self) -> None:
        self.heard: set[LinkId] = set()
        self._frames: dict[LinkId, list[Frame]] = {}
        self._events: list[tuple[str, Event]] = []

    def emit(self, link: LinkId, frame: Frame) -> None:
        """To a replica."""
        self._frames.setdefault(link, []).append(frame)

    def tell(self, request: str, event: Event) -> None:
        """To a caller."""
        self._events.append((request, event))

    def forget(self, link: LinkId) -> None:
        """The link is gone: what was still to be sent on it is not, and nothing is granted over it at the next Open."""
        self.heard.discard(link)
        self._frames.pop(link, None)

    def forget_peer(self, name: str) -> None:
        """The replica is gone."""
        for link in [link for link in self.heard if link.peer == name]:
            self.forget(link)

    def take_frames(self) -> list[tuple[LinkId, list[Frame]]]:
        """All frames; they leave."""
        out = list(self._frames.items())
        self._frames = {}
        return out

    def take_events(self) -> list[tuple[str, Event]]:
        """All events; they leave."""
        out, self._events = self._events, []
        return out
