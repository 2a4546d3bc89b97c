"""One request's streams at one end: credit, choices and packets together, still without knowing bytes or time.

Invariant: a packet waits in exactly one place, and its choices are handed on when the node takes it, not before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from omni_graph.choices import ChoiceLedger, ChoiceOrder
from omni_graph.credit import MAX_COUNT, StreamReceiver, StreamSender
from omni_graph.frames import Choice, Credit, Data, EdgeCounts, End, Frame, LinkId, Start, Stop
from omni_graph.wiring import Edge

Emit = Callable[[LinkId, Frame], None]  # how the owner of an end sends what it has to say
OVER = MAX_COUNT  # the limit an end shows once it has sent or seen the End or the Stop: so neither is ever under way unseen


@dataclass(slots=True)
class OutStream:
    """The writer's end of one request's stream on one edge. ``accepted``: packets that the client has from before."""

    request: str
    attempt: int
    edge: Edge
    link: LinkId
    flow: StreamSender = field(default_factory=StreamSender)
    ledger: ChoiceLedger = field(default_factory=ChoiceLedger)
    accepted: int = 0

    def start(self) -> Start:
        """The frame that says: I am here."""
        return Start(self.request, self.attempt, self.edge.number)

    def data(self, packet: Any, now: float) -> Data:
        """The frame for the next packet; None is one that the client has. FlowControlError past the limit."""
        seq = self.flow.send()
        return Data(self.request, self.attempt, self.edge.number, seq, now, self.ledger.carry(), packet)

    def end_if_due(self) -> End | None:
        """The End frame when it may leave now; once."""
        if not self.flow.end_due():
            return None
        return End(self.request, self.attempt, self.edge.number, self.flow.sent, self.ledger.carry())

    def counts(self) -> EdgeCounts:
        """For a Pong."""
        limit = -1 if self.flow.limit is None else self.flow.limit
        over = self.flow.end_sent or self.flow.stopped
        return EdgeCounts(self.edge.number, self.flow.sent, -1, -1, OVER if over else limit)


@dataclass(slots=True)
class InStream:
    """The reader's end of one request's stream on one edge, with the packets that wait to be taken.

    ``started``: the writer has said Start, or more. ``linked``: the writer has made a link, and we have granted over it;
    ``one_clock``: the writer's clock is ours.
    """

    request: str
    attempt: int
    edge: Edge
    link: LinkId
    flow: StreamReceiver
    waiting: deque[tuple[tuple[Choice, ...], Any]] = field(default_factory=deque)
    end_choices: tuple[Choice, ...] = ()
    started: bool = False
    linked: bool = False
    order: ChoiceOrder = field(default_factory=ChoiceOrder)
    one_clock: bool = True

    def credit(self) -> Credit:
        """The promise as it stands; sent at Open if the writer has made a link, and whenever the writer says Start."""
        self.linked = True
        return Credit(self.request, self.attempt, self.edge.number, self.flow.taken, self.flow.limit)

    def stop(self) -> Stop:
        """The frame that says: no more of this."""
        return Stop(self.request, self.attempt, self.edge.number)

    def on_start(self) -> Credit | Stop:
        """The writer is there: answer with the promise, or with Stop when our node has ended."""
        self.started = True
        return self.stop() if self.flow.closed else self.credit()

    def on_data(self, frame: Data) -> bool:
        """A packet arrived; False when it is dropped because the node has ended."""
        self.started = True
        self.flow.on_data(frame.seq)
        self.order.check(frame.choices)
        if self.flow.closed:
            return False
        self.waiting.append((frame.choices, frame.packet))
        return True

    def on_end(self, frame: End) -> None:
        """The writer is done."""
        self.started = True
        self.flow.on_end(frame.count)
        self.order.check(frame.choices)
        self.end_choices = frame.choices

    def take(self) -> tuple[Sequence[Choice], Any, Credit | None]:
        """The next packet, its choices, and the Credit frame that is due now, if one is."""
        grant = self.flow.take()
        choices, packet = self.waiting.popleft()
        return choices, packet, None if grant is None else self.credit()

    def close(self) -> Stop | None:
        """Our node has ended: drop what waits; the Stop frame if the writer still writes.

        None too while there is no link to the writer: its Start will come, and is answered with Stop.
        """
        tell = self.flow.close()
        self.waiting.clear()
        return self.stop() if tell and (self.linked or self.started) else None

    def unlink(self) -> None:
        """The link was lost before the writer has started on it: it will start on another."""
        self.linked = False

    def counts(self) -> EdgeCounts:
        """For a Pong."""
        over = self.flow.closed or self.flow.ended
        return EdgeCounts(self.edge.number, -1, self.flow.received, self.flow.taken, OVER if over else self.flow.limit)
