"""A Gateway by itself, with replicas that do only what a test says, for tests that go frame by frame."""

from __future__ import annotations

from typing import Any

from omni_graph.errors import Code
from omni_graph.frames import GATEWAY, Address, Closed, Data, Frame, LinkId, Open, Side
from omni_graph.gateway import GatewayCore
from omni_graph.gateway_request import Ended, Released, Submission
from omni_graph.payload import TextDelta
from omni_graph.topology import Topology
from omni_graph.wiring import Edge

IN, MID, OUT = range(3)
EDGES = (
    Edge(IN, GATEWAY, "text", "think", "text", TextDelta, 2),
    Edge(MID, "think", "out", "talk", "text", TextDelta, 2),
    Edge(OUT, "talk", "out", GATEWAY, "speech", TextDelta, 2),
)
THINK, TALK = "think/0.0", "talk/0.0"


class Client:
    """A Gateway with simulated replicas that do only what a test says. ``more``: further fields of the Topology."""

    def __init__(
        self, *, slots: int = 4, max_requests: int = 4, queue: int = 2, replicas: bool = True, **more: Any
    ) -> None:
        hosts, room = {"think": "think", "talk": "talk"}, {"think": slots, "talk": 9}
        self.gateway = GatewayCore(Topology(EDGES, hosts, room, max_requests, queue, **more), Address(GATEWAY, "here"))
        self.frames: list[tuple[LinkId, Frame]] = []
        self.events: list[tuple[str, Any]] = []
        for name in (THINK, TALK) if replicas else ():
            self.gateway.replica_up(name.split("/")[0], Address(name, ""), 0.0)

    def submit(self, request: str, *, now: float = 0.0, deadline_s: float = 60.0) -> None:
        self.gateway.submit(Submission(request, ("think", "talk"), ("speech",), "{}", 0, deadline_s), now)
        self.collect()

    def collect(self) -> None:
        self.frames += [(link, frame) for link, frames in self.gateway.outgoing() for frame in frames]
        self.events += self.gateway.events()

    def tick(self, now: float) -> None:
        self.gateway.tick(now)
        self.collect()

    def hear(self, name: str, side: Side, *frames: Frame) -> None:
        for frame in frames:
            self.gateway.receive(LinkId(name, side), frame, 1.0)
        self.collect()

    def close(self, request: str, *names: str, attempt: int = 1) -> None:
        for name in names or (THINK, TALK):
            self.hear(name, Side.CONTROL, Closed(request, attempt, "{}"))

    def comes(self, name: str, now: float = 1.0) -> None:
        self.gateway.replica_up(name.split("/")[0], Address(name, ""), now)
        self.collect()

    def dies(self, name: str, code: Code = Code.REPLICA_DIED, now: float = 1.0) -> None:
        self.gateway.replica_down(name, code, "killed", now)
        self.collect()

    def attempt(self, request: str) -> int:
        """The latest that was opened."""
        return max((frame.attempt for _, frame in self.said(Open) if frame.request == request), default=0)

    def said(self, kind: type) -> list[tuple[str, Any]]:
        return [(link.peer, frame) for link, frame in self.frames if isinstance(frame, kind)]

    def terminal(self, request: str) -> Code | None:
        """The code of the one terminal event."""
        (ended,) = [event for name, event in self.events if name == request and isinstance(event, Ended)]
        return ended.error.code if ended.error else None

    def released(self, request: str) -> bool:
        return any(name == request and isinstance(event, Released) for name, event in self.events)


def word(seq: int, edge: int = OUT, request: str = "a", attempt: int = 1) -> Data:
    return Data(request, attempt, edge, seq, 0.0, (), TextDelta(f"word {seq}"))
