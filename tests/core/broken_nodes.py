"""Nodes that each break one rule of the Node protocol, and the sound one that they are all made from."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from omni_graph.errors import Code, RequestError
from omni_graph.node import In, Inbox, Out, Outbox
from omni_graph.payload import Array


@dataclass(frozen=True, slots=True)
class Row:
    """A few numbers."""

    max_packet_bytes: ClassVar[int] = 64

    values: Array


@dataclass(frozen=True, slots=True)
class Note:
    """A word about a row."""

    text: str


def row(*numbers: int) -> Row:
    return Row(Array.of(np.array(numbers, dtype=np.int64)))


@dataclass(slots=True)
class Sums:
    """One request: what was added up, the random numbers it draws, and those that it must repeat first."""

    total: int
    draw: random.Random
    forced: deque[int] = field(default_factory=deque)
    notes: int = 0
    heard: bool = False


class Sound:
    """Adds up what it reads and a number it draws: ``sums`` after every row, and a note after every second.

    In a replay it repeats the numbers, and sends no note that its reader has."""

    rows = In(Row)
    sums = Out(Row)
    notes = Out(Note)

    @dataclass(frozen=True)
    class Params:
        """The seed of the draws."""

        seed: int = 0

    def __init__(self) -> None:
        self.requests: dict[str, Sums] = {}

    def open(self, request: str, params: Params) -> None:
        self.requests[request] = Sums(0, random.Random(params.seed))

    def force(self, request: str, choices: Sequence[tuple[int, ...]]) -> None:
        self.requests[request].forced.extend(number for (number,) in choices)

    def close(self, request: str) -> None:
        self.requests.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        worked = False
        for request in inbox.ready(self.rows):
            if self.has_room(outbox, request):
                self.work(request, inbox.take(self.rows, request), outbox)
                worked = True
        for request in inbox.drained(self.rows):
            self.finish(request, outbox)
        return worked

    def has_room(self, outbox: Outbox, request: str) -> bool:
        return min(outbox.room(self.sums, request), outbox.room(self.notes, request)) > 0

    def work(self, request: str, packet: Row, outbox: Outbox) -> None:
        state = self.requests[request]
        drawn = self.draw(state)
        outbox.choose(request, (drawn,))
        state.total += int(packet.values.values.sum()) + drawn
        self.send(request, state, outbox)

    def draw(self, state: Sums) -> int:
        drawn = state.draw.randrange(100)
        return state.forced.popleft() if state.forced else drawn

    def send(self, request: str, state: Sums, outbox: Outbox) -> None:
        outbox.send(self.sums, request, row(state.total))
        state.notes += 1
        if state.notes % 2 == 0 and outbox.skippable(self.notes, request):
            outbox.skip(self.notes, request)
        elif state.notes % 2 == 0:
            outbox.send(self.notes, request, Note(f"{state.notes} rows"))

    def finish(self, request: str, outbox: Outbox) -> None:
        outbox.end(request)


class Greedy(Sound):
    """Takes without room, and keeps what it took."""

    rule = "lookahead"

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, list[Row]] = {}

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for request in inbox.ready(self.rows):
            self.kept.setdefault(request, []).append(inbox.take(self.rows, request))
        for request, rows in self.kept.items():
            while rows and self.has_room(outbox, request):
                self.work(request, rows.pop(0), outbox)
        for request in inbox.drained(self.rows):
            if not self.kept.get(request):
                outbox.end(request)
        return any(self.has_room(outbox, request) for request in inbox.ready(self.rows))

    def close(self, request: str) -> None:
        super().close(request)
        self.kept.pop(request, None)


class Pushy(Sound):
    """Asks for room on one output only."""

    rule = "room"

    def has_room(self, outbox: Outbox, request: str) -> bool:
        return outbox.room(self.notes, request) > 0


class Mistyped(Sound):
    """Sends a payload of another class."""

    rule = "type"

    def send(self, request: str, state: Sums, outbox: Outbox) -> None:
        outbox.send(self.notes, request, row(1))  # type: ignore[arg-type]


class Bulky(Sound):
    """Does not cut its packets by rows."""

    rule = "size"

    def send(self, request: str, state: Sums, outbox: Outbox) -> None:
        outbox.send(self.sums, request, row(*range(9)))


class Endless(Sound):
    """Forgets one of its outputs."""

    rule = "ends"

    def finish(self, request: str, outbox: Outbox) -> None:
        outbox.end(request, self.sums)


class Talkative(Sound):
    """Sends after the end."""

    rule = "ends"

    def finish(self, request: str, outbox: Outbox) -> None:
        outbox.end(request, self.sums)
        outbox.send(self.sums, request, row(0))


class Deaf(Sound):
    """Says that there is nothing more to do when there is: one row of one request a step."""

    rule = "ends"

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        super().step(inbox, outbox)
        return False


class Spinning(Sound):
    """Says that there is always more to do."""

    rule = "spin"

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        super().step(inbox, outbox)
        return True


class Falling(Sound):
    """Fails on good input: the fifth row."""

    rule = "completes"

    def send(self, request: str, state: Sums, outbox: Outbox) -> None:
        super().send(request, state, outbox)
        if state.notes == 5:
            raise RequestError(request, Code.NODE_FAILED, "five is too many")


class Leaking(Sound):
    """Keeps a request's state when it is closed."""

    rule = "frees"

    def close(self, request: str) -> None:
        pass


class Hoarding(Sound):
    """Keeps the last packet, wherever it came from."""

    rule = "frees"

    def work(self, request: str, packet: Row, outbox: Outbox) -> None:
        self.last = packet
        super().work(request, packet, outbox)


class Strict(Sound):
    """Can be closed only once."""

    rule = "close"

    def close(self, request: str) -> None:
        del self.requests[request]


class Haunted(Sound):
    """Goes on about the request it saw first, closed or not."""

    rule = "close"

    def __init__(self) -> None:
        super().__init__()
        self.order: list[int] = []
        self.names: dict[str, str] = {}

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for letter in self.names.values():
            outbox.room(self.sums, "".join(reversed(letter)))
        return super().step(inbox, outbox)

    def work(self, request: str, packet: Row, outbox: Outbox) -> None:
        super().work(request, packet, outbox)
        self.names["first"] = "".join(reversed(request))


class Forgetful(Sound):
    """Mixes up its requests: one total for all of them."""

    rule = "together"

    def __init__(self) -> None:
        super().__init__()
        self.shared = 0

    def open(self, request: str, params: Any) -> None:
        if not self.requests:
            self.shared = 0
        super().open(request, params)

    def work(self, request: str, packet: Row, outbox: Outbox) -> None:
        self.shared += int(packet.values.values.sum())
        self.requests[request].total = self.shared
        outbox.choose(request, (0,))
        self.send(request, self.requests[request], outbox)


class Impatient(Sound):
    """What it sends depends on how much room there is."""

    rule = "same"

    def work(self, request: str, packet: Row, outbox: Outbox) -> None:
        self.requests[request].total += min(3, outbox.room(self.sums, request))
        super().work(request, packet, outbox)


class Overwriting(Sound):
    """Sends a view of a buffer that it goes on writing to."""

    rule = "immutable"

    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros(1, dtype=np.int64)

    def send(self, request: str, state: Sums, outbox: Outbox) -> None:
        self.buffer[0] = state.total
        outbox.send(self.sums, request, Row(Array.of(self.buffer)))


class Late(Sound):
    """Says what it chose after it has sent what depends on it."""

    rule = "choose"

    def work(self, request: str, packet: Row, outbox: Outbox) -> None:
        state = self.requests[request]
        drawn = state.draw.randrange(100)
        state.total += int(packet.values.values.sum()) + drawn
        self.send(request, state, outbox)
        outbox.choose(request, (drawn,))


class Silent(Sound):
    """Does not say which numbers it drew, only that it drew."""

    rule = "choose"

    def work(self, request: str, packet: Row, outbox: Outbox) -> None:
        state = self.requests[request]
        outbox.choose(request, (0,))
        state.total += state.draw.randrange(100)
        self.send(request, state, outbox)


class Tied(Sound):
    """Counts notes only while somebody reads the sums."""

    rule = "unrouted"

    def send(self, request: str, state: Sums, outbox: Outbox) -> None:
        if outbox.routed(self.sums, request):
            super().send(request, state, outbox)


class Stumbling(Sound):
    """Loses its total when an output stops half way."""

    rule = "stop"

    def send(self, request: str, state: Sums, outbox: Outbox) -> None:
        routed = outbox.routed(self.notes, request)
        if state.heard and not routed:
            state.total = 0
        state.heard = routed
        super().send(request, state, outbox)


class Unrepeatable(Sound):
    """Draws, and cannot be told what to draw."""

    rule = "force"
    force = None  # type: ignore[assignment]


class Stubborn(Sound):
    """Says the numbers that it was told, and adds up its own."""

    rule = "replay"

    def work(self, request: str, packet: Row, outbox: Outbox) -> None:
        state = self.requests[request]
        drawn = state.draw.randrange(100)
        outbox.choose(request, (state.forced.popleft() if state.forced else drawn,))
        state.total += int(packet.values.values.sum()) + drawn
        self.send(request, state, outbox)


class Disobedient(Sound):
    """Draws again what it was told to repeat."""

    rule = "replay"

    def draw(self, state: Sums) -> int:
        return state.draw.randrange(100)


class Forgetting(Sound):
    """Goes on drawing from the start after what it repeated: its noise is not a matter of the position."""

    rule = "replay"

    def draw(self, state: Sums) -> int:
        if not state.forced:
            return state.draw.randrange(100)
        return state.forced.popleft()


class Lazy(Sound):
    """Skips the work together with the packet."""

    rule = "skip"

    def work(self, request: str, packet: Row, outbox: Outbox) -> None:
        if outbox.skippable(self.sums, request):
            outbox.choose(request, (self.draw(self.requests[request]),))
            outbox.skip(self.sums, request)
        else:
            super().work(request, packet, outbox)


BROKEN = (
    Greedy,
    Pushy,
    Mistyped,
    Bulky,
    Endless,
    Talkative,
    Deaf,
    Spinning,
    Falling,
    Leaking,
    Hoarding,
    Strict,
    Haunted,
    Forgetful,
    Impatient,
    Overwriting,
    Late,
    Silent,
    Tied,
    Stumbling,
    Unrepeatable,
    Stubborn,
    Disobedient,
    Forgetting,
    Lazy,
)
