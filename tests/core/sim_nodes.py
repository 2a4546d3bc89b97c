"""Toy nodes for the simulation: the stages of an omni-modal graph, by arithmetic on integers.

What a node sends depends only on its input and its choices, never on arrival, so any schedule has one right answer. Every
packet says how many choices of the two choosers it depends on, so that an oracle can see them travel.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omni_graph.kinds import MapNode, StreamNode
from omni_graph.node import In, Inbox, NoParams, Out, Outbox
from omni_graph.payload import DEFAULT_WINDOW

TEXT, AUDIO, VISION = range(3)
STOP = 0


@dataclass(frozen=True, slots=True)
class Item:
    """A packet: a number, and how many choices of (thinker, talker) it depends on."""

    value: int
    needs: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Seeded:
    """Params of the nodes that draw."""

    seed: int = 0


def mix(*values: int) -> int:
    """A number that depends on all of ``values`` and their order."""
    out = 17
    for value in values:
        out = (out * 1_000_003 + value) % 2_147_483_647
    return out


def most(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    return max(left[0], right[0]), max(left[1], right[1])


class Toy(ABC):
    """State per request, and ``work`` for each of them in turn; ``work`` says whether it could do something."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}

    def start(self, params: Any) -> Any:
        return {}

    @abstractmethod
    def work(self, request: str, state: Any, inbox: Inbox, outbox: Outbox) -> bool:
        """What this node can do for ``request`` now."""

    def open(self, request: str, params: Any) -> None:
        assert request not in self.requests, f"{request} opened twice"
        self.requests[request] = self.start(params)

    def close(self, request: str) -> None:
        self.requests.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        done = [self.work(request, state, inbox, outbox) for request, state in self.requests.items()]
        return any(done)


class Relay(MapNode[Item, Item]):
    """Another number for each number."""

    i = In(Item)
    o = Out(Item)

    def forward(self, batch: list[Item]) -> list[Item]:
        return [Item(mix(one.value, 3), one.needs) for one in batch]


class Blocks(StreamNode[list[Item], Item, Item]):
    """One number for every two, and for a last one alone: the codec's blocks."""

    i = In(Item)
    o = Out(Item)

    def start(self, params: NoParams) -> list[Item]:
        return []

    def forward(self, states: list[list[Item]], chunks: list[Item]) -> list[Item | None]:
        for state, chunk in zip(states, chunks, strict=True):
            state.append(chunk)
        return [self._block(state) if len(state) == 2 else None for state in states]

    def finish(self, state: list[Item]) -> Item | None:
        return self._block(state) if state else None

    def _block(self, state: list[Item]) -> Item:
        block = Item(mix(*(one.value for one in state)), state[-1].needs)
        state.clear()
        return block


Draw = Callable[[int, int, int], int]  # (seed, index of the choice, how many to choose from) -> the choice


def draw_by_seed(seed: int, index: int, sides: int) -> int:
    """The draw of an undisturbed request: it depends on nothing else."""
    return random.Random(seed * 1062 + index).randrange(sides)  # among the first seeds are long answers and empty ones


class Choosing(Toy):
    """Chooses by ``draw``, which the simulation may replace, and repeats what it is told in a replay."""

    Params = Seeded

    def __init__(self) -> None:
        super().__init__()
        self.draw: Draw = draw_by_seed

    def start(self, params: Seeded) -> Any:
        return {"seed": params.seed, "forced": (), "history": 1, "count": 0, "thinker": 0}

    def force(self, request: str, choices: tuple[tuple[int, ...], ...]) -> None:
        self.requests[request]["forced"] = choices

    def choose(self, request: str, sides: int, outbox: Outbox) -> int:
        state = self.requests[request]
        forced, index = state["forced"], state["count"]
        chosen: int = forced[index][0] if index < len(forced) else self.draw(state["seed"], index, sides)
        outbox.choose(request, (chosen,))
        state["count"] += 1
        return chosen


class Chooser(Choosing):
    """Reads the whole prompt, then draws tokens until it draws the stop; every token depends on all before it."""

    i = In(Item)
    o = Out(Item)
    lookahead = 1 << 30

    def work(self, request: str, state: Any, inbox: Inbox, outbox: Outbox) -> bool:
        if request in inbox.ready(self.i):
            state["history"] = mix(state["history"], inbox.take(self.i, request).value)
            return True
        if request not in inbox.drained(self.i) or outbox.room(self.o, request) <= 0:
            return False
        token = self.choose(request, 9, outbox)
        if token == STOP:
            outbox.end(request)
            return True
        state["history"] = mix(state["history"], token)
        outbox.send(self.o, request, Item(state["history"], (state["count"], 0)))
        return True


@dataclass(slots=True)
class Script:
    """What the toy frontend reads from a conversation: the order of its pieces, and the arms."""

    packets: dict[str, list[Item]]
    sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ARMS, 0))
    ended: set[str] = field(default_factory=set)


ARMS = ("layout", "vision", "audio")
KIND_OF_ARM = {"audio": AUDIO, "vision": VISION}


def order_of(seed: int) -> list[int]:
    """The kinds of a conversation's pieces. One in four is all vision first, then all audio."""
    draw = random.Random(seed)
    audio, vision = draw.choice(((0, 0), (1, 2), (3, 0), (2, 5), (4, 3)))
    if draw.random() < 0.25:
        return [TEXT] + [VISION] * 2 * vision + [AUDIO] * 2 * audio
    order = [TEXT, TEXT] + [AUDIO] * audio + [VISION] * vision
    draw.shuffle(order)
    return order


class Front(Toy):
    """The frontend: reads the conversation, then serves its three arms, each on its own demand."""

    i = In(Item)
    layout = Out(Item)
    audio = Out(Item)
    vision = Out(Item)
    lookahead = 1 << 30

    def start(self, params: NoParams) -> Any:
        return []

    def script(self, read: list[int]) -> Script:
        order = order_of(mix(*read))
        packets = {"layout": [Item(kind) for kind in order]}
        for arm, kind in KIND_OF_ARM.items():
            spare = order.count(kind) and read[0] % 3 == 0  # one chunk more than the layout has: it is stopped
            packets[arm] = [Item(mix(kind, n, *read)) for n in range(order.count(kind) + bool(spare))]
        return Script(packets)

    def work(self, request: str, state: Any, inbox: Inbox, outbox: Outbox) -> bool:
        if isinstance(state, Script):
            return self.serve(request, state, outbox)
        if request in inbox.ready(self.i):
            state.append(inbox.take(self.i, request).value)
            return True
        if request in inbox.drained(self.i):
            self.requests[request] = self.script(state)
            return True
        return False

    def serve(self, request: str, script: Script, outbox: Outbox) -> bool:
        return any([self.advance(arm, request, script, outbox) for arm in ARMS])

    def advance(self, arm: str, request: str, script: Script, outbox: Outbox) -> bool:
        port, packets = getattr(self, arm), script.packets[arm]
        if arm in script.ended or len(script.ended) == len(ARMS):
            return False
        if script.sent[arm] == len(packets):
            script.ended.add(arm)
            outbox.end(request, port)
            return True
        if outbox.room(port, request) <= 0:
            return False
        outbox.send(port, request, packets[script.sent[arm]])
        script.sent[arm] += 1
        return True


class CoupledFront(Front):
    """Planted: the arms of the media advance together, as one reader of a file that only goes forward would have them."""

    def serve(self, request: str, script: Script, outbox: Outbox) -> bool:
        going = [arm for arm in ("audio", "vision") if script.sent[arm] < len(script.packets[arm])]
        blocked = any(outbox.room(getattr(self, arm), request) <= 0 for arm in going)
        arms = ("layout",) if blocked else ARMS
        return any([self.advance(arm, request, script, outbox) for arm in arms])


class Interleaver(Toy):
    """The join: pieces in the layout's order, each kind from its own arm."""

    layout = In(Item)
    audio = In(Item)
    vision = In(Item)
    o = Out(Item)

    def work(self, request: str, state: Any, inbox: Inbox, outbox: Outbox) -> bool:
        if outbox.room(self.o, request) <= 0:
            return False
        if "kind" not in state:
            if request in inbox.ready(self.layout):
                state["kind"] = inbox.take(self.layout, request).value
            elif request in inbox.drained(self.layout):
                outbox.end(request)
                return True
            else:
                return False
        if state["kind"] == TEXT:
            outbox.send(self.o, request, Item(mix(state.pop("kind"))))
            return True
        port = self.audio if state["kind"] == AUDIO else self.vision
        assert request not in inbox.drained(port), "an arm ended before the layout did"
        if request not in inbox.ready(port):
            return False
        outbox.send(self.o, request, Item(mix(state.pop("kind"), inbox.take(port, request).value)))
        return True


class Thinker(Choosing):
    """Prompt to text and thoughts: a thought for every piece and token, text for two tokens of three."""

    i = In(Item)
    text = Out(Item)
    thought = Out(Item)

    def work(self, request: str, state: Any, inbox: Inbox, outbox: Outbox) -> bool:
        if outbox.room(self.text, request) <= 0 or outbox.room(self.thought, request) <= 0:
            return False
        if request in inbox.ready(self.i):
            state["history"] = mix(state["history"], inbox.take(self.i, request).value)
            outbox.send(self.thought, request, Item(0))
            return True
        if request not in inbox.drained(self.i):
            return False
        token = self.choose(request, 9, outbox)
        if token == STOP:
            outbox.end(request)
            return True
        state["history"] = mix(state["history"], token)
        item = Item(state["history"], (state["count"], 0))
        outbox.send(self.thought, request, item)
        if token % 3:
            outbox.send(self.text, request, item)
        return True


class Talker(Choosing):
    """A code for every thought, and a few more after the last; it may stop while the thinker still writes."""

    i = In(Item)
    o = Out(Item)

    def start(self, params: Seeded) -> Any:
        return {**super().start(params), "seed": params.seed + 99}

    def work(self, request: str, state: Any, inbox: Inbox, outbox: Outbox) -> bool:
        if outbox.room(self.o, request) <= 0:
            return False
        if request in inbox.ready(self.i):
            thought = inbox.take(self.i, request)
            state["thinker"] = max(state["thinker"], thought.needs[0])
            if thought.needs[0] == 0:
                return True
        elif request not in inbox.drained(self.i):
            return False
        code = self.choose(request, 12, outbox)
        if code == STOP:
            outbox.end(request)
            return True
        outbox.send(self.o, request, Item(mix(code, state["thinker"]), (state["thinker"], state["count"])))
        return True


class Vocoder(Toy):
    """A number for each number and the one before it; what the client has it does not compute again."""

    i = In(Item)
    o = Out(Item)

    def work(self, request: str, state: Any, inbox: Inbox, outbox: Outbox) -> bool:
        if outbox.room(self.o, request) <= 0:
            return False
        if request in inbox.ready(self.i):
            item = inbox.take(self.i, request)
            if outbox.skippable(self.o, request):
                outbox.skip(self.o, request)
            else:
                outbox.send(self.o, request, Item(mix(state.get("before", 0), item.value), item.needs))
            state["before"] = item.value
            return True
        if request in inbox.drained(self.i):
            outbox.end(request)
            return True
        return False


class Zip(Toy):
    """One of each arm makes one; the arms tell the same story."""

    a = In(Item)
    b = In(Item)
    o = Out(Item)

    def work(self, request: str, state: Any, inbox: Inbox, outbox: Outbox) -> bool:
        if outbox.room(self.o, request) <= 0:
            return False
        if request in inbox.ready(self.a) and request in inbox.ready(self.b):
            a, b = inbox.take(self.a, request), inbox.take(self.b, request)
            assert a.needs == b.needs, "the arms differ"
            outbox.send(self.o, request, Item(mix(a.value, b.value), most(a.needs, b.needs)))
            return True
        if request in inbox.drained(self.a) and request in inbox.drained(self.b):
            outbox.end(request)
            return True
        return False


class FirstFew(Toy):
    """Copies ``main``, never looks at ``side``, and ends with the main's end, or after ``most`` packets."""

    main = In(Item)
    side = In(Item)
    o = Out(Item)

    def __init__(self, most: int = DEFAULT_WINDOW) -> None:
        super().__init__()
        self.most = most

    def work(self, request: str, state: Any, inbox: Inbox, outbox: Outbox) -> bool:
        if state.get("sent", 0) == self.most or request in inbox.drained(self.main):
            outbox.end(request)
            return True
        if request not in inbox.ready(self.main) or outbox.room(self.o, request) <= 0:
            return False
        item = inbox.take(self.main, request)
        state["sent"] = state.get("sent", 0) + 1
        outbox.send(self.o, request, Item(mix(item.value, 5), item.needs))
        return True
