"""The frames of the link protocol, as values. Nothing here knows bytes, sockets or time.

Control frames travel between the Gateway and a replica; edge frames between the two replicas of an edge; link frames on
any link. Every frame that names a request carries its attempt: frames of another attempt are dropped and counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from omni_graph.errors import Code

PROTOCOL_VERSION = 1
GATEWAY = "gateway"


class Choice(NamedTuple):
    """A decision of a node for one request; ``index`` counts from 0 per node and request."""

    node: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nothing calls
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """One incarnation of a replica (``thinker/0.2``: replica 0, third life) or the Gateway, and how to reach it."""

    name: str
    endpoint: str
    public_key: str = ""

    @property
    def machine(self) -> str:
        """Its own among several machines, by the tcp address that the others call; empty where there is no other."""
        called = re.search(r"tcp://([^:/ ]+)", self.endpoint)
        return called[1] if called else ""


@dataclass(frozen=True, slots=True)
class EdgeEnds:
    """Both ends of one edge on a Route."""

    edge: int
    writer: Address
    reader: Address

    @property
    def one_clock(self) -> bool:
        """Both are on one machine, and so read the same monotonic clock; another machine counts from its own start."""
        return self.writer.machine == self.reader.machine


# ---- control: Gateway -> replica


@dataclass(frozen=True, slots=True)
class Open:
    """A request was routed here. Once per (request, attempt) and replica.

    ``params`` is JSON: {node: {name: value}}. ``age_s``: seconds since the Gateway accepted the request; ``deadline_s``:
    seconds left. ``forced``: choices to repeat. ``accepted``: (edge, packets) that the client already has, per output.
    """

    request: str
    attempt: int
    edges: tuple[EdgeEnds, ...]
    params: str
    seed: int
    age_s: float
    deadline_s: float
    traceparent: str = ""
    forced: tuple[Choice, ...] = ()
    accepted: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """The request completed: forget it. Answered with Closed."""

    request: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The request ended otherwise: forget it. ``peer`` names the other end of a lost link. Answered with Closed."""

    request: str
    attempt: int
    code: Code
    stage: str = ""
    message: str = ""
    peer: str = ""


# ---- control: replica -> Gateway


@dataclass(frozen=True, slots=True)
class Report:
    """A worker tells; the Gateway alone decides. ``code`` is link_lost (with ``peer``) or why the request failed."""

    request: str
    attempt: int
    code: Code
    stage: str = ""
    message: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Closed:
    """The replica has forgotten the request. ``timings`` is JSON: what each of its stages spent (observe/timing.py)."""

    request: str
    attempt: int
    timings: str


# ---- edges


@dataclass(frozen=True, slots=True)
class Start:
    """A writer says so when it opens; the reader answers Credit, or Stop when its node has ended."""

    request: str
    attempt: int
    edge: int


@dataclass(frozen=True, slots=True)
class Data:
    """One packet; ``seq`` from 0 without gaps. ``packet`` None: skipped, the client already has what it leads to.

    ``sent_at``: seconds on the monotonic clock of the writer's machine; ``choices`` are those it depends on that this
    stream has not carried yet.
    """

    request: str
    attempt: int
    edge: int
    seq: int
    sent_at: float
    choices: tuple[Choice, ...]
    packet: Any


@dataclass(frozen=True, slots=True)
class Credit:
    """The reader's promise, absolute and only growing: packets with seq < ``limit`` may be sent."""

    request: str
    attempt: int
    edge: int
    taken: int
    limit: int


@dataclass(frozen=True, slots=True)
class End:
    """The stream is complete after ``count`` packets. Needs no room."""

    request: str
    attempt: int
    edge: int
    count: int
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True)
class Stop:
    """The reader needs no more of this stream."""

    request: str
    attempt: int
    edge: int


# ---- any link


@dataclass(frozen=True, slots=True)
class Hello:
    """First on every link, from both ends. A mismatch of version or wiring is refused with both values."""

    version: int
    wiring: str
    name: str


class Leaving(StrEnum):
    DRAINING = "draining"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Goaway:
    """An announced end: what follows on this link is not a loss."""

    reason: Leaving


@dataclass(frozen=True, slots=True)
class Ping:
    clock: float


class EdgeCounts(NamedTuple):
    """One stream's counters as one end sees them; -1 where that end does not know.

    ``limit`` is 2**63 - 1 at an end that has sent or seen the stream's End or Stop.
    """

    edge: int
    sent: int
    received: int
    taken: int
    limit: int


class RequestState(NamedTuple):
    request: str
    attempt: int
    idle: bool
    edges: tuple[EdgeCounts, ...]


@dataclass(frozen=True, slots=True)
class Pong:
    """Answer to a Ping; on control links with the state of every open request."""

    clock: float
    requests: tuple[RequestState, ...] = ()


EdgeFrame = Start | Data | Credit | End | Stop
ControlFrame = Open | Close | Reset | Report | Closed
LinkFrame = Hello | Goaway | Ping | Pong
Frame = ControlFrame | EdgeFrame | LinkFrame

# ---- links, as the core sees them


class Side(StrEnum):
    """What the owner of a link does on it."""

    CONTROL = "control"
    WRITES = "writes"
    READS = "reads"


class LinkId(NamedTuple):
    """A link of ours: the peer's Address name, and our side. WRITES: we opened it and send it Data; READS: the reverse."""

    peer: str
    side: Side


@dataclass(frozen=True, slots=True)
class LinkLost:
    """Not a frame: the link has ended. ``announced``: after a Goaway(closing), so nothing is missing."""

    reason: str
    announced: bool = False


class Links(Protocol):
    """All links of one worker or Gateway, behind one poll. One thread uses it; only ``wake`` may be called by others.

    The writer of an edge, and the Gateway for control, opens a link on first use; FIFO per link and direction. A link never
    reconnects: once lost it stays lost, and a later send to the same peer and side opens a new one. Hello is exchanged by
    the implementation and is not delivered.
    """

    address: Address

    def introduce(self, address: Address) -> None:
        """How to reach a peer, before the first send to it. Repeating it is harmless."""

    def poll(self, timeout: float) -> list[tuple[LinkId, Sequence[Frame | LinkLost]]]:
        """What has arrived; blocks up to ``timeout`` seconds (0: not at all) while there is nothing, or until wake()."""

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        """Send in order; never blocks. To a link that is lost or cannot be opened: LinkLost comes out of poll."""

    def drop(self, link: LinkId) -> None:
        """End a link without waiting; the peer sees LinkLost. Unknown links are ignored. No LinkLost is delivered here."""

    def wake(self) -> None:
        """Make a blocked poll return. Thread-safe."""

    def close(self, drain_s: float) -> None:
        """Goaway(closing) on every link, give what was sent up to ``drain_s`` seconds to leave, free everything."""
