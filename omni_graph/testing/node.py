"""check_node: holds a node to the rules of the Node protocol, over windows, orders, company, cancels, stops and replays.

One node serves all the runs, as it would in a replica: what one request leaves behind shows in the next. A broken rule is
an AssertionError that names it; a random run names its seed.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from omni_graph.node import Node
from omni_graph.testing.audit import RuleBroken
from omni_graph.testing.check import Alone, AuditedRun, Equal, Inputs, NodeCheck
from omni_graph.testing.replays import check_replays, replay_at_any_moment

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
    "force": "a node that chooses has force(request, choices), so that it can be replayed",
    "replay": "with any prefix of its choices forced, a node sends the same packets and makes the same choices",
    "skip": "skipping what the reader has changes nothing on the other packets",
}


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
    check = _Scenarios(make(), list(inputs), dict(params or {}), equal)
    seeds = tuple(seeds)
    check.each_alone()
    check.choices_travel()
    check.any_window()
    check.unrouted_outputs()
    for seed in seeds:
        with _named(seed):
            check.any_order(random.Random(seed))
            check.close_at_any_moment(random.Random(seed))
            check.stop_at_any_moment(random.Random(seed))
    check_replays(check)
    for seed in seeds:
        with _named(seed):
            replay_at_any_moment(check, random.Random(seed))


@contextmanager
def _named(seed: int) -> Any:
    try:
        yield
    except RuleBroken as error:
        error.add_note(f"seed {seed}")
        raise


class _Scenarios(NodeCheck):
    """What may happen to requests that run once."""

    def each_alone(self) -> None:
        """Each request by itself: the reference."""
        for one in self.inputs:
            run, (name,) = self.open([one])
            self.finish(run, [name])
            self.reference.append(Alone(run.outputs[name], run.audit.choices.get(name, [])))

    def choices_travel(self) -> None:
        """With other seeds of the request, packets may differ only where the choices they bring along do."""
        for one in self.inputs:
            seen: dict[tuple[str, int, tuple[Any, ...]], Any] = {}
            for seed in range(4):
                run, (name,) = self.open([one], seed=seed)
                self.finish(run, [name])
                if run.audit.choices:
                    self._compare_by_choices(run, name, seen)

    def _compare_by_choices(
        self, run: AuditedRun, name: str, seen: dict[tuple[str, int, tuple[Any, ...]], Any]
    ) -> None:
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
                run, (name,) = self.open([one], windows=dict.fromkeys(self.windows(int), window))
                self.finish(run, [name])
                self.compare("same", run, name, alone, f"with windows of {window}")

    def unrouted_outputs(self) -> None:
        """Only one output is read."""
        for port in self.ports.outputs if len(self.ports.outputs) > 1 else ():
            for one, alone in zip(self.inputs, self.reference, strict=True):
                run, (name,) = self.open([one], outputs=[port])
                self.finish(run, [name])
                only = Alone({port: alone.output[port]}, alone.choices)
                self.compare("unrouted", run, name, only, f"when only {port} is read", chosen="")

    def any_order(self, rng: random.Random) -> None:
        """All requests at once, any windows, any order of events."""
        run, names = self.open(self.company(), rng=rng, windows=self.windows(lambda: rng.randint(1, 8)))
        self.finish(run, names)
        for index, name in enumerate(names):
            alone = self.alone(index)
            self.compare("together", run, name, alone, "in company and a random order")

    def close_at_any_moment(self, rng: random.Random) -> None:
        """One request is cancelled; the others get what they get alone."""
        run, names = self.open(self.company(), rng=rng, windows=self.windows(lambda: rng.randint(1, 3)))
        run.move_some(rng)
        gone = rng.randrange(len(names))
        run.cancel(names[gone])
        others = [name for name in names if name != names[gone]]
        self.finish(run, others, names)
        for index, name in enumerate(names):
            if index != gone:
                alone = self.alone(index)
                self.compare("close", run, name, alone, "after another request was closed")

    def stop_at_any_moment(self, rng: random.Random) -> None:
        """One output of one request is not read any more."""
        run, names = self.open(self.company(), rng=rng, windows=self.windows(lambda: rng.randint(1, 3)))
        run.move_some(rng)
        stopped, port = rng.randrange(len(names)), rng.choice(list(self.ports.outputs))
        run.stop(names[stopped], port)
        self.finish(run, names)
        for index, name in enumerate(names):
            alone = self.alone(index)
            expected = dict(alone.output)
            if index == stopped:
                expected[port] = expected[port][: len(run.outputs[name][port])]
            after = f"after {port} was stopped"
            self.compare(
                "stop", run, name, Alone(expected, alone.choices), after, chosen="" if index == stopped else "choose"
            )
