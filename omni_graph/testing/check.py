"""One node under check, over many runs: open requests, run them to the end, look at what is left, compare with alone.

It knows no scenario; those are in node.py and replays.py. The node is one for all runs, as in a replica.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from omni_graph.frames import Data, Frame, LinkId
from omni_graph.node import Node, ports_of
from omni_graph.testing.audit import Audit, RuleBroken, watch
from omni_graph.testing.reach import holds
from omni_graph.testing.run import Choices, NodeRun

Inputs = Mapping[str, Sequence[Any]]
Output = dict[str, list[Any]]
Equal = Callable[[list[Any], list[Any]], bool]


@dataclass(slots=True)
class Alone:
    """What a request sends when nothing disturbs it, and what it chose."""

    output: Output
    choices: Choices = ()


@dataclass(frozen=True, slots=True)
class Replay:
    """What a request is opened with the second time: choices to repeat, and {output: packets that the reader has}."""

    forced: Choices = ()
    accepted: Mapping[str, int] = field(default_factory=dict)


class AuditedRun(NodeRun):
    """A NodeRun that keeps what choices each packet has brought to its reader, and stops at a broken rule."""

    def __init__(self, node: Node, **options: Any) -> None:
        self.audit = Audit(node)
        self.carried: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        super().__init__(watch(node, self.audit), **options)

    def _on_frame(self, link: LinkId, frame: Frame) -> None:
        if isinstance(frame, Data):
            so_far = self.carried.setdefault((frame.request, self._edges[frame.edge].writer_port), [])
            so_far.append((*(so_far[-1] if so_far else ()), *frame.choices))
        super()._on_frame(link, frame)

    def move(self) -> bool:
        moved = super().move()
        if self.audit.broken is not None:
            raise self.audit.broken
        return moved

    def move_some(self, rng: random.Random) -> None:
        """A random number of moves, or until it rests."""
        for _ in range(rng.choice((0, 1, 3, 10, 30, 100))):
            if not self.move():
                return

    def cancel(self, request: str) -> None:
        """Close it half way."""
        self._finished.add(request)
        self.close(request)


class NodeCheck:
    """``node`` and the inputs that all scenarios feed it; ``reference``: what each of them sends alone."""

    def __init__(self, node: Node, inputs: list[Inputs], params: dict[str, Any], equal: Equal) -> None:
        self.node = node
        self.name = type(node).__qualname__
        self.ports = ports_of(type(node))
        self.inputs = inputs
        self.equal = equal
        self.reference: list[Alone] = []
        self._params = params
        self._names = count()

    def company(self) -> list[Inputs]:
        """Several requests: all inputs, or copies of the only one."""
        return self.inputs if len(self.inputs) > 1 else self.inputs * 3

    def alone(self, index: int) -> Alone:
        """The reference of the company's member ``index``."""
        return self.reference[index % len(self.reference)]

    def windows(self, draw: Callable[[], int]) -> dict[str, int]:
        """A window for every port."""
        return {port: draw() for port in (*self.ports.inputs, *self.ports.outputs)}

    def open(
        self, inputs: Sequence[Inputs], *, seed: int = 0, replays: Sequence[Replay] = (), **options: Any
    ) -> tuple[AuditedRun, list[str]]:
        """A new run with one request for each of ``inputs``; with ``replays``, each is opened by its own."""
        run = AuditedRun(self.node, **options)
        names = [f"checked-request-{next(self._names)}" for _ in inputs]
        for name, packets, replay in zip(names, inputs, replays or [Replay()] * len(inputs), strict=True):
            run.open(name, packets, self._params, seed, forced=replay.forced, accepted=replay.accepted)
        return run, names

    def finish(
        self, run: AuditedRun, names: Sequence[str], opened: Sequence[str] | None = None, failed: str = "completes"
    ) -> None:
        """Run to the end, close, and look at what is left. ``failed``: the rule that a request which fails breaks."""
        try:
            run.run()
        except AssertionError as error:
            raise run.audit.broken or RuleBroken("spin", f"{self.name}: {error}") from error
        for failure in run.errors.values():
            raise RuleBroken(failed, f"{self.name} failed a request: {failure}")
        for name in names:
            if not run.complete(name):
                raise RuleBroken("ends", f"{self.name} came to rest without ending its outputs; all input had ended")
            run.close(name)
        run.audit.check_unchanged()
        self.check_closed(opened or names, run)

    def check_closed(self, names: Sequence[str], run: AuditedRun) -> None:
        """The node holds nothing of requests that are closed, and closing them again does no harm."""
        for name in (*names, *names, "never-opened"):
            try:
                self.node.close(name)
            except Exception as error:
                raise RuleBroken("close", f"{self.name}.close raised when it was called again: {error!r}") from error
        held = holds(self.node, set(names), [packet for _, packet, _ in run.audit.packets])
        if held is not None:
            raise RuleBroken("frees", f"{self.name} still holds a closed request: {held}")

    def compare(
        self, rule: str, run: AuditedRun, name: str, alone: Alone, when: str, *, chosen: str = "choose"
    ) -> None:
        """``name`` has sent what it does alone, packets that it skipped included, or ``rule`` is broken; and has chosen the
        same, or ``chosen`` is (empty: not looked at)."""
        for port, expected in alone.output.items():
            ours = _with_skipped(run.outputs[name][port], expected)
            if not self.equal(ours, expected):
                at = next((i for i, (a, b) in enumerate(zip(ours, expected)) if not self.equal([a], [b])), len(ours))
                message = f".{port}: {len(ours)} packets {when}, {len(expected)} alone; the first to differ is {at}"
                raise RuleBroken(rule, self.name + message)
        if chosen and run.audit.choices.get(name, []) != list(alone.choices):
            raise RuleBroken(chosen, f"{self.name} chose otherwise {when} than alone")


def _with_skipped(packets: list[Any], expected: list[Any]) -> list[Any]:
    """``packets`` with what the reader has in place of those that were skipped; the core lets no others be skipped."""
    known = (*expected, *[None] * len(packets))
    return [there if packet is None else packet for packet, there in zip(packets, known)]
