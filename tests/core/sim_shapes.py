"""The graph shapes that the simulation runs: chain, omni, diamond, a node that ends early, two readers of one output."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from omni_graph.frames import GATEWAY
from omni_graph.node import Node
from omni_graph.wiring import Edge
from tests.core.sim_nodes import (
    Blocks,
    Chooser,
    FirstFew,
    Front,
    Interleaver,
    Item,
    Relay,
    Talker,
    Thinker,
    Vocoder,
    Zip,
)

CHOOSERS = ("thinker", "talker")  # whose choices Item.needs counts


@dataclass(frozen=True)
class Shape:
    """``nodes``: {name: (factory, {port: source})} in graph order; ``outputs``: {name: source}; a source is node.port.

    ``complete``: {output: the chooser all of whose choices it brings, whatever the schedule}.
    """

    nodes: Mapping[str, tuple[Callable[[], Node], Mapping[str, str]]]
    outputs: Mapping[str, str]
    complete: Mapping[str, str]

    def edges(self, draw: Callable[[], int]) -> tuple[Edge, ...]:
        """The edges, each with a window from ``draw``."""
        ends = [(source, name, port) for name, (_, inputs) in self.nodes.items() for port, source in inputs.items()]
        ends += [(source, GATEWAY, output) for output, source in self.outputs.items()]
        return tuple(
            Edge(number, *source.split("."), reader, port, Item, draw())  # type: ignore[call-arg]
            for number, (source, reader, port) in enumerate(ends)
        )

    def stages(self, outputs: tuple[str, ...]) -> tuple[str, ...]:
        """The stages that ``outputs`` need."""
        needed: set[str] = set()
        todo = [self.outputs[output].split(".")[0] for output in outputs]
        while todo:
            name = todo.pop()
            if name not in needed and name != GATEWAY:
                needed.add(name)
                todo += [source.split(".")[0] for source in self.nodes[name][1].values()]
        return tuple(name for name in self.nodes if name in needed)


IN = f"{GATEWAY}.in"
CHAIN = Shape(
    {"relay": (Relay, {"i": IN}), "thinker": (Chooser, {"i": "relay.o"}), "last": (Relay, {"i": "thinker.o"})},
    {"out": "last.o"},
    {"out": "thinker"},
)
OMNI = Shape(
    {
        "front": (Front, {"i": IN}),
        "ears": (Relay, {"i": "front.audio"}),
        "eyes": (Relay, {"i": "front.vision"}),
        "interleaver": (Interleaver, {"layout": "front.layout", "audio": "ears.o", "vision": "eyes.o"}),
        "thinker": (Thinker, {"i": "interleaver.o"}),
        "talker": (Talker, {"i": "thinker.thought"}),
        "codec": (Blocks, {"i": "talker.o"}),
        "vocoder": (Vocoder, {"i": "codec.o"}),
    },
    {"text": "thinker.text", "speech": "vocoder.o"},
    {"text": "thinker", "speech": "talker"},
)
DIAMOND = Shape(
    {
        "thinker": (Chooser, {"i": IN}),
        "left": (Relay, {"i": "thinker.o"}),
        "right": (Relay, {"i": "thinker.o"}),
        "join": (Zip, {"a": "left.o", "b": "right.o"}),
    },
    {"out": "join.o"},
    {"out": "thinker"},
)
EARLY = Shape(
    {
        "relay": (Relay, {"i": IN}),
        "thinker": (Chooser, {"i": IN}),
        "few": (FirstFew, {"main": "relay.o", "side": "thinker.o"}),
    },
    {"text": "thinker.o", "out": "few.o"},
    {"text": "thinker"},
)
READERS = Shape(
    {
        "thinker": (Chooser, {"i": IN}),
        "all": (Relay, {"i": "thinker.o"}),
        "few": (lambda: FirstFew(2), {"main": "thinker.o", "side": "all.o"}),
    },
    {"text": "thinker.o", "every": "all.o", "some": "few.o"},
    {"text": "thinker", "every": "thinker"},
)
SHAPES = {"chain": CHAIN, "omni": OMNI, "diamond": DIAMOND, "early": EARLY, "readers": READERS}


def conversation(script: int) -> list[Item]:
    """The input packets of one of the conversations that the simulated clients have."""
    draw = random.Random(script)
    return [Item(draw.randrange(1000)) for _ in range(draw.choice((1, 1, 2, 3, 12)))]
