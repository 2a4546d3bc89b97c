"""The scheduler with integers: who advances, how far, and that KV memory never wedges requests that could finish."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from omni_nodes.engine.blocks import BlockPool
from omni_nodes.engine.scheduler import Candidate, Grant, Plan, Scheduler


def plan(*candidates: Candidate, blocks: int = 1000, size: int = 16, batch: int = 4, chunk: int = 64) -> Plan:
    """A plan where each candidate holds the blocks of its cached rows."""
    pool = BlockPool(blocks, size)
    for candidate in candidates:
        pool.extend(candidate.request, candidate.cached)
    return Scheduler(max_batch=batch, prefill_chunk=chunk).plan(candidates, pool)


def test_decode_goes_first_and_outside_the_prompt_budget() -> None:
    made = plan(Candidate("long", 500, 0, 500), Candidate("a", 1, 20, 40), Candidate("b", 1, 20, 40), chunk=10)
    assert made.grants == (Grant("a", 1), Grant("b", 1), Grant("long", 10))


def test_the_prompt_budget_is_shared_oldest_first() -> None:
    made = plan(Candidate("a", 40, 0, 50), Candidate("b", 40, 0, 50), Candidate("c", 40, 0, 50))
    assert made.grants == (Grant("a", 40), Grant("b", 24))


def test_a_request_without_room_keeps_its_place_and_gets_nothing() -> None:
    assert plan(Candidate("paused", 0, 20, 40), Candidate("b", 1, 20, 40)) == Plan((Grant("b", 1),))


def test_a_step_has_at_most_max_batch_requests() -> None:
    made = plan(*(Candidate(str(n), 1, 8, 20) for n in range(5)), batch=3)
    assert [grant.request for grant in made.grants] == ["0", "1", "2"]


def test_a_newcomer_waits_while_an_older_one_is_starved_of_blocks() -> None:
    """Or small requests would keep a large one out for ever."""
    made = plan(
        Candidate("running", 1, 3, 4), Candidate("big", 9, 0, 9), Candidate("small", 2, 0, 2), blocks=10, size=1
    )
    assert made.grants == (Grant("running", 1),)
    assert made.starved == ("big", "small")


def test_blocks_are_not_handed_out_where_nobody_could_finish() -> None:
    """Two requests of four rows each and six blocks: three each would wedge both."""
    made = plan(Candidate("a", 1, 3, 4), Candidate("b", 1, 2, 4), blocks=6, size=1)
    assert made == Plan((Grant("a", 1),), ("b",))


def test_prompts_that_outgrew_the_pool_give_up_the_youngest() -> None:
    made = plan(Candidate("a", 1, 3, 9), Candidate("b", 1, 3, 9), blocks=6, size=1)
    assert made == Plan((), ("a", "b"), "b")


def test_nobody_is_given_up_while_a_paused_request_could_still_finish() -> None:
    made = plan(Candidate("paused", 0, 3, 4), Candidate("b", 1, 3, 6), blocks=6, size=1)
    assert made == Plan((), ("b",), "")


# ---- blocks found in the cache


def pool_with(blocks: int, rows: dict[str, int], idle: int = 0) -> BlockPool:
    """Blocks of one row, all with a key: ``rows`` held by each request, ``idle`` held by nobody."""
    pool = BlockPool(blocks, 1)
    for request, count in {**rows, "gone": idle}.items():
        pool.extend(request, count)
        for index in range(count):
            pool.seal(request, index, f"{request}{index}".encode())
    pool.release("gone")
    return pool


def found(pool: BlockPool, request: str, count: int) -> tuple[int, ...]:
    hits = pool.match(f"{request}{index}".encode() for index in range(count))
    assert len(hits) == count
    return hits


def test_hits_come_at_once_beside_a_full_batch_and_a_spent_budget() -> None:
    pool = pool_with(20, {"a": 3, "b": 3}, idle=6)
    hits = found(pool, "gone", 6)
    made = Scheduler(max_batch=2, prefill_chunk=1).plan(
        [Candidate("a", 1, 3, 4), Candidate("b", 9, 3, 12), Candidate("c", 9, 0, 10, hits)], pool
    )
    assert made.grants == (Grant("a", 1), Grant("b", 1), Grant("c", 0, hits))


def test_blocks_that_another_request_holds_cost_nothing_more() -> None:
    """Four rows free: a newcomer of eight fits where six of them are another's already."""
    pool = pool_with(10, {"a": 6})
    candidates = [Candidate("a", 0, 6, 6), Candidate("c", 8, 0, 8, found(pool, "a", 6))]
    one = Scheduler(max_batch=2, prefill_chunk=64)
    assert one.plan(candidates, pool).grants == (Grant("c", 0, found(pool, "a", 6)),)
    assert one.plan([candidates[0], Candidate("c", 8, 0, 8)], pool) == Plan((), ("c",))


def test_shared_blocks_are_not_counted_on_for_a_third() -> None:
    """``a`` and ``c`` share six of eight blocks: neither's end gives them to ``d``, who needs five."""
    pool = pool_with(8, {"a": 6})
    pool.adopt("c", 0, found(pool, "a", 6))
    made = Scheduler(max_batch=4, prefill_chunk=64).plan([Candidate("a", 0, 6, 7), Candidate("c", 0, 6, 7)], pool)
    assert made == Plan()
    made = Scheduler(max_batch=4, prefill_chunk=64).plan(
        [Candidate("a", 0, 6, 7), Candidate("c", 0, 6, 7), Candidate("d", 1, 0, 5)], pool
    )
    assert made == Plan((), ("d",))


def test_a_hit_that_would_wedge_others_is_computed_instead() -> None:
    """``d`` counts on what ``a`` gives back; the blocks that ``c`` finds are ``a``'s, but ``c`` may take free ones."""
    pool = pool_with(12, {"a": 5, "d": 2})
    candidates = [Candidate("a", 0, 5, 5), Candidate("d", 0, 2, 11), Candidate("c", 5, 0, 5, found(pool, "a", 5))]
    assert Scheduler(max_batch=4, prefill_chunk=64).plan(candidates, pool).grants == (Grant("c", 5),)


def test_a_newcomer_with_hits_waits_behind_an_older_one_too() -> None:
    pool = pool_with(10, {"running": 3}, idle=2)
    candidates = [
        Candidate("running", 0, 3, 4),
        Candidate("big", 10, 0, 10),
        Candidate("c", 2, 0, 2, found(pool, "gone", 2)),
    ]
    assert Scheduler(max_batch=4, prefill_chunk=64).plan(candidates, pool) == Plan((), ("big", "c"))


def test_a_block_filled_in_part_is_given_back_for_the_whole_one() -> None:
    """Then ``c`` still needs two blocks, so ``d`` may not have two of the last three and need two more itself."""
    pool = BlockPool(5, 2)
    pool.extend("gone", 4)
    pool.seal("gone", 1, b"k")
    pool.release("gone")
    pool.extend("c", 3)
    hits = pool.match([b"k"])
    candidates = [Candidate("c", 1, 3, 8, hits), Candidate("d", 4, 0, 8)]
    made = Scheduler(max_batch=4, prefill_chunk=64).plan(candidates, pool)
    assert made == Plan((Grant("c", 0, hits),), ("d",))


# ---- any schedule


@dataclass
class _Sim:
    """A request: its prompt is of kind ``kind``, and grows by ``later`` rows when they have come. Its block n has the key
    (kind, n) as far as the prompt goes."""

    kind: int
    prompt: int
    reply: int
    later: int = 0
    cached: int = 0

    @property
    def claim(self) -> int:
        return self.prompt + self.reply

    @property
    def ready(self) -> int:
        return self.prompt - self.cached if self.cached < self.prompt else int(not self.later)

    def keys(self, first: int, end: int, size: int) -> list[bytes]:
        return [f"{self.kind}.{n}".encode() for n in range(first, min(end, self.prompt // size))]


class _World:
    """Requests of few kinds over one pool, advanced as an engine would."""

    def __init__(self, sims: list[_Sim], pool: BlockPool, scheduler: Scheduler, *, caches: bool) -> None:
        self.running = {str(n): sim for n, sim in enumerate(sims)}
        self.pool = pool
        self.scheduler = scheduler
        self.caches = caches

    def candidate(self, request: str, ready: int) -> Candidate:
        sim, size = self.running[request], self.pool.block_size
        first, end = sim.cached // size, (sim.cached + ready) // size
        hits = self.pool.match(sim.keys(first, end, size)) if self.caches else ()
        return Candidate(request, ready, sim.cached, sim.claim, hits)

    def plan(self, paused: set[str]) -> Plan:
        return self.scheduler.plan(
            [self.candidate(r, 0 if r in paused else s.ready) for r, s in self.running.items()], self.pool
        )

    def run(self, made: Plan) -> None:
        size = self.pool.block_size
        for grant in made.grants:
            if grant.hits:
                sim = self.running[grant.request]
                first = sim.cached // size
                self.pool.adopt(grant.request, first, grant.hits)
                sim.cached = (first + len(grant.hits)) * size
        for grant in made.grants:
            sim = self.running[grant.request]
            assert (grant.rows > 0) != bool(grant.hits)
            assert grant.rows <= sim.ready
            self.pool.extend(grant.request, sim.cached + grant.rows)  # asserts that the pool is not exceeded
            first, sim.cached = sim.cached // size, sim.cached + grant.rows
            for index, key in enumerate(sim.keys(first, sim.cached // size, size), first):
                self.pool.seal(grant.request, index, key)
        for request in [r for r, sim in self.running.items() if sim.cached == sim.claim and not sim.later]:
            self.close(request)

    def preempt(self, request: str) -> None:
        self.pool.release(request)
        self.running[request].cached = 0

    def close(self, request: str) -> None:
        self.pool.release(request)
        del self.running[request]


SHAPES = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(0, 30)), min_size=1, max_size=8)


def world(shapes: list[_Sim], size: int, spare: int, batch: int, chunk: int, *, caches: bool) -> _World:
    blocks = spare + max(-(-(sim.claim + sim.later) // size) for sim in shapes)
    return _World(shapes, BlockPool(blocks, size), Scheduler(max_batch=batch, prefill_chunk=chunk), caches=caches)


@settings(max_examples=300, deadline=None)
@given(
    SHAPES,
    st.integers(1, 4),
    st.integers(1, 32),
    st.integers(1, 8),
    st.integers(0, 20),
    st.booleans(),
    st.integers(0, 999),
)
def test_every_request_finishes_in_any_pool_that_holds_the_largest(
    shapes: list[tuple[int, int, int]], batch: int, chunk: int, size: int, spare: int, caches: bool, seed: int
) -> None:
    """Whatever requests are paused or cancelled in between, and whatever blocks they share: the pool is never exceeded,
    nobody is given up, all finish, and no block is lost."""
    rng = random.Random(seed)
    one = world([_Sim(*shape) for shape in shapes], size, spare, batch, chunk, caches=caches)
    while one.running:
        paused = {request for request in one.running if rng.random() < 0.3}
        made = one.plan(paused)
        assert not made.victim
        assert made.grants or paused  # with nobody paused, somebody advances
        assert sum(grant.rows > 0 for grant in made.grants) <= batch
        one.run(made)
        if one.running and rng.random() < 0.1:
            one.close(rng.choice(list(one.running)))
    assert one.pool.free == one.pool.blocks


@settings(max_examples=300, deadline=None)
@given(
    SHAPES,
    st.integers(1, 4),
    st.integers(1, 32),
    st.integers(1, 8),
    st.integers(0, 4),
    st.booleans(),
    st.integers(0, 999),
)
def test_prompts_that_grow_finish_with_preemption(
    shapes: list[tuple[int, int, int]], batch: int, chunk: int, size: int, spare: int, caches: bool, seed: int
) -> None:
    """Live prompts grow past what the pool holds, and anybody may be preempted at any step: all finish, in bounded time."""
    rng = random.Random(seed)
    one = world([_Sim(*shape, later=rng.randint(0, 30)) for shape in shapes], size, spare, batch, chunk, caches=caches)
    forced = 20
    for _ in range(20_000):
        if not one.running:
            break
        for sim in one.running.values():
            if sim.later and (sim.cached == sim.prompt or rng.random() < 0.1):
                more = rng.randint(1, sim.later)
                sim.prompt, sim.later = sim.prompt + more, sim.later - more
        if forced and rng.random() < 0.2:
            forced -= 1
            one.preempt(rng.choice(list(one.running)))
        made = one.plan(set())
        while made.victim:
            held = [request for request in one.running if one.pool.held(request)]
            assert made.victim == held[-1]
            assert len(held) > 1
            one.preempt(made.victim)
            made = one.plan(set())
        assert made.grants
        one.run(made)
    assert not one.running
    assert one.pool.free == one.pool.blocks
