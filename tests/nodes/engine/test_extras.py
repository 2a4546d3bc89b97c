"""Rows with more than an embedding: Qwen3-Omni's Thinker, as transformers has it, behind the engine of today.

What its node would add is here: a decoder that takes each row's deepstack states, and float positions. What would break
for a user: a picture with the deeper states of another one, or that loses them in a chunk, a preemption or the cache.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeTextConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeThinkerTextModel

from omni_nodes.engine.engine import BLOCK_SIZE, Engine, EngineLimits
from omni_nodes.engine.prefix import media_identity, text_identity
from omni_nodes.engine.sequence import Rows, Sequence, join

torch.set_num_threads(1)
HIDDEN, DEPTH = 32, 2
ROWS = 11  # of a piece: a block has rows of two or three
ROW_BYTES = (2 * 2 * 2 * 8 + HIDDEN) * 4  # keys and values, layers, heads, head_dim; hidden; float32
UNLIMITED = 1 << 62
TEXT = 0


class Decoder(Qwen3OmniMoeThinkerTextModel):
    """Extras of a row: ``visual``, whether it is of a picture, and ``deepstack`` (2, H), what its first layers add then."""

    def forward(self, visual: Any = None, deepstack: Any = None, **inputs: Any) -> Any:
        if visual is not None:
            states = list(deepstack[visual].unbind(1))
            inputs |= {"visual_pos_masks": visual, "deepstack_visual_embeds": states}
        return super().forward(**inputs)


def new_decoder() -> Decoder:
    torch.manual_seed(0)
    config = Qwen3OmniMoeTextConfig(
        vocab_size=64,
        hidden_size=HIDDEN,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]},
    )
    model = Decoder(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return new_decoder()


@pytest.fixture(scope="module")
def oracle() -> Decoder:
    return new_decoder()


def piece(kind: int, index: int) -> Rows:
    """Piece ``index`` of a prompt. Pictures 1 and 2 look alike at the entrance: their deeper states tell them apart."""
    generator = torch.Generator().manual_seed(int(kind > TEXT))
    embeddings = torch.randn(ROWS, HIDDEN, generator=generator)
    positions = (index + torch.arange(ROWS) / 16).expand(3, -1)
    if kind == TEXT:
        return Rows(embeddings, positions, text_identity(np.arange(ROWS), positions.numpy()))
    deepstack = torch.randn(ROWS, DEPTH, HIDDEN, generator=generator.manual_seed(kind))
    extras = {"visual": torch.ones(ROWS, dtype=torch.bool), "deepstack": deepstack}
    return Rows(embeddings, positions, media_identity("image", bytes([kind]), positions.numpy()), extras)


def alone(oracle: Decoder, kinds: list[int]) -> torch.Tensor:
    """The hidden states of a prompt of such pieces, in one forward of transformers with its own arguments."""
    pieces = [piece(kind, index) for index, kind in enumerate(kinds)]
    visual = torch.tensor([kind > TEXT for kind in kinds]).repeat_interleave(ROWS)
    pictures = [one.extras["deepstack"] for one in pieces if one.extras]
    output = Qwen3OmniMoeThinkerTextModel.forward(
        oracle,
        inputs_embeds=torch.cat([one.embeddings for one in pieces])[None],
        position_ids=torch.cat([one.positions for one in pieces], 1)[:, None],
        past_key_values=DynamicCache(config=oracle.config),
        visual_pos_masks=visual[None] if pictures else None,
        deepstack_visual_embeds=list(torch.cat(pictures).unbind(1)) if pictures else None,
    )
    states: torch.Tensor = output.last_hidden_state[0]
    return states


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(TEXT, 2), min_size=1, max_size=5), min_size=1, max_size=4),
    st.sampled_from([1, 7, 16, 64]),
    st.integers(1, 4),
    st.integers(5, 12),
    st.booleans(),
    st.integers(0, 1000),
)
def test_packed_chunked_preempted_and_cached_equals_alone(
    decoder, oracle, prompts, chunk, batch, blocks, caches, seed
) -> None:
    rng = random.Random(seed)
    row_bytes = ROW_BYTES if caches else ROW_BYTES - 4 * HIDDEN
    room = EngineLimits(batch, chunk, 512, row_bytes * blocks * BLOCK_SIZE, caches)
    engine = Engine(decoder, room, keep_hidden=True)
    fed = {f"r{n}": 0 for n in range(len(prompts))}
    wanted = {f"r{n}": kinds for n, kinds in enumerate(prompts)}
    hidden: dict[str, list[torch.Tensor]] = {request: [] for request in wanted}
    for request in wanted:
        engine.open(request)
    preemptions = 20
    for _ in range(20_000):
        for request in [r for r in fed if fed[r] < len(wanted[r]) and rng.random() < 0.5]:
            engine.feed(request, piece(wanted[request][fed[request]], fed[request]), reply=0)
            fed[request] += 1
        if preemptions and rng.random() < 0.2:
            preemptions -= 1
            engine.preempt(rng.choice(list(fed)))
        for computed in engine.run(engine.plan({request: rng.choice((0, 3, UNLIMITED)) for request in fed}).grants):
            hidden[computed.request].append(computed.hidden)
        for request in [r for r in fed if not engine.waiting(r) and fed[r] == len(wanted[r])]:
            engine.close(request)
            del fed[request]
        if not fed:
            break
    for request, kinds in wanted.items():
        torch.testing.assert_close(torch.cat(hidden[request]), alone(oracle, kinds), atol=1e-5, rtol=1e-5)
    assert not fed


def run_alone(engine: Engine, request: str, kinds: list[int]) -> torch.Tensor:
    engine.open(request)
    for index, kind in enumerate(kinds):
        engine.feed(request, piece(kind, index), reply=0)
    hidden = []
    while engine.waiting(request):
        hidden += [computed.hidden for computed in engine.run(engine.plan({request: UNLIMITED}).grants)]
    engine.close(request)
    return torch.cat(hidden)


def test_a_picture_is_found_again_with_its_deeper_states_and_another_is_not(decoder, oracle) -> None:
    engine = Engine(decoder, EngineLimits(4, 64, 512), keep_hidden=True)
    first = run_alone(engine, "a", [TEXT, 1, 1])
    assert engine.counters()["prefix_rows_hit"] == 0
    assert torch.equal(run_alone(engine, "b", [TEXT, 1, 1])[: 2 * BLOCK_SIZE], first[: 2 * BLOCK_SIZE])
    assert engine.counters()["prefix_rows_hit"] == 2 * BLOCK_SIZE
    other = run_alone(engine, "c", [TEXT, 2, 1])
    assert engine.counters()["prefix_rows_hit"] == 2 * BLOCK_SIZE  # they differ in their first block already
    torch.testing.assert_close(other, alone(oracle, [TEXT, 2, 1]), atol=1e-5, rtol=1e-5)
    assert (other[ROWS:] - first[ROWS:]).abs().max() > 0.1


def test_a_step_of_text_alone_gets_no_extras(decoder) -> None:
    """Where nobody has a picture, a step costs what it costs without them."""
    seen: list[set[str]] = []
    hook = decoder.register_forward_pre_hook(lambda _, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    engine = Engine(decoder, EngineLimits(4, 64, 512))
    for kind in (TEXT, 1):
        run_alone(engine, "r", [kind])
    hook.remove()
    assert [{"visual", "deepstack"} & names for names in seen] == [set(), {"visual", "deepstack"}]


@settings(deadline=None)
@given(st.lists(st.integers(TEXT, 2), min_size=1, max_size=5), st.data())
def test_extras_are_cut_with_their_rows(kinds: list[int], data: st.DataObject) -> None:
    sequence = Sequence(BLOCK_SIZE)
    pieces = [piece(kind, index) for index, kind in enumerate(kinds)]
    for one in pieces:
        sequence.feed(one)
    whole = join(pieces)
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start + 1, len(whole)))
    part = sequence.rows(start, end)
    assert torch.equal(part.embeddings, whole.embeddings[start:end])
    assert torch.equal(part.positions, whole.positions[:, start:end])
    for name, extra in whole.extras.items():
        theirs = part.extras.get(name, torch.zeros_like(extra[start:end]))
        assert torch.equal(theirs, extra[start:end])
    pictures = torch.tensor([kind > TEXT for kind in kinds]).repeat_interleave(ROWS)
    assert torch.equal(whole.extras.get("visual", torch.zeros(len(whole), dtype=torch.bool)), pictures)
