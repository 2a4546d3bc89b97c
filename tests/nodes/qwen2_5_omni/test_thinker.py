"""The Thinker node against transformers, and against itself under every schedule, demand and failure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omni_graph.errors import Code, RequestError
from omni_graph.payload import Array, TextDelta
from omni_graph.testing import run_node
from omni_graph.testing.run import NodeRun
from omni_nodes.payloads import PromptSegment, PromptStates
from omni_nodes.qwen2_5_omni.thinker import Thinker
from tests.nodes.qwen2_5_omni.prompts import QUESTION, ChoiceRun, UnaskedRun, media_inputs, segments, text_inputs
from tests.nodes.qwen2_5_omni.reference import Reference

TOKENS = 12
ONE_PACKET = {"prompt": 1, "text": 1, "states": 1, "thought": 1}
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


def generate(node: Thinker, prompt: Sequence[PromptSegment], **params: Any) -> TextDelta:
    """The whole reply to one prompt."""
    params = {"max_tokens": TOKENS, **params}
    seed = params.pop("seed", 0)
    sent = run_node(node, {"r": {"prompt": prompt}}, {"r": params}, seed=seed)["r"]
    return TextDelta.merge(sent["text"])


def comparable(sent: dict[str, list[Any]]) -> tuple[Any, ...]:
    """Everything of one request's packets that must not depend on the schedule, floats apart."""
    return sent["text"], [t.token_id for t in sent["thought"]], TextDelta.merge(sent["text"])


def same_floats(a: dict[str, list[Any]], b: dict[str, list[Any]]) -> None:
    for port, name in (("states", "states"), ("states", "positions"), ("thought", "state")):
        axis = 1 if name == "positions" else 0
        mine, other = (
            np.concatenate([getattr(p, name).values for p in packets[port]], axis=axis) for packets in (a, b)
        )
        np.testing.assert_allclose(mine, other, atol=1e-5)


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


def test_requests_that_share_the_batch_answer_as_each_alone(thinker: Thinker, prompts: dict[str, Any]) -> None:
    """In any order of arrival, with windows of one packet."""
    params = {request: {"max_tokens": TOKENS} for request in prompts}
    alone = {r: run_node(thinker, {r: {"prompt": p}}, {r: params[r]})[r] for r, p in prompts.items()}
    inputs = {request: {"prompt": prompt} for request, prompt in prompts.items()}
    for seed in range(6):
        together = run_node(thinker, inputs, params, windows=ONE_PACKET if seed % 2 else None, rng=random.Random(seed))
        for request in prompts:
            assert comparable(together[request]) == comparable(alone[request])
            same_floats(together[request], alone[request])


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
    row_bytes = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, head_dim, float32
    longest = max(sum(len(segment.token_ids) for segment in prompt) for prompt in prompts.values())
    node = Thinker(str(tiny_folder), kv_bytes=row_bytes * (longest + TOKENS + 16))
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


def test_states_are_cut_by_rows(thinker: Thinker, prompts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_node(thinker, {"r": {"prompt": prompts["r1"]}}, {"r": {"max_tokens": 2}})["r"]
    monkeypatch.setattr(thinker._model, "rows_a_packet", 3)
    cut = run_node(thinker, {"r": {"prompt": prompts["r1"]}}, {"r": {"max_tokens": 2}}, windows=ONE_PACKET)["r"]
    assert max(len(packet.states) for packet in cut["states"]) == 3
    assert [packet.last for packet in cut["states"]] == [False] * (len(cut["states"]) - 1) + [True]
    same_floats(cut, whole)


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
    node = Thinker(str(tiny_folder), kv_bytes=512 * 16 * blocks)
    reply = generate(node, prompts["r1"], max_tokens=1024)
    assert reply.finish_reason == "length"
    assert len(reply.token_ids) == blocks * 16 - length
    assert reply.token_ids == generate(thinker, prompts["r1"], max_tokens=16).token_ids[: len(reply.token_ids)]


# ---- what nobody reads


def test_what_nobody_reads_is_not_computed(
    thinker: Thinker, prompts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not_be_called(_: Any) -> None:
        raise AssertionError("computed for nobody")

    whole = generate(thinker, prompts["r1"])
    monkeypatch.setattr(thinker._model, "prompt_states", must_not_be_called)
    monkeypatch.setattr(thinker._model, "thought", must_not_be_called)
    inputs = {"r": {"prompt": prompts["r1"]}}
    sent = run_node(thinker, inputs, {"r": {"max_tokens": TOKENS}}, outputs=["text"], windows=ONE_PACKET)["r"]
    assert TextDelta.merge(sent["text"]) == whole


def test_text_goes_on_when_the_talker_has_enough(thinker: Thinker, prompts: dict[str, Any]) -> None:
    run = NodeRun(thinker, windows={"thought": 1})
    run.paused.add("r")
    run.open("r", {"prompt": prompts["r1"]}, {"max_tokens": TOKENS})
    run.run()
    run.stop("r", "states")
    run.stop("r", "thought")
    run.paused.clear()
    run.run()
    assert TextDelta.merge(run.outputs["r"]["text"]) == generate(thinker, prompts["r1"])


# ---- failures


def failure(node: Thinker, prompt: Sequence[PromptSegment], **params: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        run_node(node, {"bad": {"prompt": prompt}}, {"bad": params})
    assert caught.value.request == "bad"
    return caught.value


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; allowed: 1 or more"),
        ({"temperature": -1.0}, r"temperature is -1.0; allowed: 0 \(greedy\) or more"),
        ({"top_p": 1.5}, "top_p is 1.5; allowed: more than 0, at most 1"),
        ({"stop": ["x", ""]}, "stop is .*; allowed: strings that are not empty"),
    ],
)
def test_params_out_of_range_are_refused_by_name(
    thinker: Thinker, prompts: dict[str, Any], params: dict[str, Any], message: str
) -> None:
    error = failure(thinker, prompts["r0"], **params)
    assert error.code is Code.INVALID_INPUT
    with pytest.raises(RequestError, match=message):
        raise error


def test_a_prompt_longer_than_the_context_is_refused(tiny_folder: Path, prompts: dict[str, Any]) -> None:
    node = Thinker(str(tiny_folder), kv_bytes=512 * 32)
    length = sum(len(segment.token_ids) for segment in prompts["r2"])
    error = failure(node, prompts["r2"])
    assert error.code is Code.INVALID_INPUT
    assert error.message == f"the prompt has {length} tokens; allowed: at most 31"
    assert node._model.free_blocks == 2


def test_ids_outside_the_vocabulary_are_refused(thinker: Thinker, prompts: dict[str, Any]) -> None:
    segment = replace(prompts["r0"][0], token_ids=Array.of([512] * len(prompts["r0"][0].token_ids), "int64"))
    assert failure(thinker, [segment]).message == "the prompt has token id 512; allowed: 0 to 511"


def test_a_prompt_that_never_ends_properly_is_a_failure(thinker: Thinker, prompts: dict[str, Any]) -> None:
    error = failure(thinker, [replace(prompts["r0"][-1], last=False)])
    assert (error.code, error.message) == (Code.NODE_FAILED, "prompt ended before its last segment")
    assert failure(thinker, []).code is Code.NODE_FAILED


def test_a_failed_request_takes_nobody_with_it(thinker: Thinker, prompts: dict[str, Any]) -> None:
    """NaN from an encoder, rows of the wrong size and an impossible id, in one batch with a healthy request."""
    positions = Array.of(np.tile(np.arange(4), (3, 1)))
    ids = Array.of([1, 2, 3, 4], "int64")
    bad = {
        "nan": PromptSegment(ids, positions, "audio", "user", Array.of(np.full((4, 64), np.nan, "float32")), 4, True),
        "size": PromptSegment(ids, positions, "image", "user", Array.empty(4, 63), 4, True),
        "id": PromptSegment(Array.of([-1, 2, 3, 4], "int64"), positions, "text", "user", Array.empty(0, 0), 4, True),
    }
    run = NodeRun(thinker)
    for request, segment in bad.items():
        run.open(request, {"prompt": [segment]}, {"max_tokens": TOKENS})
    run.open("good", {"prompt": prompts["r1"]}, {"max_tokens": TOKENS})
    while run.move():
        for request in list(run.errors):
            run.close(request)
    codes = {request: error.code for request, error in run.errors.items()}
    assert codes == {"nan": Code.NUMERIC, "size": Code.NODE_FAILED, "id": Code.INVALID_INPUT}
    assert "(4, 63); allowed: (4, 64)" in run.errors["size"].message
    assert TextDelta.merge(run.outputs["good"]["text"]) == generate(thinker, prompts["r1"])


def test_a_step_that_breaks_fails_those_it_computed_for_and_no_others(
    thinker: Thinker, prompts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> None:
        raise RuntimeError("boom")

    run = NodeRun(thinker, windows={"text": 2})
    run.paused.add("paused")
    for request in ("paused", "running"):
        run.open(request, {"prompt": prompts["r1"]}, {"max_tokens": TOKENS})
    while len(run.outputs["running"]["text"]) < 5:
        run.move()
    monkeypatch.setattr(thinker._model._engine._runner, "run", broken)
    while run.move() and not run.errors:
        pass
    assert list(run.errors) == ["running"]
    monkeypatch.undo()
    run.close("running")
    run.paused.clear()
    run.run()
    assert TextDelta.merge(run.outputs["paused"]["text"]) == generate(thinker, prompts["r1"])


def test_a_cancelled_request_frees_its_blocks_at_any_moment(thinker: Thinker, prompts: dict[str, Any]) -> None:
    for moves in range(0, 40, 3):
        run = NodeRun(thinker)
        run.open("r", {"prompt": prompts["r2"]}, {"max_tokens": TOKENS})
        for _ in range(moves):
            run.move()
        run.close("r")
        assert thinker._model.free_blocks == thinker._model._engine.kv.pool.blocks
