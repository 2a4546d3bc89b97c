"""check_node: holds a node to the rules of the Node protocol, over windows, orders, company, cancels and stops.

One node serves all the runs, as it would in a replica: what one request leaves behind shows in the next. A broken rule is
an AssertionError that names it; a random run names its seed.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from omni_graph.frames import Data, Frame, LinkId
from omni_graph.node import Node, ports_of
from omni_graph.testing.audit import Audit, RuleBroken, watch
from omni_graph.testing.reach import holds
from omni_graph.testing.run import NodeRun

RULES = {
    "same": "the same packets whatever the windows and the order of events",
    "together": "several requests at once give each what it gets alone",
    "lookahead": "without room on any output, at most `lookahead` packets of a request are taken",
    "room": "nothing is sent past its room",
    "type": "packets have the declared type",
    "size": "packets are within max_packet_bytes",
    "ends": "every output is ended, once, and nothing follows",
    "completes": "no request fails on good input",
    "spin": "step does not return True for ever without doing anything",
    "close": "close is idempotent, may come at any moment, and the request is not touched again",
    "frees": "after close neither the request's name nor its packets can be reached from the node",
    "stop": "an output may be stopped at any moment; the others do not change",
    "unrouted": "an output that nobody reads changes nothing on the others",
    "immutable": "a packet never changes once it was sent",
    "choose": "a packet depends on no choice that its stream has not carried; the choices do not depend on the order",
}
Inputs = Mapping[str, Sequence[Any]]
Output = dict[str, list[Any]]
Equal = Callable[[list[Any], list[Any]], bool]


def check_node(
    make: Callable[[], Node],
    inputs: Sequence[Inputs],
    params: Mapping[str, Any] | None = None,
    *,
    seeds: Iterable[int] = range(20),
    equal: Equal = operator.eq,
) -> None:
    """Hold ``make()`` to ``RULES``. ``inputs``: for each of some requests {port: packets}; with one, company is its copies.

    ``params``: values of the node's Params. ``equal(packets, reference)`` compares what one port sent; the default is
    ``==``, to the bit. Raises RuleBroken (an AssertionError) at the first broken rule.
    """
    check = _NodeCheck(make(), list(inputs), dict(params or {}), equal)
    check.alone()
    check.choices_travel()
    check.any_window()
    check.unrouted_outputs()
    for seed in seeds:
        with _named(seed):
            check.any_order(random.Random(seed))
            check.close_at_any_moment(random.Random(seed))
            check.stop_at_any_moment(random.Random(seed))


@contextmanager
def _named(seed: int) -> Any:
    try:
        yield
    except RuleBroken as error:
        error.add_note(f"seed {seed}")
        raise


@dataclass(slots=True)
class _Alone:
    """What a request sends when nothing disturbs it."""

    output: Output
    choices: list[tuple[int, ...]] = field(default_factory=list)


class _Run(NodeRun):
    """A NodeRun that keeps what choices each packet has brought to its reader, and stops at a broken rule."""

    def __init__(self, node: Node, **options: Any) -> None:
        self.audit = Audit(node)
        self.carried: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        self.bare = node
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

    def cancel(self, request: str) -> None:
        self._finished.add(request)
        self.close(request)


class _NodeCheck:
    def __init__(self, node: Node, inputs: list[Inputs], params: dict[str, Any], equal: Equal) -> None:
        self.node = node
        self.name = type(node).__qualname__
        self.ports = ports_of(type(node))
        self.inputs = inputs
        self.params = params
        self.equal = equal
        self.reference: list[_Alone] = []
        self._names = count()

    # ---- scenarios

    def alone(self) -> None:
        """Each request by itself: the reference."""
        for one in self.inputs:
            run, (name,) = self._open([one])
            self._finish(run, [name])
            self.reference.append(_Alone(run.outputs[name], run.audit.choices.get(name, [])))

    def choices_travel(self) -> None:
        """With other seeds of the request, packets may differ only where the choices they bring along do."""
        for one in self.inputs:
            seen: dict[tuple[str, int, tuple[Any, ...]], Any] = {}
            for seed in range(4):
                run, (name,) = self._open([one], seed=seed)
                self._finish(run, [name])
                if run.audit.choices:
                    self._compare_by_choices(run, name, seen)

    def _compare_by_choices(self, run: _Run, name: str, seen: dict[tuple[str, int, tuple[Any, ...]], Any]) -> None:
        for port, packets in run.outputs[name].items():
            for index, packet in enumerate(packets):
                key = (port, index, run.carried[name, port][index])
                if not self.equal([seen.setdefault(key, packet)], [packet]):
                    message = f".{port}: packet {index} differs by the request's seed, but the choices it brings do not"
                    raise RuleBroken("choose", f"{self.name}{message}: choose() comes before the send")

    def any_window(self) -> None:
        """Every port with the same window, from 1 to 8."""
        for window in range(1, 9):
            for one, alone in zip(self.inputs, self.reference, strict=True):
                run, (name,) = self._open([one], windows=dict.fromkeys(self._port_names(), window))
                self._finish(run, [name])
                self._compare("same", run, name, alone, f"with windows of {window}")

    def unrouted_outputs(self) -> None:
        """Only one output is read."""
        for port in self.ports.outputs if len(self.ports.outputs) > 1 else ():
            for one, alone in zip(self.inputs, self.reference, strict=True):
                run, (name,) = self._open([one], outputs=[port])
                self._finish(run, [name])
                only = _Alone({port: alone.output[port]}, alone.choices)
                self._compare("unrouted", run, name, only, f"when only {port} is read", choices=False)

    def any_order(self, rng: random.Random) -> None:
        """All requests at once, any windows, any order of events."""
        run, names = self._open(self._company(), rng=rng, windows=self._windows(lambda: rng.randint(1, 8)))
        self._finish(run, names)
        for index, name in enumerate(names):
            alone = self.reference[index % len(self.reference)]
            self._compare("together", run, name, alone, "in company and a random order")

    def close_at_any_moment(self, rng: random.Random) -> None:
        """One request is cancelled; the others get what they get alone."""
        run, names = self._open(self._company(), rng=rng, windows=self._windows(lambda: rng.randint(1, 3)))
        self._move_some(run, rng)
        gone = rng.randrange(len(names))
        run.cancel(names[gone])
        others = [name for name in names if name != names[gone]]
        self._finish(run, others, names)
        for index, name in enumerate(names):
            if index != gone:
                alone = self.reference[index % len(self.reference)]
                self._compare("close", run, name, alone, "after another request was closed")

    def stop_at_any_moment(self, rng: random.Random) -> None:
        """One output of one request is not read any more."""
        run, names = self._open(self._company(), rng=rng, windows=self._windows(lambda: rng.randint(1, 3)))
        self._move_some(run, rng)
        stopped, port = rng.randrange(len(names)), rng.choice(list(self.ports.outputs))
        run.stop(names[stopped], port)
        self._finish(run, names)
        for index, name in enumerate(names):
            alone = self.reference[index % len(self.reference)]
            expected = dict(alone.output)
            if index == stopped:
                expected[port] = expected[port][: len(run.outputs[name][port])]
            after = f"after {port} was stopped"
            self._compare("stop", run, name, _Alone(expected, alone.choices), after, choices=index != stopped)

    # ---- parts

    def _company(self) -> list[Inputs]:
        return self.inputs if len(self.inputs) > 1 else self.inputs * 3

    def _port_names(self) -> tuple[str, ...]:
        return (*self.ports.inputs, *self.ports.outputs)

    def _windows(self, draw: Callable[[], int]) -> dict[str, int]:
        return {port: draw() for port in self._port_names()}

    def _open(self, inputs: Sequence[Inputs], *, seed: int = 0, **options: Any) -> tuple[_Run, list[str]]:
        run = _Run(self.node, **options)
        names = [f"checked-request-{next(self._names)}" for _ in inputs]
        for name, packets in zip(names, inputs, strict=True):
            run.open(name, packets, self.params, seed)
        return run, names

    def _move_some(self, run: _Run, rng: random.Random) -> None:
        for _ in range(rng.choice((0, 1, 3, 10, 30, 100))):
            if not run.move():
                return

    def _finish(self, run: _Run, names: Sequence[str], opened: Sequence[str] | None = None) -> None:
        """Run to the end, close, and look at what is left."""
        try:
            run.run()
        except AssertionError as error:
            raise run.audit.broken or RuleBroken("spin", f"{self.name}: {error}") from error
        for failed in run.errors.values():
            raise RuleBroken("completes", f"{self.name} failed a request: {failed}")
        for name in names:
            if not run.complete(name):
                raise RuleBroken("ends", f"{self.name} came to rest without ending its outputs; all input had ended")
            run.close(name)
        run.audit.check_unchanged()
        self._check_closed(opened or names, run)

    def _check_closed(self, names: Sequence[str], run: _Run) -> None:
        for name in (*names, *names, "never-opened"):
            try:
                self.node.close(name)
            except Exception as error:
                raise RuleBroken("close", f"{self.name}.close raised when it was called again: {error!r}") from error
        held = holds(self.node, set(names), [packet for _, packet, _ in run.audit.packets])
        if held is not None:
            raise RuleBroken("frees", f"{self.name} still holds a closed request: {held}")

    def _compare(self, rule: str, run: _Run, name: str, alone: _Alone, when: str, *, choices: bool = True) -> None:
        for port, expected in alone.output.items():
            if not self.equal(run.outputs[name][port], expected):
                ours = run.outputs[name][port]
                at = next((i for i, (a, b) in enumerate(zip(ours, expected)) if not self.equal([a], [b])), len(ours))
                message = f".{port}: {len(ours)} packets {when}, {len(expected)} alone; the first to differ is {at}"
                raise RuleBroken(rule, self.name + message)
        if choices and run.audit.choices.get(name, []) != alone.choices:
            raise RuleBroken("choose", f"{self.name} chose otherwise {when} than alone")
