"""The engine over an unmodified transformers decoder: packed, chunked, paged == one request alone with a DynamicCache."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from omni_graph.errors import Code, NodeError, RequestError
from omni_nodes.engine.blocks import BlockPool
from omni_nodes.engine.engine import BLOCK_SIZE, Engine, EngineLimits
from omni_nodes.engine.sequence import Rows, Sequence

torch.set_num_threads(1)
HIDDEN = 32
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
    row_bytes = 2 * 2 * 2 * 8 * 4
    engine = Engine(decoder, limits(kv_bytes=row_bytes * 3 * BLOCK_SIZE))
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


def test_prompts_that_outgrow_the_pool_fail_the_youngest_by_name(decoder) -> None:
    """Live prompts may grow for ever: when they wedge each other, one is refused and the other goes on."""
    row_bytes = 2 * 2 * 2 * 8 * 4
    engine = Engine(decoder, limits(kv_bytes=row_bytes * 4 * BLOCK_SIZE))
    everybody = {"a": UNLIMITED, "b": UNLIMITED}
    for request in everybody:
        engine.open(request)
        engine.feed(request, rows_of(1, 2 * BLOCK_SIZE))
    engine.run(engine.plan(everybody).grants)
    for request in everybody:
        engine.feed(request, rows_of(2, BLOCK_SIZE))
    plan = engine.plan(everybody)
    with pytest.raises(RequestError, match="4 KV blocks") as caught:
        engine.check(plan)
    assert (caught.value.request, caught.value.code) == ("b", Code.OVERLOADED)
    engine.close("b")
    assert [grant.request for grant in engine.plan(everybody).grants] == ["a"]


def test_a_pool_without_a_block_is_refused(decoder) -> None:
    with pytest.raises(NodeError, match="kv_bytes is 100; allowed: 4096"):
        Engine(decoder, limits(kv_bytes=100))
    with pytest.raises(NodeError, match="max_batch is 0; allowed: 1 or more"):
        limits(max_batch=0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=30))
def test_a_block_is_free_or_held_by_one(events: list[tuple[str, int]]) -> None:
    pool = BlockPool(30, 4)
    rows = dict.fromkeys("abc", 0)
    for request, more in events:
        if not more:
            pool.release(request)
            rows[request] = 0
        elif -(-(rows[request] + more) // 4) - len(pool.table(request)) <= pool.free:
            rows[request] += more
            pool.extend(request, rows[request])
        held = [block for name in "abc" for block in pool.table(name)]
        assert len(set(held)) == len(held) == 30 - pool.free
        assert all(len(pool.table(name)) == -(-rows[name] // 4) for name in "abc")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1000))
def test_rows_come_out_in_order_however_they_are_cut(pieces: list[int], seed: int) -> None:
    rng = random.Random(seed)
    sequence = Sequence(claim=0)
    whole = rows_of(0, sum(pieces))
    first = 0
    for piece in pieces:
        sequence.feed(Rows(whole.embeddings[first : first + piece], whole.positions[:, first : first + piece]))
        first += piece
    taken: list[Rows] = []
    while sequence.waiting:
        taken.append(sequence.take(rng.randint(1, sequence.waiting)))
    assert torch.equal(torch.cat([rows.embeddings for rows in taken]), whole.embeddings)
    assert torch.equal(torch.cat([rows.positions for rows in taken], 1), whole.positions)
    assert (sequence.cached, sequence.claim) == (first, first)
