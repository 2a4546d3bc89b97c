"""The Thinker node against transformers, and against itself under every schedule, demand and failure."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omni_graph.payload import Array, TextDelta
from omni_graph.testing import check_node, run_node
from omni_graph.testing.run import NodeRun
from omni_nodes.payloads import PromptSegment, PromptStates
from omni_nodes.qwen2_5_omni.thinker import Thinker
from tests.nodes.qwen2_5_omni.prompts import (
    QUESTION,
    TOKENS,
    ChoiceRun,
    UnaskedRun,
    close,
    generate,
    media_inputs,
    segments,
    text_inputs,
)
from tests.nodes.qwen2_5_omni.reference import Reference

ROW_BYTES = (2 * 2 * 2 * 16 + 64) * 4  # (layers, keys and values, heads, head_dim; and the hidden state) float32
TEXTS = ("hello", QUESTION, "the quick brown fox jumps over the lazy dog " * 4, "a b c")


@pytest.fixture(scope="module")
def thinker(tiny_folder: Path) -> Thinker:
    return Thinker(str(tiny_folder), prefill_chunk=64)


@pytest.fixture(scope="module")
def prompts(reference: Reference) -> dict[str, list[PromptSegment]]:
    return {f"r{n}": segments(reference, text_inputs(reference, text)) for n, text in enumerate(TEXTS)}


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Any:
    """Whatever a test did to the shared node, every KV block is free again."""
    yield
    if "thinker" in request.fixturenames:
        node = request.getfixturevalue("thinker")
        assert node._model.free_blocks == node._model._engine.kv.pool.blocks
        assert not node._requests


# ---- equal to transformers


@pytest.mark.parametrize("chunk", [1000, 64, 16, 1])
def test_greedy_text_equals_transformers_for_any_prefill_chunk(
    tiny_folder: Path, reference: Reference, chunk: int
) -> None:
    inputs = text_inputs(reference, QUESTION)
    answer = reference.generate(inputs, max_tokens=TOKENS, speech=False)
    node = Thinker(str(tiny_folder), prefill_chunk=chunk)
    reply = generate(node, segments(reference, inputs))
    assert reply.token_ids == answer.token_ids
    assert reply.text == reference.processor.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    assert reply.finish_reason == "length"
    assert dict(reply.usage) == {
        "prompt.text": inputs["input_ids"].shape[1],
        "prompt.audio": 0,
        "prompt.image": 0,
        "prompt.video": 0,
        "completion.text": TOKENS,
    }


@pytest.mark.parametrize("most", [1000, 7])
def test_media_prompts_equal_transformers_however_they_are_cut(
    thinker: Thinker, reference: Reference, most: int
) -> None:
    inputs = media_inputs(reference)
    answer = reference.generate(inputs, max_tokens=TOKENS, speech=False)
    reply = generate(thinker, segments(reference, inputs, most))
    assert reply.token_ids == answer.token_ids
    usage = dict(reply.usage)
    assert usage["prompt.audio"] > 0
    assert usage["prompt.image"] > 0
    assert sum(usage.values()) == inputs["input_ids"].shape[1] + TOKENS


def test_repetition_penalty_covers_prompt_and_reply_as_in_transformers(thinker: Thinker, reference: Reference) -> None:
    inputs = text_inputs(reference, QUESTION)
    theirs = reference.model.thinker.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, repetition_penalty=1.7)
    reply = generate(thinker, segments(reference, inputs), repetition_penalty=1.7)
    assert reply.token_ids == tuple(theirs[0, inputs["input_ids"].shape[1] :].tolist())
    assert reply.token_ids != generate(thinker, segments(reference, inputs)).token_ids


def test_a_reply_that_ends_by_itself_equals_transformers(stopping_folder: Path, stopping_reference: Reference) -> None:
    node = Thinker(str(stopping_folder))
    reasons = set()
    for text in TEXTS:
        inputs = text_inputs(stopping_reference, text)
        answer = stopping_reference.generate(inputs, max_tokens=60, speech=False)
        reply = generate(node, segments(stopping_reference, inputs), max_tokens=60)
        assert reply.token_ids == answer.token_ids
        assert (reply.finish_reason == "stop") == (reply.token_ids[-1] in node._ends)
        reasons.add(reply.finish_reason)
    assert "stop" in reasons


def test_states_and_thoughts_are_what_transformers_hands_to_the_talker(thinker: Thinker, reference: Reference) -> None:
    """generate(): hidden after the norm + embedding; the embedding zeroed at media; the last token never fed."""
    inputs = media_inputs(reference)
    prompt = segments(reference, inputs)
    result = reference.model.thinker.generate(
        **inputs, max_new_tokens=TOKENS, do_sample=False, output_hidden_states=True, return_dict_in_generate=True
    )
    ids = inputs["input_ids"][0]
    config = reference.model.thinker.config
    embeds = result.hidden_states[0][0][0].clone()
    embeds[(ids == config.audio_token_id) | (ids == config.image_token_id)] = 0
    theirs = result.hidden_states[0][-1][0] + embeds
    sent = run_node(thinker, {"r": {"prompt": prompt}}, {"r": {"max_tokens": TOKENS}})["r"]
    states = np.concatenate([packet.states.values for packet in sent["states"]])
    np.testing.assert_allclose(states, theirs, atol=1e-5)
    assert [packet.last for packet in sent["states"]] == [False] * (len(sent["states"]) - 1) + [True]
    assert sent["states"][-1].next_position == prompt[-1].next_position
    thoughts = np.concatenate([packet.state.values for packet in sent["thought"]])
    fed = torch.cat([step[-1][0] + step[0][0] for step in result.hidden_states[1:]])
    np.testing.assert_allclose(thoughts, fed, atol=1e-5)
    assert [t.token_id for t in sent["thought"]] == result.sequences[0, len(ids) : -1].tolist()


# ---- the same under any schedule and demand


@pytest.mark.parametrize("params", [{}, {"temperature": 1.5, "top_k": 20}, {"stop": ["e", "o"]}])
def test_it_keeps_the_rules_of_a_node(tiny_folder: Path, reference: Reference, params: dict[str, Any]) -> None:
    """The same packets alone and in company, in any order and window, through cancels and stops."""
    made = [media_inputs(reference), text_inputs(reference, "hello"), text_inputs(reference, TEXTS[2])]
    inputs = [{"prompt": segments(reference, one, most)} for one, most in zip(made, (9, 1000, 20))]
    node = Thinker(str(tiny_folder), max_batch=2, prefill_chunk=16)
    check_node(lambda: node, inputs, {"max_tokens": TOKENS, **params}, seeds=range(4), equal=close)
    assert node._model.free_blocks == node._model._engine.kv.pool.blocks


def test_requests_that_join_later_answer_as_each_alone(thinker: Thinker, prompts: dict[str, Any]) -> None:
    run = NodeRun(thinker, rng=random.Random(1))
    for request, prompt in prompts.items():
        run.open(request, {"prompt": prompt}, {"max_tokens": TOKENS})
        for _ in range(15):
            run.move()
    run.run()
    for request, prompt in prompts.items():
        assert TextDelta.merge(run.outputs[request]["text"]) == generate(thinker, prompt)


def test_a_paused_client_pauses_its_own_request_alone(thinker: Thinker, prompts: dict[str, Any]) -> None:
    run = NodeRun(thinker, windows={"text": 2})
    run.paused.add("r0")
    for request in ("r0", "r1"):
        run.open(request, {"prompt": prompts[request]}, {"max_tokens": TOKENS})
    run.run()
    assert run.complete("r1")
    assert run.outputs["r0"]["text"] == []
    assert thinker._model.free_blocks < thinker._model._engine.kv.pool.blocks  # it keeps its KV
    run.paused.clear()
    run.run()
    assert TextDelta.merge(run.outputs["r0"]["text"]) == generate(thinker, prompts["r0"])


def test_nothing_is_taken_that_nobody_asked_for(thinker: Thinker, prompts: dict[str, Any]) -> None:
    prompt = [replace(prompts["r0"][0], last=False), *prompts["r0"]]
    run = UnaskedRun(thinker, windows={"prompt": 1})
    run.open("r", {"prompt": prompt}, {"max_tokens": TOKENS})
    run.run()
    assert run.sent("r", "prompt") == 1  # it waits at the node, untaken
    run.close("r")


def test_a_prompt_stops_where_its_states_find_no_reader(thinker: Thinker, reference: Reference) -> None:
    """Cut into single rows, a window of prompt and the one packet of states behind it; the rest stays with the writer."""
    prompt = segments(reference, text_inputs(reference, TEXTS[2]), most=1)
    run = NodeRun(thinker, windows={"prompt": 4, "states": 1})
    run.paused.add("r")
    run.open("r", {"prompt": prompt}, {"max_tokens": TOKENS})
    run.run()
    assert run.core.open_requests == ("r",)
    assert len(prompt) > 64
    assert thinker._model._engine._sequences["r"].cached <= 4
    run.paused.clear()
    run.run()
    assert TextDelta.merge(run.outputs["r"]["text"]).token_ids == generate(thinker, prompt).token_ids


def test_a_pool_of_one_request_serves_them_one_after_another(
    tiny_folder: Path, thinker: Thinker, prompts: dict[str, Any]
) -> None:
    longest = max(sum(len(segment.token_ids) for segment in prompt) for prompt in prompts.values())
    node = Thinker(str(tiny_folder), kv_bytes=ROW_BYTES * (longest + TOKENS + 16))
    params = {request: {"max_tokens": TOKENS} for request in prompts}
    sent = run_node(node, {request: {"prompt": prompt} for request, prompt in prompts.items()}, params)
    for request, prompt in prompts.items():
        assert TextDelta.merge(sent[request]["text"]) == generate(thinker, prompt)
    assert node._model.free_blocks == node._model._engine.kv.pool.blocks


def test_sampling_repeats_by_seed_in_any_company(thinker: Thinker, prompts: dict[str, Any]) -> None:
    params = {"max_tokens": TOKENS, "temperature": 1.2, "top_p": 0.95}
    inputs = {request: {"prompt": prompt} for request, prompt in prompts.items()}
    sent = run_node(thinker, inputs, dict.fromkeys(prompts, params), seed=5, rng=random.Random(0))
    for request, prompt in prompts.items():
        alone = generate(thinker, prompt, **params, seed=5)
        assert TextDelta.merge(sent[request]["text"]) == alone
        assert generate(thinker, prompt, **params, seed=6).token_ids != alone.token_ids


def test_states_are_cut_at_segments_and_by_rows(
    thinker: Thinker, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little room they are the same packets: the engine's steps do not show."""
    prompt = segments(reference, text_inputs(reference, QUESTION), most=8)
    whole = run_node(thinker, {"r": {"prompt": prompt}}, {"r": {"max_tokens": 2}})["r"]["states"]
    assert [len(packet.states) for packet in whole] == [len(segment.token_ids) for segment in prompt]
    assert [packet.next_position for packet in whole] == [segment.next_position for segment in prompt]
    monkeypatch.setattr(thinker._model, "rows_a_packet", 3)
    cut = run_node(thinker, {"r": {"prompt": prompt}}, {"r": {"max_tokens": 2}}, windows={"states": 1})["r"]["states"]
    assert [len(packet.states) for packet in cut][:6] == [3, 3, 2, 3, 3, 2]
    assert [packet.last for packet in cut] == [False] * (len(cut) - 1) + [True]
    for name, axis in (("states", 0), ("positions", 1)):
        mine, other = (np.concatenate([getattr(p, name).values for p in ps], axis) for ps in (cut, whole))
        np.testing.assert_allclose(mine, other, atol=1e-5)


def test_the_largest_packet_of_states_fits_its_limit(thinker: Thinker) -> None:
    from omni_graph.payload import max_packet_bytes, packet_bytes

    rows, size = thinker._model.rows_a_packet, thinker._model.hidden_size
    packet = PromptStates(Array.empty(rows, size), Array.empty(3, rows, dtype="int64"), 1, True)
    more = PromptStates(Array.empty(rows + 1, size), Array.empty(3, rows + 1, dtype="int64"), 1, True)
    assert packet_bytes(packet) <= max_packet_bytes(PromptStates) < packet_bytes(more)


def test_bfloat16_states_travel_as_bfloat16(tiny_folder: Path, prompts: dict[str, Any]) -> None:
    node = Thinker(str(tiny_folder), dtype="bfloat16")
    sent = run_node(node, {"r": {"prompt": prompts["r0"]}}, {"r": {"max_tokens": 3}})["r"]
    assert {packet.states.dtype for packet in sent["states"]} == {"bfloat16"}
    assert {packet.state.dtype for packet in sent["thought"]} == {"bfloat16"}


# ---- how a reply ends


def test_every_packet_brings_the_choices_it_depends_on(thinker: Thinker, prompts: dict[str, Any]) -> None:
    """A thought depends on its own token, a delta on all its tokens, the prompt's states on none."""
    run = ChoiceRun(thinker)
    run.open("r", {"prompt": prompts["r1"]}, {"max_tokens": TOKENS})
    run.run()
    deltas, ids = run.outputs["r"]["text"], generate(thinker, prompts["r1"]).token_ids
    said = [("data", [(id,) for id in delta.token_ids]) for delta in deltas]
    assert run.carried["text"] == [*said, ("end", [])]
    assert run.carried["thought"] == [*(("data", [(id,)]) for id in ids[:-1]), ("end", [(ids[-1],)])]
    assert run.carried["states"][0] == ("data", [])


def test_one_token_answers_think_nothing(thinker: Thinker, prompts: dict[str, Any]) -> None:
    first = generate(thinker, prompts["r0"]).token_ids[0]
    for params, reason in (({"max_tokens": 1}, "length"), ({"stop_token_ids": [first]}, "stop")):
        sent = run_node(thinker, {"r": {"prompt": prompts["r0"]}}, {"r": params})["r"]
        reply = TextDelta.merge(sent["text"])
        assert (reply.token_ids, reply.finish_reason) == ((first,), reason)
        assert sent["thought"] == []
        assert sent["states"][-1].last


def test_a_stop_string_split_over_tokens_is_cut_before_it(thinker: Thinker, prompts: dict[str, Any]) -> None:
    whole = generate(thinker, prompts["r1"])
    at = len(whole.text) // 2
    stop = whole.text[at : at + 3]
    before = whole.text[: whole.text.index(stop)]
    reply = generate(thinker, prompts["r1"], stop=["never in it", stop])
    assert len(stop) == 3
    assert (reply.text, reply.finish_reason) == (before, "stop")
    assert reply.token_ids == whole.token_ids[: len(reply.token_ids)]
    assert len(reply.token_ids) < len(whole.token_ids)


def test_max_tokens_is_cut_to_what_the_context_leaves(
    tiny_folder: Path, thinker: Thinker, prompts: dict[str, Any]
) -> None:
    length = sum(len(segment.token_ids) for segment in prompts["r1"])
    blocks = -(-(length + 1) // 16)
    node = Thinker(str(tiny_folder), kv_bytes=ROW_BYTES * 16 * blocks)
    reply = generate(node, prompts["r1"], max_tokens=1024)
    assert reply.finish_reason == "length"
    assert len(reply.token_ids) == blocks * 16 - length
    assert reply.token_ids == generate(thinker, prompts["r1"], max_tokens=16).token_ids[: len(reply.token_ids)]
