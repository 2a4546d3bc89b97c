"""Flow control of one stream: two counters at each end, and the one promise between them.

The reader promises ``limit`` (absolute, only growing); the writer never sends a packet whose seq is not below it. Credit
returns when the node *takes* a packet, not when it arrives. No socket, no clock, no thread.
Invariant, at any moment of any interleaving: taken <= received <= sent <= limit at the writer <= limit at the reader.
"""

from __future__ import annotations

from omni_graph.errors import FlowControlError

MAX_COUNT = (1 << 63) - 1


class StreamSender:
    """The writer's end. ``limit`` is None until the reader has spoken: nothing, not even an End, leaves before that."""

    __slots__ = ("end_sent", "ended", "limit", "sent", "stopped")

    def __init__(self) -> None:
        self.limit: int | None = None
        self.sent = 0
        self.ended = False
        self.end_sent = False
        self.stopped = False

    @property
    def room(self) -> int:
        """Packets that may be sent now."""
        return 0 if self.limit is None or self.ended else self.limit - self.sent

    def on_credit(self, taken: int, limit: int) -> bool:
        """The reader's promise; True when it made room. Late and repeated ones are harmless; impossible ones are not."""
        if not 0 <= taken <= self.sent or not taken <= limit <= MAX_COUNT:
            raise FlowControlError(f"credit taken={taken} limit={limit} on a stream that has sent {self.sent}")
        if self.limit is not None and limit <= self.limit:
            return False
        self.limit = limit
        return True

    def on_stop(self) -> None:
        """The reader needs no more."""
        self.stopped = True

    def send(self) -> int:
        """Use one packet of room; returns its seq."""
        if self.ended:
            raise FlowControlError(f"a packet after the end of the stream ({self.sent} sent)")
        if self.room <= 0:
            raise FlowControlError(
                f"a packet past the reader's limit {self.limit} ({self.sent} sent): ask room() first"
            )
        self.sent += 1
        return self.sent - 1

    def end(self) -> None:
        """Nothing follows. Repeating it is harmless."""
        self.ended = True

    def end_due(self) -> bool:
        """True once, when the End frame may leave: after the reader's first Credit, never to a reader that has stopped."""
        if not self.ended or self.end_sent or self.stopped or self.limit is None:
            return False
        self.end_sent = True
        return True


class StreamReceiver:
    """The reader's end. Refills at a quarter of the window, so that a busy stream costs one Credit per several packets."""

    __slots__ = ("closed", "count", "limit", "received", "taken", "window")

    def __init__(self, window: int, start: int = 0) -> None:
        if window < 1:
            raise FlowControlError(f"a window of {window} packets: a stream needs at least 1")
        self.window = window
        self.received = 0
        self.taken = 0
        self.limit = start + window
        self.count: int | None = None
        self.closed = False

    @property
    def ended(self) -> bool:
        return self.count is not None

    @property
    def drained(self) -> bool:
        """The writer has ended and everything was taken."""
        return self.count is not None and self.taken == self.count

    def on_data(self, seq: int) -> None:
        """A packet arrived. Out of order, past the limit or after the end: the writer broke the protocol."""
        if seq != self.received:
            raise FlowControlError(f"packet {seq} where {self.received} was due")
        if seq >= self.limit:
            raise FlowControlError(f"packet {seq} past the limit {self.limit}")
        if self.count is not None:
            raise FlowControlError(f"packet {seq} after the end ({self.count} packets)")
        self.received += 1

    def on_end(self, count: int) -> None:
        """The writer has ended after ``count`` packets; another count means that the stream was truncated."""
        if self.count is not None:
            raise FlowControlError("a second end")
        if count != self.received:
            raise FlowControlError(f"the end after {count} packets, {self.received} received")
        self.count = count

    def take(self) -> int | None:
        """The node consumed a packet; the new limit to grant, or None while the writer has enough."""
        if self.taken >= self.received:
            raise FlowControlError("take with no packet waiting: ask ready() first")
        self.taken += 1
        return self._grant()

    def _grant(self) -> int | None:
        due = self.taken + self.window - self.limit
        if self.ended or due < max(1, self.window // 4):
            return None
        self.limit += due
        return self.limit

    def close(self) -> bool:
        """The reader's node has ended. True when the writer must be told to stop."""
        if self.closed:
            return False
        self.closed = True
        return not self.ended
