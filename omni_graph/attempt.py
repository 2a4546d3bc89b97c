"""One attempt of a request that is open in a replica: its nodes, its streams, and the links that they stand on. Pure."""

from __future__ import annotations

from omni_graph.frames import EdgeCounts, LinkId
from omni_graph.hosting import HostedNode
from omni_graph.streams import InStream, OutStream


class OpenAttempt:
    """``nodes`` that serve it here, and its streams by edge."""

    __slots__ = ("attempt", "ins", "nodes", "outs")

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.nodes: list[HostedNode] = []
        self.ins: dict[int, InStream] = {}
        self.outs: dict[int, OutStream] = {}

    def links(self) -> set[LinkId]:
        """Those on which a Start was sent or received: what is lost on them is missing."""
        return {out.link for out in self.outs.values()} | {one.link for one in self.ins.values() if one.started}

    def links_with(self, peer: str) -> list[LinkId]:
        """Those of them that lead to ``peer``."""
        return sorted(link for link in self.links() if link.peer == peer)

    def unlink(self, link: LinkId) -> None:
        """The link is gone, and nothing had begun on it."""
        for stream in self.ins.values():
            if stream.link == link:
                stream.unlink()

    def counts(self) -> tuple[EdgeCounts, ...]:
        """For a Pong."""
        return (*(one.counts() for one in self.ins.values()), *(out.counts() for out in self.outs.values()))
