"""What may happen to a request that runs twice: its choices are forced, and its reader has some packets from before.

Run after the scenarios of requests that run once: a node that does not repeat itself there cannot be replayed either.
"""

from __future__ import annotations

import random

from omni_graph.testing.audit import RuleBroken
from omni_graph.testing.check import Alone, Inputs, NodeCheck, Replay

OTHER_SEED = 1


def check_replays(check: NodeCheck) -> None:
    """Every prefix of the choices, all of them against another seed, and every number of packets that the reader has."""
    chooses = any(alone.choices for alone in check.reference)
    if chooses and getattr(check.node, "force", None) is None:
        raise RuleBroken("force", f"{check.name} chooses, and has no force(request, choices)")
    for one, alone in zip(check.inputs, check.reference, strict=True):
        if alone.choices:
            _every_prefix(check, one, alone)
            _against_the_seed(check, one, alone)
        _every_start(check, one, alone)


def _every_prefix(check: NodeCheck, one: Inputs, alone: Alone) -> None:
    """All at once: each goes on by itself where its choices end."""
    replays = [Replay(alone.choices[:count]) for count in range(len(alone.choices) + 1)]
    run, names = check.open([one] * len(replays), replays=replays)
    check.finish(run, names, failed="replay")
    for count, name in enumerate(names):
        when = f"with the first {count} of {len(alone.choices)} choices forced"
        check.compare("replay", run, name, alone, when, chosen="replay")


def _against_the_seed(check: NodeCheck, one: Inputs, alone: Alone) -> None:
    """Another seed would choose otherwise: what comes out follows the forced choices alone."""
    run, (name,) = check.open([one], seed=OTHER_SEED, replays=[Replay(alone.choices)])
    check.finish(run, [name], failed="replay")
    check.compare("replay", run, name, alone, "with all choices forced against another seed", chosen="replay")


def _every_start(check: NodeCheck, one: Inputs, alone: Alone) -> None:
    """The reader has the first packets of every output."""
    most = max(map(len, alone.output.values()))
    replays = [
        Replay(alone.choices, {port: min(count, len(packets)) for port, packets in alone.output.items()})
        for count in range(1, most + 1)
    ]
    run, names = check.open([one] * len(replays), replays=replays)
    check.finish(run, names, failed="skip")
    for count, name in enumerate(names, 1):
        check.compare("skip", run, name, alone, f"where the reader has {count} of each output", chosen="skip")


def replay_at_any_moment(check: NodeCheck, rng: random.Random) -> None:
    """Requests are lost half way and opened again with what had reached their reader by then."""
    inputs = check.company()
    lost, names = check.open(inputs, rng=rng, windows=check.windows(lambda: rng.randint(1, 8)))
    lost.move_some(rng)
    replays = [
        Replay(lost.choices(name), {port: len(packets) for port, packets in lost.outputs[name].items()})
        for name in names
    ]
    for name in names:
        lost.cancel(name)
    run, names = check.open(inputs, rng=rng, windows=check.windows(lambda: rng.randint(1, 8)), replays=replays)
    check.finish(run, names, failed="replay")
    for index, name in enumerate(names):
        when = "opened again after it was lost half way"
        check.compare("replay", run, name, check.alone(index), when, chosen="replay")
