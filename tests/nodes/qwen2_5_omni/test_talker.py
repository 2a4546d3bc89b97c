"""The Talker node against transformers (its inputs mended: reference.py), and against itself under every schedule."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_graph.errors import Code, RequestError
from omni_graph.payload import Array
from omni_graph.testing import check_node, run_node
from omni_graph.testing.run import NodeRun
from omni_nodes.payloads import PromptStates, Thought
from omni_nodes.qwen2_5_omni.talker import Talker
from omni_nodes.qwen2_5_omni.thinker import Thinker
from tests.nodes.qwen2_5_omni.prompts import (
    QUESTION,
    TOKENS,
    ChoiceRun,
    UnaskedRun,
    media_inputs,
    segments,
    talker_inputs,
    text_inputs,
)
from tests.nodes.qwen2_5_omni.reference import Reference

CODES = 40
GREEDY = {"temperature": 0.0, "max_tokens": CODES}
ONE_PACKET = {"prompt": 1, "thought": 1, "codes": 1}
TEXTS = ("hello", QUESTION, "the quick brown fox jumps over the lazy dog " * 4, "a b c")
Inputs = Mapping[str, Sequence[Any]]


@pytest.fixture(scope="module")
def thinker(tiny_folder: Path) -> Thinker:
    return Thinker(str(tiny_folder))


@pytest.fixture(scope="module")
def talker(tiny_folder: Path) -> Talker:
    return Talker(str(tiny_folder), prefill_chunk=64)


@pytest.fixture(scope="module")
def heard(thinker: Thinker, reference: Reference) -> dict[str, Inputs]:
    """What the Thinker sends for four prompts of different lengths, with replies of different lengths."""
    return {
        f"r{n}": talker_inputs(thinker, segments(reference, text_inputs(reference, text)), TOKENS + n)
        for n, text in enumerate(TEXTS)
    }


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Any:
    """Whatever a test did to the shared node, every KV block is free again."""
    yield
    if "talker" in request.fixturenames:
        node = request.getfixturevalue("talker")
        assert node._model.free_blocks == node._model._engine.kv.pool.blocks
        assert not node._requests


def codes_of(packets: Sequence[Any]) -> tuple[int, ...]:
    assert all(packet.values.shape == (1, 1) and packet.values.dtype == "int64" for packet in packets)
    return tuple(int(packet.values.values[0, 0]) for packet in packets)


def speak(node: Talker, inputs: Inputs, *, seed: int = 0, **params: Any) -> tuple[int, ...]:
    sent = run_node(node, {"r": inputs}, {"r": {**GREEDY, **params}}, seed=seed)["r"]["codes"]
    return codes_of(sent)


# ---- equal to transformers


@pytest.mark.parametrize("chunk", [1000, 64, 16, 1])
def test_greedy_codes_equal_transformers_for_any_prefill_chunk(
    tiny_folder: Path, thinker: Thinker, reference: Reference, chunk: int
) -> None:
    """With a reply of fewer tokens than codes: thoughts, the text's end, then padding for ever."""
    inputs = text_inputs(reference, QUESTION)
    answer = reference.generate(inputs, max_tokens=TOKENS, talker_max_tokens=CODES)
    node = Talker(str(tiny_folder), prefill_chunk=chunk)
    codes = speak(node, talker_inputs(thinker, segments(reference, inputs), TOKENS))
    assert len(answer.codes) == CODES
    assert codes == answer.codes


@pytest.mark.parametrize("voice", ["Chelsie", "Ethan"])
def test_media_prompts_and_voices_equal_transformers(
    thinker: Thinker, talker: Talker, reference: Reference, voice: str
) -> None:
    inputs = media_inputs(reference)
    answer = reference.generate(inputs, max_tokens=TOKENS, talker_max_tokens=CODES, voice=voice)
    heard = talker_inputs(thinker, segments(reference, inputs, most=7), TOKENS)
    sent = run_node(talker, {"r": heard}, {"r": {**GREEDY, "voice": voice}})["r"]["codes"]
    assert codes_of(sent) == answer.codes
    assert {packet.voice for packet in sent} == {voice}


@pytest.mark.parametrize("tokens", [2, 3])
def test_the_shortest_replies_equal_transformers(
    thinker: Thinker, talker: Talker, reference: Reference, tokens: int
) -> None:
    inputs = text_inputs(reference, "hello")
    answer = reference.generate(inputs, max_tokens=tokens, talker_max_tokens=CODES)
    assert speak(talker, talker_inputs(thinker, segments(reference, inputs), tokens)) == answer.codes


def test_the_odd_shape_equals_transformers(odd_folder: Path, odd_reference: Reference) -> None:
    inputs = text_inputs(odd_reference, QUESTION)
    answer = odd_reference.generate(inputs, max_tokens=TOKENS, talker_max_tokens=CODES)
    heard = talker_inputs(Thinker(str(odd_folder)), segments(odd_reference, inputs), TOKENS)
    assert speak(Talker(str(odd_folder)), heard) == answer.codes


def test_speech_that_ends_by_itself_equals_transformers(stopping_folder: Path, stopping_reference: Reference) -> None:
    """The code that ends speech is not sent. Replies that transformers crashes on are in the tests below."""
    thinker, talker = Thinker(str(stopping_folder)), Talker(str(stopping_folder))
    ended = 0
    for text in (*TEXTS, *(f"question {n}" for n in range(12))):
        inputs = text_inputs(stopping_reference, text)
        heard = talker_inputs(thinker, segments(stopping_reference, inputs), 40)
        codes = speak(talker, heard, max_tokens=200)
        if not heard["thought"] or not codes:
            continue
        assert codes == stopping_reference.generate(inputs, max_tokens=40, talker_max_tokens=200).codes
        ended += len(codes) < 200
        if ended == 2:
            return
    pytest.fail("no two of these prompts make the tiny Talker end by itself")


def test_the_penalty_covers_the_codes_that_stand_for_the_prompt(
    tiny_folder: Path, tmp_path: Path, thinker: Thinker, reference: Reference
) -> None:
    """One of them, the padding, ends speech: here it scores 2% above the first code, and 5% of penalty hold it back."""
    inputs = text_inputs(reference, QUESTION)
    heard = talker_inputs(thinker, segments(reference, inputs), TOKENS)
    first, pad = speak(Talker(str(tiny_folder)), heard)[0], reference.model.talker.codec_pad_token
    head = reference.model.talker.codec_head.weight
    saved = head[pad].clone()
    head[pad] = 1.02 * head[first]
    try:
        answer = reference.generate(inputs, max_tokens=TOKENS, talker_max_tokens=CODES)
        folder = with_codec_head(tiny_folder, tmp_path, head)
    finally:
        head[pad] = saved
    assert answer.codes[0] == first
    assert speak(Talker(str(folder)), heard) == answer.codes


def with_codec_head(folder: Path, place: Path, head: torch.Tensor) -> Path:
    """A copy of a checkpoint in one file, with another ``head`` of the Talker."""
    copy = Path(shutil.copytree(folder, place / "changed"))
    tensors = load_file(copy / "model.safetensors")
    save_file({**tensors, "talker.codec_head.weight": head}, copy / "model.safetensors", {"format": "pt"})
    return copy


# ---- the same under any schedule and demand


@pytest.mark.parametrize("params", [GREEDY, {"max_tokens": CODES}])
def test_it_keeps_the_rules_of_a_node(tiny_folder: Path, heard: dict[str, Inputs], params: dict[str, Any]) -> None:
    """The same codes alone and in company, in any order and window, through cancels and stops."""
    inputs = [heard["r2"], heard["r1"], {"prompt": heard["r0"]["prompt"], "thought": []}]
    node = Talker(str(tiny_folder), max_batch=2, prefill_chunk=16)
    check_node(lambda: node, inputs, params, seeds=range(4))
    assert node._model.free_blocks == node._model._engine.kv.pool.blocks


def test_requests_that_share_the_batch_speak_as_each_alone(talker: Talker, heard: dict[str, Inputs]) -> None:
    alone = {request: speak(talker, inputs) for request, inputs in heard.items()}
    assert len(set(alone.values())) == len(alone)
    sent = run_node(talker, heard, dict.fromkeys(heard, GREEDY), rng=random.Random(0))
    assert {request: codes_of(sent[request]["codes"]) for request in heard} == alone


class LateThoughts(NodeRun):
    """A run in which the thoughts of some requests have not come yet."""

    late: frozenset[str] = frozenset()

    def _can_feed(self, key: tuple[str, int]) -> bool:
        thought = self._edges[key[1]].reader_port == "thought"
        return not (thought and key[0] in self.late) and super()._can_feed(key)


def test_a_request_whose_thoughts_are_late_holds_nobody_up(talker: Talker, heard: dict[str, Inputs]) -> None:
    run = LateThoughts(talker)
    run.late = frozenset({"r0"})
    for request in ("r0", "r1"):
        run.open(request, heard[request], GREEDY)
    run.run()
    assert run.complete("r1")
    assert run.outputs["r0"]["codes"] == []
    run.late = frozenset()
    run.run()
    assert codes_of(run.outputs["r0"]["codes"]) == speak(talker, heard["r0"])


def test_a_paused_client_pauses_its_own_speech_alone(talker: Talker, heard: dict[str, Inputs]) -> None:
    """And the Thinker: not one thought more than there are codes is taken."""
    run = NodeRun(talker, windows={"codes": 3, "thought": 2})
    run.paused.add("r0")
    for request in ("r0", "r1"):
        run.open(request, heard[request], GREEDY)
    run.run()
    assert run.complete("r1")
    thoughts = next(n for n, edge in run._edges.items() if edge.reader_port == "thought")
    assert run._senders["r0", thoughts].sent <= 3 + 2
    run.paused.clear()
    run.run()
    assert codes_of(run.outputs["r0"]["codes"]) == speak(talker, heard["r0"])


def test_nothing_is_taken_that_nobody_asked_for(talker: Talker, heard: dict[str, Inputs]) -> None:
    whole = heard["r0"]["prompt"][0]
    prompt = [replace(whole, last=False), whole]
    run = UnaskedRun(talker, windows=ONE_PACKET)
    run.open("r", {"prompt": prompt, "thought": heard["r0"]["thought"]}, GREEDY)
    run.run()
    assert (run.sent("r", "prompt"), run.sent("r", "thought")) == (1, 1)  # they wait at the node, untaken
    run.close("r")


def test_sampling_repeats_by_seed_in_any_company(talker: Talker, heard: dict[str, Inputs]) -> None:
    params = {"max_tokens": CODES, "temperature": 0.9}
    sent = run_node(talker, heard, dict.fromkeys(heard, params), seed=5, rng=random.Random(0))
    for request, inputs in heard.items():
        alone = speak(talker, inputs, seed=5, **params)
        assert codes_of(sent[request]["codes"]) == alone
        assert speak(talker, inputs, seed=6, **params) != alone


def test_codes_without_an_embedding_in_the_codec_never_come(talker: Talker, heard: dict[str, Inputs]) -> None:
    wild = {"temperature": 50.0, "top_k": 0, "top_p": 1.0, "max_tokens": 300}
    said = [code for seed in range(3) for code in speak(talker, heard["r0"], seed=seed, **wild)]
    assert len(set(said)) > 50
    assert max(said) < 100  # the tiny DiT knows 0..99; 128 codes are in the Talker's vocabulary


# ---- how speech ends


def test_every_code_brings_its_choice_and_the_end_brings_the_last(
    talker: Talker, heard: dict[str, Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = speak(talker, heard["r0"])
    last = codes.index(codes[7])
    monkeypatch.setattr(talker, "_ends", frozenset({codes[last]}))
    run = ChoiceRun(talker)
    run.open("r", heard["r0"], GREEDY)
    run.run()
    assert run.carried["codes"] == [*(("data", [(code,)]) for code in codes[:last]), ("end", [(codes[last],)])]


def test_a_thinker_that_ends_with_its_first_token_has_nothing_said(talker: Talker, heard: dict[str, Inputs]) -> None:
    assert speak(talker, {"prompt": heard["r0"]["prompt"], "thought": []}) == ()


def test_speech_that_ends_with_its_first_code_is_empty(
    talker: Talker, heard: dict[str, Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = speak(talker, heard["r0"])[0]
    monkeypatch.setattr(talker, "_ends", frozenset({first}))
    assert speak(talker, heard["r0"]) == ()


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_limit_ends_speech_while_the_thinker_still_writes(
    talker: Talker, heard: dict[str, Inputs], limit: int
) -> None:
    whole = speak(talker, heard["r1"])
    run = NodeRun(talker, windows={"thought": 1})
    run.open("r", heard["r1"], {**GREEDY, "max_tokens": limit})
    run.run()
    assert run.complete("r")
    assert codes_of(run.outputs["r"]["codes"]) == whole[:limit]
    thoughts = next(n for n, edge in run._edges.items() if edge.reader_port == "thought")
    assert run._senders["r", thoughts].stopped
    run.close("r")


def test_codes_are_cut_to_what_the_context_leaves(tiny_folder: Path, talker: Talker, heard: dict[str, Inputs]) -> None:
    prompt = sum(len(packet.states) for packet in heard["r1"]["prompt"])
    row_bytes = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, head_dim, float32
    blocks = -(-(prompt + 5) // 16)
    node = Talker(str(tiny_folder), kv_bytes=row_bytes * 16 * blocks)
    codes = speak(node, heard["r1"], max_tokens=4096)
    assert len(codes) == blocks * 16 - prompt - 2
    assert codes == speak(talker, heard["r1"], max_tokens=len(codes))
    assert node._model.free_blocks == blocks


# ---- failures


def failure(node: Talker, inputs: Inputs, **params: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        run_node(node, {"bad": inputs}, {"bad": params})
    assert caught.value.request == "bad"
    return caught.value


def test_an_unknown_voice_is_refused_with_the_known_ones(talker: Talker, heard: dict[str, Inputs]) -> None:
    error = failure(talker, heard["r0"], voice="Nobody")
    assert (error.code, error.message) == (Code.INVALID_INPUT, "voice is 'Nobody'; allowed: Chelsie, Ethan")


def test_params_out_of_range_are_refused_by_name(talker: Talker, heard: dict[str, Inputs]) -> None:
    error = failure(talker, heard["r0"], top_k=-1)
    assert (error.code, error.message) == (Code.INVALID_INPUT, "top_k is -1; allowed: 0 (off) or more")


def test_a_prompt_too_long_to_be_spoken_is_refused(tiny_folder: Path, heard: dict[str, Inputs]) -> None:
    prompt = sum(len(packet.states) for packet in heard["r2"]["prompt"])
    node = Talker(str(tiny_folder), kv_bytes=512 * 32)
    error = failure(node, heard["r2"])
    message = f"the prompt has {prompt} tokens; allowed with speech: at most 29"
    assert (error.code, error.message) == (Code.INVALID_INPUT, message)
    assert node._model.free_blocks == 2


def test_a_checkpoint_that_cannot_speak_refuses_speech_by_name(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mute"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "enable_audio_output": False}))
    node = Talker(str(folder))
    error = failure(node, {})
    assert error.code is Code.INVALID_INPUT
    assert error.message.startswith("this checkpoint has no speech")
    assert "enable_audio_output" in error.message


def test_a_prompt_without_its_last_packet_is_a_failure(talker: Talker, heard: dict[str, Inputs]) -> None:
    cut = [replace(packet, last=False) for packet in heard["r0"]["prompt"]]
    error = failure(talker, {"prompt": cut, "thought": heard["r0"]["thought"]})
    assert (error.code, error.message) == (Code.NODE_FAILED, "prompt ended before its last packet")


def test_a_failed_request_takes_nobody_with_it(talker: Talker, heard: dict[str, Inputs]) -> None:
    """States of the wrong size and a thought that is not finite, in one batch with a healthy request."""
    wrong = PromptStates(Array.empty(4, 63), Array.of(np.tile(np.arange(4), (3, 1))), 4, True)
    nan = Thought(Array.of(np.full((1, 64), np.nan, "float32")), 1)
    run = NodeRun(talker)
    run.open("size", {"prompt": [wrong], "thought": []}, GREEDY)
    run.open("nan", {"prompt": heard["r0"]["prompt"], "thought": [nan]}, GREEDY)
    run.open("good", heard["r1"], GREEDY)
    while run.move():
        for request in list(run.errors):
            run.close(request)
    assert {request: error.code for request, error in run.errors.items()} == {
        "size": Code.NODE_FAILED,
        "nan": Code.NUMERIC,
    }
    assert codes_of(run.outputs["good"]["codes"]) == speak(talker, heard["r1"])


def test_who_failed_and_is_cancelled_before_it_is_told_fails_nobody(talker: Talker, heard: dict[str, Inputs]) -> None:
    """A slice raises one failure; the other one's request is over before its turn."""
    wrong = PromptStates(Array.empty(4, 63), Array.of(np.tile(np.arange(4), (3, 1))), 4, True)
    run = NodeRun(talker)
    for request in ("x", "y"):
        run.open(request, {"prompt": [wrong], "thought": []}, GREEDY)
    run.open("good", heard["r1"], GREEDY)
    while not run.errors:
        assert run.move()
    run.close("y")
    run.run()
    assert set(run.errors) == {"x"}
    assert codes_of(run.outputs["good"]["codes"]) == speak(talker, heard["r1"])
