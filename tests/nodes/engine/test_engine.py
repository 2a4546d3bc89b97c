"""The engine over an unmodified transformers decoder: packed, chunked, paged == one request alone with a DynamicCache."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from omni_graph.errors import NodeError
from omni_nodes.engine.engine import BLOCK_SIZE, Engine, EngineLimits
from omni_nodes.engine.prefix import text_identity
from omni_nodes.engine.runner import Runner
from omni_nodes.engine.sequence import Rows, Sequence

torch.set_num_threads(1)
HIDDEN = 32
ROW_BYTES = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head_dim, float32
UNLIMITED = 1 << 62


def new_decoder() -> Qwen2_5OmniThinkerTextModel:
    torch.manual_seed(0)
    config = Qwen2_5OmniTextConfig(
        vocab_size=64,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    )
    model = Qwen2_5OmniThinkerTextModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[1] ** 0.5)
    return model


@pytest.fixture(scope="module")
def decoder() -> Qwen2_5OmniThinkerTextModel:
    return new_decoder()


@pytest.fixture(scope="module")
def oracle() -> Qwen2_5OmniThinkerTextModel:
    return new_decoder()


def rows_of(seed: int, count: int) -> Rows:
    """Random rows with positions that jump and differ by axis, like those of pictures."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randint(0, 3, (3, count), generator=generator).cumsum(1)
    return Rows(torch.randn(count, HIDDEN, generator=generator), positions)


def part(rows: Rows, start: int, end: int) -> Rows:
    return Rows(rows.embeddings[start:end], rows.positions[:, start:end])


def alone(oracle: Qwen2_5OmniThinkerTextModel, rows: Rows) -> torch.Tensor:
    output = oracle(
        inputs_embeds=rows.embeddings[None],
        position_ids=rows.positions[:, None],
        past_key_values=DynamicCache(config=oracle.config),
    )
    return output.last_hidden_state[0]


def limits(**changes: int) -> EngineLimits:
    return EngineLimits(**{"max_batch": 8, "prefill_chunk": 64, "context": 512, **changes})


def drive(engine: Engine, hidden: dict[str, list[torch.Tensor]], rooms: dict[str, int]) -> int:
    """One step; returns how many requests advanced."""
    plan = engine.plan(rooms)
    for computed in engine.run(plan.grants):
        assert computed.start == sum(map(len, hidden[computed.request]))
        hidden[computed.request].append(computed.hidden)
    return len(plan.grants)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 6)), min_size=1, max_size=5),
    st.sampled_from([1, 7, 16, 64]),
    st.integers(1, 5),
    st.integers(0, 1000),
)
def test_packed_and_chunked_equals_alone(decoder, oracle, arrivals, chunk, max_batch, seed) -> None:
    """Requests of any length that join at any step, with random demand, compute what each computes alone."""
    rng = random.Random(seed)
    engine = Engine(decoder, limits(prefill_chunk=chunk, max_batch=max_batch))
    wanted = {str(n): rows_of(n, count) for n, (count, _) in enumerate(arrivals)}
    hidden: dict[str, list[torch.Tensor]] = {}
    for step in range(10_000):
        for n, (_, arrival) in enumerate(arrivals):
            if arrival == step:
                engine.open(str(n))
                hidden[str(n)] = []
                engine.feed(str(n), wanted[str(n)])
        drive(engine, hidden, {request: rng.choice((0, 3, UNLIMITED)) for request in hidden})
        if len(hidden) == len(wanted) and not any(engine.waiting(request) for request in hidden):
            break
    for request, rows in wanted.items():
        torch.testing.assert_close(torch.cat(hidden[request]), alone(oracle, rows), atol=1e-5, rtol=1e-5)
        engine.close(request)
    assert engine.kv.pool.free == engine.kv.pool.blocks


def test_blocks_of_a_closed_request_serve_the_next_one(decoder, oracle) -> None:
    """In a pool of one request's size, the second waits for the first and is not disturbed by what it left behind."""
    engine = Engine(decoder, limits(kv_bytes=ROW_BYTES * 3 * BLOCK_SIZE))
    assert engine.capacity == 3 * BLOCK_SIZE
    first, second = rows_of(1, 40), rows_of(2, 40)
    hidden: dict[str, list[torch.Tensor]] = {"first": [], "second": []}
    for request, rows in (("first", first), ("second", second)):
        engine.open(request)
        engine.feed(request, rows, reply=8)
    everybody = dict.fromkeys(hidden, UNLIMITED)
    assert drive(engine, hidden, everybody) == 1
    assert drive(engine, hidden, everybody) == 0
    engine.close("first")
    assert drive(engine, hidden, everybody) == 1
    torch.testing.assert_close(torch.cat(hidden["second"]), alone(oracle, second), atol=1e-5, rtol=1e-5)
    engine.close("second")
    engine.close("second")
    assert engine.kv.pool.free == 3


def test_prompts_that_outgrow_the_pool_preempt_the_youngest(decoder, oracle) -> None:
    """Live prompts may grow for ever: when they wedge each other, the younger gives way, and goes on after the other."""
    engine = Engine(decoder, limits(kv_bytes=ROW_BYTES * 4 * BLOCK_SIZE))
    whole = {"a": rows_of(1, 3 * BLOCK_SIZE), "b": rows_of(2, 3 * BLOCK_SIZE)}
    hidden: dict[str, list[torch.Tensor]] = {"a": [], "b": []}
    everybody = dict.fromkeys(whole, UNLIMITED)
    for request, rows in whole.items():
        engine.open(request)
        engine.feed(request, part(rows, 0, 2 * BLOCK_SIZE))
    assert drive(engine, hidden, everybody) == 2
    for request, rows in whole.items():
        engine.feed(request, part(rows, 2 * BLOCK_SIZE, 3 * BLOCK_SIZE))
    assert [grant.request for grant in engine.plan(everybody).grants] == ["a"]
    assert (engine.waiting("b"), engine.counters()["preemptions"]) == (3 * BLOCK_SIZE, 1)
    while engine.waiting("a"):
        drive(engine, hidden, everybody)
    engine.close("a")
    while engine.waiting("b"):
        drive(engine, hidden, everybody)
    for request, rows in whole.items():
        torch.testing.assert_close(torch.cat(hidden[request]), alone(oracle, rows), atol=1e-5, rtol=1e-5)


def test_a_step_calls_each_layer_once_and_masks_nothing_twice(decoder) -> None:
    """The linears see the rows of all requests in one call; transformers makes no mask, and ours serve every layer."""
    shapes: list[tuple[int, ...]] = []
    given: list[dict[str, Any]] = []
    hooks = [decoder.layers[0].mlp.register_forward_hook(lambda _, args, output: shapes.append(tuple(args[0].shape)))]
    for layer in decoder.layers:
        hook = layer.self_attn.register_forward_pre_hook(lambda _, args, kwargs: given.append(kwargs), with_kwargs=True)
        hooks.append(hook)
    engine = Engine(decoder, limits())
    for n, count in enumerate((40, 1, 7)):
        engine.open(str(n))
        engine.feed(str(n), rows_of(n, count), reply=1)
    engine.run(engine.plan(dict.fromkeys("012", UNLIMITED)).grants)
    for hook in hooks:
        hook.remove()
    assert shapes == [(1, 48, HIDDEN)]
    assert [kwargs["attention_mask"] for kwargs in given] == [None, None]
    first, second = (kwargs["packed"].masks for kwargs in given)
    assert first is second and [None if mask is None else tuple(mask.shape) for mask in first] == [
        None,
        (40, 40),
        (7, 7),
    ]


def test_a_pool_without_a_block_is_refused(decoder) -> None:
    with pytest.raises(NodeError, match="kv_bytes is 100; allowed: 4096"):
        Engine(decoder, limits(kv_bytes=100))
    with pytest.raises(NodeError, match="max_batch is 0; allowed: 1 or more"):
        limits(max_batch=0)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1000))
def test_rows_come_out_in_order_however_they_are_cut(pieces: list[int], seed: int) -> None:
    rng = random.Random(seed)
    sequence = Sequence(BLOCK_SIZE)
    whole = rows_of(0, sum(pieces))
    first = 0
    for piece in pieces:
        sequence.feed(part(whole, first, first + piece))
        first += piece
    taken: list[Rows] = []
    while sequence.waiting:
        taken.append(sequence.take(rng.randint(1, sequence.waiting)))
    assert torch.equal(torch.cat([rows.embeddings for rows in taken]), whole.embeddings)
    assert torch.equal(torch.cat([rows.positions for rows in taken], 1), whole.positions)
    assert (sequence.cached, sequence.claim) == (first, first)
    start = rng.randrange(first)
    again = sequence.rows(start, rng.randint(start + 1, first))
    assert torch.equal(again.embeddings, whole.embeddings[start : start + len(again)])


# ---- the prefix cache, and preemption


def told(ids: list[int], start: int = 0) -> Rows:
    """Rows that embed ``ids`` at one position each from ``start`` on, known by them."""
    table = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(7))
    tokens, positions = np.array(ids), np.tile(np.arange(start, start + len(ids)), (3, 1))
    return Rows(table[torch.tensor(ids)], torch.from_numpy(positions), text_identity(tokens, positions))


def finish(engine: Engine, request: str, ids: list[int]) -> torch.Tensor:
    """Feed ``ids`` and compute them alone; the hidden states that were handed back."""
    hidden: dict[str, list[torch.Tensor]] = {request: []}
    engine.open(request)
    engine.feed(request, told(ids), reply=1)
    while engine.waiting(request):
        drive(engine, hidden, {request: UNLIMITED})
    return torch.cat(hidden[request])


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each forward computes."""
    seen: list[int] = []
    run = Runner.run

    def counted(self: Runner, slices: Any) -> Any:
        seen.append(sum(len(rows) for _, rows in slices))
        return run(self, slices)

    monkeypatch.setattr(Runner, "run", counted)
    return seen


def test_a_prompt_that_begins_as_another_is_computed_from_where_they_differ(decoder, oracle, computed) -> None:
    engine = Engine(decoder, limits(), keep_hidden=True)
    first, second = [0] * 40, [0] * 35 + [1] * 20
    finish(engine, "a", first)
    computed.clear()
    hidden = finish(engine, "b", second)  # while the first is still there
    assert sum(computed) == len(second) - 2 * BLOCK_SIZE
    torch.testing.assert_close(hidden, alone(oracle, told(second)), atol=1e-5, rtol=1e-5)
    engine.close("a")
    engine.close("b")
    computed.clear()
    assert torch.equal(finish(engine, "c", second[:48]), hidden[:48])  # to the bit, and nothing is computed
    assert computed == []
    counters = engine.counters()
    assert (counters["prefix_rows_asked"], counters["prefix_rows_hit"]) == (40 + 55 + 48, 32 + 48)


def test_no_more_rows_are_found_than_were_asked_for(decoder) -> None:
    """Where the reply too is one that was given before: the row that fills its block finds the block."""
    engine = Engine(decoder, limits(), keep_hidden=True)
    ids = [n % 3 for n in range(3 * BLOCK_SIZE)]
    finish(engine, "a", ids)
    engine.open("b")
    engine.feed("b", told(ids[: 2 * BLOCK_SIZE]), reply=BLOCK_SIZE)
    engine.run(engine.plan({"b": UNLIMITED}).grants)
    for start in range(2 * BLOCK_SIZE, 3 * BLOCK_SIZE):
        engine.feed("b", told(ids[start : start + 1], start))
        engine.run(engine.plan({"b": UNLIMITED}).grants)
    counters = engine.counters()
    assert (counters["prefix_rows_asked"], counters["prefix_rows_hit"]) == (2 * len(ids), 2 * BLOCK_SIZE + 1)


def test_without_a_cache_every_row_is_computed(decoder, computed) -> None:
    engine = Engine(decoder, limits(prefix_cache=False), keep_hidden=True)
    for request in ("a", "b"):
        finish(engine, request, [0] * 40)
    assert computed == [40, 40]
    assert not any(engine.counters().values())


def test_a_prompt_that_comes_bit_by_bit_goes_on_being_found(decoder, oracle, computed) -> None:
    """Also behind rows that had to be computed because their block was not whole yet."""
    engine = Engine(decoder, limits(), keep_hidden=True)
    ids = [n % 3 for n in range(64)]
    finish(engine, "a", ids)
    computed.clear()
    hidden: dict[str, list[torch.Tensor]] = {"b": []}
    engine.open("b")
    for start in range(0, 64, 20):
        engine.feed("b", told(ids[start : start + 20], start), reply=64 - start)
        while engine.waiting("b"):
            drive(engine, hidden, {"b": UNLIMITED})
    assert computed == [4, 8, 12]  # the rows after 16, 32 and 48 that came with the blocks before them
    torch.testing.assert_close(torch.cat(hidden["b"]), alone(oracle, told(ids)), atol=1e-5, rtol=1e-5)


def test_a_block_that_more_rows_will_fill_waits_for_them(decoder, computed) -> None:
    """So a prompt whose pictures are late is found whole; its end is computed as it is."""
    engine = Engine(decoder, limits(), keep_hidden=True)
    ids = [n % 3 for n in range(64)]
    finish(engine, "a", ids)
    computed.clear()
    engine.open("b")
    for start in range(0, 60, 20):
        engine.feed("b", told(ids[start : start + 20], start), reply=64 - start, more=start < 40)
        while engine.waiting("b"):
            engine.run(engine.plan({"b": UNLIMITED}).grants)
    assert (computed, engine.handed("b")) == ([60 - 48], 60)


def test_hits_keep_within_the_room(decoder) -> None:
    engine = Engine(decoder, limits(), keep_hidden=True)
    finish(engine, "a", [0] * 64)
    engine.open("b")
    engine.feed("b", told([0] * 64), reply=1)
    (found,) = engine.run(engine.plan({"b": 40}).grants)
    assert (found.start, len(found.rows), found.complete) == (0, 32, False)


def test_rows_that_are_not_kept_are_skipped_in_silence(decoder, oracle) -> None:
    """The Talker needs of its prompt's rows nothing but their keys and values."""
    engine = Engine(decoder, limits())
    finish(engine, "a", [0] * 40)
    engine.open("b")
    engine.feed("b", told([0] * 40), reply=1)
    assert engine.run(engine.plan({"b": UNLIMITED}).grants) == ()
    (rest,) = engine.run(engine.plan({"b": UNLIMITED}).grants)
    assert (rest.start, rest.complete) == (32, True)
    torch.testing.assert_close(rest.hidden, alone(oracle, told([0] * 40))[32:], atol=1e-5, rtol=1e-5)


def test_a_preempted_request_is_not_held_up_by_its_room(decoder, computed) -> None:
    """Room for one row more is room for all that it computes again in silence before it."""
    engine = Engine(decoder, limits(prefix_cache=False))
    finish(engine, "a", [0] * 40)
    engine.preempt("a")
    computed.clear()
    engine.feed("a", told([1], 40))
    (again,) = engine.run(engine.plan({"a": 1}).grants)
    assert (computed, again.start, len(again.hidden), again.complete) == ([41], 40, 1, True)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=5),
    st.sampled_from([1, 7, 16, 64]),
    st.integers(1, 4),
    st.integers(6, 16),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
def test_cache_and_preemption_change_nothing(decoder, oracle, kinds, chunk, batch, blocks, caches, kept, seed) -> None:
    """Prompts that begin alike (eleven rows of a kind, and of another) come bit by bit, in any company and in a pool too
    small for all, and are preempted and closed at any step: each row is handed back once, as computed alone."""
    rng = random.Random(seed)
    row_bytes = ROW_BYTES + 4 * HIDDEN * (caches and kept)
    engine = Engine(
        decoder,
        limits(prefill_chunk=chunk, max_batch=batch, kv_bytes=row_bytes * blocks * BLOCK_SIZE, prefix_cache=caches),
        keep_hidden=kept,
    )
    wanted = {f"r{n}": [id for kind in kinds for id in [kind] * 11] for n, kinds in enumerate(kinds)}
    fed, announced = dict.fromkeys(wanted, 0), {request for request in wanted if rng.random() < 0.5}
    hidden: dict[str, torch.Tensor] = {
        request: torch.full((len(ids), HIDDEN), torch.nan) for request, ids in wanted.items()
    }
    for request in wanted:
        engine.open(request)
    forced = 30
    for _ in range(20_000):
        for request in [r for r in fed if fed[r] < len(wanted[r]) and rng.random() < 0.3]:
            count = rng.randint(1, 25)
            start, end = fed[request], min(len(wanted[request]), fed[request] + count)
            more = end < len(wanted[request]) and request in announced
            engine.feed(request, told(wanted[request][start:end], start), reply=0, more=more)
            fed[request] = end
        if forced and rng.random() < 0.3:
            forced -= 1
            engine.preempt(rng.choice(list(fed)))
        before = {request: engine.handed(request) for request in fed}
        for one in engine.run(
            engine.plan({request: rng.choice((0, 3, UNLIMITED)) for request in fed if rng.random() < 0.8}).grants
        ):
            assert one.start >= before[one.request] if not kept else one.start == before[one.request]
            assert torch.isnan(hidden[one.request][one.start : one.start + len(one.hidden)]).all()
            assert torch.equal(
                one.rows.embeddings, told(wanted[one.request]).embeddings[one.start :][: len(one.hidden)]
            )
            hidden[one.request][one.start : one.start + len(one.hidden)] = one.hidden
        for request in [r for r in fed if not engine.waiting(r) and fed[r] == len(wanted[r])]:
            engine.close(request)
            del fed[request]
        if not fed:
            break
    for request, ids in wanted.items():
        theirs = alone(oracle, told(ids))
        skipped = torch.isnan(hidden[request]).all(1)
        assert not skipped.any() or (caches and not kept)
        torch.testing.assert_close(hidden[request][~skipped], theirs[~skipped], atol=1e-5, rtol=1e-5)
    assert not fed
    assert engine.kv.pool.free == blocks
