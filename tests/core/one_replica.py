"""A replica of one node by itself, fed and read by hand, for tests that go frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omni_graph.core import CONTROL, WorkerCore
from omni_graph.errors import Code, FatalNodeError, RequestError
from omni_graph.frames import Address, Credit, Data, EdgeEnds, Frame, LinkId, Open, Report, Side
from omni_graph.node import UNLIMITED, In, Inbox, NoParams, Out, Outbox
from omni_graph.payload import TextDelta
from omni_graph.testing.silent import SilentObserver
from omni_graph.wiring import Edge

TEXT, HINT, SAID, ASIDE, INNER = range(5)
ME, UP, DOWN = Address("me/0.0", ""), Address("up/0.0", ""), Address("down/0.0", "")
FROM_UP, TO_DOWN = LinkId(UP.name, Side.READS), LinkId(DOWN.name, Side.WRITES)


class Echo:
    """Copies ``text`` to ``said``; ``hint`` may be left unwired. A word is also a command: see ``obey``."""

    text = In(TextDelta)
    hint = In(TextDelta, optional=True)
    said = Out(TextDelta)
    aside = Out(TextDelta)

    def __init__(self) -> None:
        self.log: list[str] = []
        self.requests: set[str] = set()
        self.close_fails = False

    def open(self, request: str, params: NoParams) -> None:
        self.log.append(f"open {request}")
        if request == "unwelcome":
            raise RequestError(request, Code.INVALID_INPUT, "not this one")
        self.requests.add(request)

    def close(self, request: str) -> None:
        self.log.append(f"close {request}")
        self.requests.discard(request)
        if self.close_fails:
            raise ValueError("cannot close")

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for request in inbox.ready(self.text):
            if outbox.room(self.said, request) > 0:
                self.obey(inbox.take(self.text, request), request, outbox)
        for request in inbox.drained(self.text):
            if request in inbox.drained(self.hint):
                outbox.end(request)
        return any(outbox.room(self.said, request) > 0 for request in inbox.ready(self.text))

    def obey(self, packet: TextDelta, request: str, outbox: Outbox) -> None:
        word = packet.text
        if word in ERRORS:
            raise ERRORS[word](request)
        if word == "choose":
            outbox.choose(request, (7,))
        if word == "end said, then look at aside":
            outbox.end(request, self.said)
            self.log.append(f"{request} still has room {outbox.room(self.aside, request) == UNLIMITED}")
            outbox.send(self.aside, request, packet)
            return
        outbox.send(self.said, request, packet)
        if word == "enough":
            outbox.end(request)


def out_of_memory(request: str) -> Exception:
    return type("OutOfMemoryError", (RuntimeError,), {})("device")


ERRORS = {
    "bug": lambda request: ValueError("a bug"),
    "mine": lambda request: RequestError(request, Code.NUMERIC, "nan"),
    "elsewhere": lambda request: RequestError("nobody", Code.NUMERIC, "nan"),
    "fatal": lambda request: FatalNodeError("no device"),
    "memory": lambda request: MemoryError(),
    "cuda": lambda request: RuntimeError("CUDA error: an illegal memory access"),
    "device memory": out_of_memory,
}


@dataclass
class Replica:
    """A WorkerCore with one Echo, fed by ``up`` and read by ``down``."""

    node: Echo
    core: WorkerCore

    def open(self, request: str = "a", *, edges: tuple[int, ...] = (TEXT, SAID), **fields: Any) -> None:
        ends = {TEXT: (UP, ME), HINT: (UP, ME), SAID: (ME, DOWN), ASIDE: (ME, DOWN)}
        values = {"attempt": 1, "params": "{}", "seed": 0, "age_s": 0.0, "deadline_s": 60.0, **fields}
        self.core.receive(CONTROL, Open(request, edges=tuple(EdgeEnds(n, *ends[n]) for n in edges), **values))

    def feed(self, *words: str, request: str = "a", start: int = 0) -> None:
        for seq, text in enumerate(words, start):
            self.core.receive(FROM_UP, Data(request, 1, TEXT, seq, 0.0, (), TextDelta(text)))

    def grant(self, request: str = "a", limit: int = 8, edge: int = SAID) -> None:
        self.core.receive(TO_DOWN, Credit(request, 1, edge, 0, limit))

    def run(self) -> None:
        for _ in range(100):
            if not self.core.awake:
                return
            self.core.step()
        raise AssertionError("it spins")

    def said(self) -> dict[LinkId, list[Frame]]:
        return dict(self.core.outgoing())

    def reports(self) -> list[tuple[str, Code]]:
        return [(f.request, f.code) for f in self.said().get(CONTROL, []) if isinstance(f, Report)]


def one_replica() -> Replica:
    edges = [
        Edge(TEXT, "up", "o", "me", "text", TextDelta, 4),
        Edge(HINT, "up", "p", "me", "hint", TextDelta, 4),
        Edge(SAID, "me", "said", "down", "i", TextDelta, 4),
        Edge(ASIDE, "me", "aside", "down", "j", TextDelta, 4),
    ]
    node = Echo()
    return Replica(node, WorkerCore("me/0.0", {"me": node}, edges, clock=lambda: 5.0, observer=SilentObserver()))


def texts(frames: list[Frame]) -> list[str]:
    return [frame.packet.text for frame in frames if isinstance(frame, Data)]
