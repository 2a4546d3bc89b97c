"""Whole graphs under random schedules and faults: 5,000 seeds and more, and every planted fault found.

A failure prints its seed and its setting. To see it again: ``simulate(SEED, SETTING)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import pytest

from omni_graph.errors import Code
from tests.core import sim_planted_replay
from tests.core.sim_nodes import VISION, CoupledFront, mix, order_of
from tests.core.sim_oracle import Violation
from tests.core.sim_planted import PLANTED
from tests.core.sim_setting import SCRIPTS, SEEDS, Setting, poisoned, replaying
from tests.core.sim_shapes import OMNI, SHAPES, Shape, conversation
from tests.core.sim_truth import simulate, undisturbed
from tests.core.simulation import World

SEEDS_A_SHAPE = {"once": 400, "replay": 700, "poison": 60, "soak": 4000}
SEEDS_A_PLANT = 800
assert sim_planted_replay.__name__, "imported for the faults that it plants"


def ends(worlds: Iterable[World]) -> set[Code | None]:
    """The codes with which the requests of these runs ended."""
    clients = (client for world in worlds for client in world.clients.values())
    return {client.ended.error.code if client.ended and client.ended.error else None for client in clients}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_schedule_and_no_fault_breaks_a_rule(shape: str) -> None:
    codes = ends(simulate(seed, Setting(shape)) for seed in range(SEEDS_A_SHAPE["once"]))
    assert {None, Code.CANCELLED, Code.LINK_LOST, Code.REPLICA_DIED, Code.NODE_FAILED, Code.DEADLINE_EXCEEDED} <= codes


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_lost_is_opened_again_and_the_answer_is_that_of_an_undisturbed_run(shape: str) -> None:
    """Packets and counts; one terminal event; nothing left; and with retries left every request completes."""
    codes = ends(simulate(seed, replaying(shape)) for seed in range(SEEDS_A_SHAPE["replay"]))
    assert {None, Code.CANCELLED, Code.LINK_LOST, Code.REPLICA_DIED, Code.DEADLINE_EXCEEDED, Code.POISON} <= codes


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_soak(shape: str) -> None:
    for seed in range(SEEDS_A_SHAPE["soak"]):
        simulate(1_000_000 + seed, replaying(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_poisonous_request_takes_down_three_replicas_at_most_and_its_company_completes(shape: str) -> None:
    """By itself it takes down two; among others it is a suspect like them after two, and kills the third by itself."""
    named = 0
    for seed in range(SEEDS_A_SHAPE["poison"]):
        world = simulate(seed, poisoned(shape))
        assert len(world.oracle.dead) <= 3
        for client in world.clients.values():
            error = client.ended.error if client.ended else None
            named += error is not None and error.code is Code.POISON
            if client.name != "r0" and client.may_repeat and client.deadline_s > 1e8:
                assert error is None, f"seed {seed}: {client.name} ended with {error}"
    assert named > SEEDS_A_SHAPE["poison"] / 2


def test_the_same_seed_is_the_same_run() -> None:
    def story(seed: int) -> list[object]:
        world = simulate(seed, replaying("omni"))
        return [world.now, [(c.name, str(c.ended), c.got) for c in world.clients.values()]]

    assert [story(seed) for seed in range(20)] == [story(seed) for seed in range(20)]


@pytest.fixture(scope="module")
def answers() -> None:
    """The right answers, worked out before anything is planted."""
    for name in {setting.shape for setting, _ in PLANTED.values()}:
        outputs = tuple(SHAPES[name].outputs)
        asked = {outputs, *(tuple(sorted(some)) for n in range(1, len(outputs)) for some in combinations(outputs, n))}
        for some in asked:
            for script in range(SCRIPTS):
                for seed in range(SEEDS):
                    undisturbed(name, script, seed, some)


@pytest.mark.usefixtures("answers")
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str) -> None:
    setting, plant = PLANTED[fault]
    with plant(), pytest.raises(AssertionError) as found:
        for seed in range(SEEDS_A_PLANT):
            simulate(seed, setting)
    assert not isinstance(found.value.__cause__, TypeError | AttributeError), "the plant itself is broken"


def vision_first() -> int:
    """A conversation whose media are not interleaved: all its pictures come before all its sound."""
    for script in range(1000):
        order = order_of(mix(*(item.value for item in conversation(script))))
        if order[1:11] == [VISION] * 10:
            return script
    raise AssertionError("no such conversation")


@pytest.mark.parametrize("window", range(1, 9))
def test_media_that_are_not_interleaved_do_not_wedge_a_frontend_that_serves_each_arm_on_demand(window: int) -> None:
    for seed in range(10):
        world = World(seed, Setting("omni", calm=True, window=window))
        client = world.add_client("r", vision_first(), seed, ("text", "speech"))
        world.run()
        assert client.ended is not None and client.ended.error is None


def test_a_frontend_that_couples_its_arms_wedges_and_the_request_is_failed_with_the_edges_named() -> None:
    coupled = {**OMNI.nodes, "front": (CoupledFront, OMNI.nodes["front"][1])}
    for seed in range(10):
        setting = Setting("omni", calm=True, window=1)
        world = World(seed, setting, shape=Shape(coupled, OMNI.outputs, OMNI.complete))
        client = world.add_client("r", vision_first(), 0, ("text",))
        client.stuck = True
        with pytest.raises(Violation, match="r is stuck"):
            world.run()
        world.let_time_pass(2.0)
        error = client.ended.error if client.ended else None
        assert error is not None and error.code is Code.WEDGED, client.progress()
        assert "front.audio -> ears.i" in error.message
        assert client.released and not any(worker.core.open_requests for worker in world.workers.values())
