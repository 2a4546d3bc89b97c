"""The scheduler with integers: who advances, how far, and that KV memory never wedges requests that could finish."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from omni_nodes.engine.scheduler import Candidate, Grant, Plan, Scheduler


def scheduler(max_batch: int = 4, prefill_chunk: int = 64, blocks: int = 1000, block_size: int = 16) -> Scheduler:
    return Scheduler(max_batch=max_batch, prefill_chunk=prefill_chunk, blocks=blocks, block_size=block_size)


def test_decode_goes_first_and_outside_the_prompt_budget() -> None:
    plan = scheduler(prefill_chunk=10).plan(
        [Candidate("long", 500, 0, 500), Candidate("a", 1, 20, 40), Candidate("b", 1, 20, 40)]
    )
    assert plan.grants == (Grant("a", 1), Grant("b", 1), Grant("long", 10))


def test_the_prompt_budget_is_shared_oldest_first() -> None:
    plan = scheduler().plan([Candidate("a", 40, 0, 50), Candidate("b", 40, 0, 50), Candidate("c", 40, 0, 50)])
    assert plan.grants == (Grant("a", 40), Grant("b", 24))


def test_a_request_without_room_keeps_its_place_and_gets_nothing() -> None:
    plan = scheduler().plan([Candidate("paused", 0, 20, 40), Candidate("b", 1, 20, 40)])
    assert plan == Plan((Grant("b", 1),))


def test_a_step_has_at_most_max_batch_requests() -> None:
    plan = scheduler(max_batch=3).plan([Candidate(str(n), 1, 8, 20) for n in range(5)])
    assert [grant.request for grant in plan.grants] == ["0", "1", "2"]


def test_a_newcomer_waits_while_an_older_one_is_starved_of_blocks() -> None:
    """Or small requests would keep a large one out for ever."""
    plan = scheduler(blocks=10, block_size=1).plan(
        [Candidate("running", 1, 3, 4), Candidate("big", 9, 0, 9), Candidate("small", 2, 0, 2)]
    )
    assert plan.grants == (Grant("running", 1),)
    assert plan.starved == ("big", "small")


def test_blocks_are_not_handed_out_where_nobody_could_finish() -> None:
    """Two requests of four rows each and six blocks: three each would wedge both."""
    holders = [Candidate("a", 1, 3, 4), Candidate("b", 1, 2, 4)]
    plan = scheduler(blocks=6, block_size=1).plan(holders)
    assert plan.grants == (Grant("a", 1),)
    assert plan.starved == ("b",)
    assert plan.victim == ""


def test_prompts_that_outgrew_the_pool_give_up_the_youngest() -> None:
    plan = scheduler(blocks=6, block_size=1).plan([Candidate("a", 1, 3, 9), Candidate("b", 1, 3, 9)])
    assert plan == Plan((), ("a", "b"), "b")


def test_nobody_is_given_up_while_a_paused_request_could_still_finish() -> None:
    plan = scheduler(blocks=6, block_size=1).plan([Candidate("paused", 0, 3, 4), Candidate("b", 1, 3, 6)])
    assert plan == Plan((), ("b",), "")


@dataclass
class _Sim:
    prompt: int
    reply: int
    cached: int = 0

    @property
    def claim(self) -> int:
        return self.prompt + self.reply

    @property
    def ready(self) -> int:
        return self.prompt - self.cached if self.cached < self.prompt else 1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30)), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 32),
    st.integers(1, 8),
    st.integers(0, 20),
    st.integers(0, 1000),
)
def test_every_request_finishes_in_any_pool_that_holds_the_largest(
    shapes: list[tuple[int, int]], max_batch: int, chunk: int, block_size: int, spare: int, seed: int
) -> None:
    """Whatever requests are paused in between: the pool is never exceeded, nobody is given up, all finish."""
    rng = random.Random(seed)
    blocks = spare + max(-(-(prompt + reply) // block_size) for prompt, reply in shapes)
    one = scheduler(max_batch, chunk, blocks, block_size)
    running = {str(n): _Sim(*shape) for n, shape in enumerate(shapes)}
    while running:
        paused = {request for request in running if rng.random() < 0.3}
        plan = one.plan([Candidate(r, 0 if r in paused else s.ready, s.cached, s.claim) for r, s in running.items()])
        assert not plan.victim
        assert plan.grants or paused  # with nobody paused, somebody advances
        assert len(plan.grants) <= max_batch
        for grant in plan.grants:
            assert 1 <= grant.rows <= running[grant.request].ready
            running[grant.request].cached += grant.rows
        assert sum(-(-s.cached // block_size) for s in running.values()) <= blocks
        running = {request: sim for request, sim in running.items() if sim.cached < sim.claim}
