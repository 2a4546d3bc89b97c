"""A request that lost its replica: Thinker and Talker repeat what they chose, many rows a step, and go on from there.

What would break for a user: text or speech that changes, or stands still, after a replica died.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from omni_graph.errors import Code, RequestError
from omni_graph.payload import TextDelta
from omni_graph.testing import NodeRun
from omni_nodes.engine.runner import Runner
from omni_nodes.payloads import PromptSegment
from omni_nodes.qwen2_5_omni.talker import Talker
from omni_nodes.qwen2_5_omni.thinker import Thinker
from tests.nodes.qwen2_5_omni.prompts import QUESTION, TOKENS, close, segments, talker_inputs, text_inputs
from tests.nodes.qwen2_5_omni.reference import Reference

CHUNK = 64
CODES = 24
GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 1.2, "top_p": 0.95, "repetition_penalty": 1.3}
Inputs = Mapping[str, Sequence[Any]]
Choices = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Said:
    """What a request sent and chose."""

    packets: Mapping[str, list[Any]]
    choices: Choices

    def same_as(self, other: Said) -> None:
        """Ids, text, counts and packet boundaries to the bit, floats but for the batch around them."""
        assert self.choices == other.choices
        for port, packets in other.packets.items():
            assert close(self.packets[port], packets), port


def play(node: Any, inputs: Inputs, params: Mapping[str, Any], *, forced: Choices = (), seed: int = 3) -> Said:
    """One request by itself. Raises the RequestError that it failed with."""
    run = NodeRun(node)
    run.open("r", inputs, params, seed, forced=forced)
    run.run()
    for error in run.errors.values():
        raise error
    assert run.complete("r")
    run.close("r")
    return Said(run.outputs["r"], run.choices("r"))


def refusal(node: Any, inputs: Inputs, params: Mapping[str, Any], forced: Choices) -> str:
    """The message with which choices that do not fit are refused."""
    with pytest.raises(RequestError) as caught:
        play(node, inputs, params, forced=forced)
    assert (caught.value.request, caught.value.code) == ("r", Code.DIVERGED)
    return caught.value.message


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Rows of each request in each forward, as they come."""
    seen: list[dict[str, int]] = []
    run = Runner.run

    def counted(self: Runner, slices: Any) -> Any:
        seen.append({request: len(rows) for request, rows in slices})
        return run(self, slices)

    monkeypatch.setattr(Runner, "run", counted)
    return seen


@pytest.fixture(scope="module")
def thinker(tiny_folder: Path) -> Thinker:
    return Thinker(str(tiny_folder), prefill_chunk=CHUNK, prefix_cache=False)  # every row is computed, and counted


@pytest.fixture(scope="module")
def talker(tiny_folder: Path) -> Talker:
    return Talker(str(tiny_folder), prefill_chunk=CHUNK, prefix_cache=False)


@pytest.fixture(scope="module")
def prompt(reference: Reference) -> list[PromptSegment]:
    return segments(reference, text_inputs(reference, QUESTION))


@pytest.fixture(scope="module")
def heard(thinker: Thinker, prompt: list[PromptSegment]) -> Inputs:
    """What the Talker hears of a reply shorter than its speech: thoughts, the end mark, padding."""
    return talker_inputs(thinker, prompt, TOKENS)


@pytest.fixture(autouse=True)
def nothing_is_left(thinker: Thinker, talker: Talker) -> Any:
    """Whatever a test did to the shared nodes, every KV block is free again."""
    yield
    for node in (thinker, talker):
        assert node._model.free_blocks == node._model._engine.kv.pool.blocks
        assert not node._requests


def length(prompt: Sequence[PromptSegment]) -> int:
    return sum(len(segment.token_ids) for segment in prompt)


# ---- the Thinker


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
def test_any_prefix_of_the_tokens_forced_gives_the_same_reply(
    thinker: Thinker, prompt: list[PromptSegment], params: dict[str, Any]
) -> None:
    params = {"max_tokens": TOKENS, **params}
    whole = play(thinker, {"prompt": prompt}, params)
    assert len(whole.choices) == TOKENS
    assert TextDelta.merge(whole.packets["text"]).finish_reason == "length"
    for count in range(TOKENS + 1):
        play(thinker, {"prompt": prompt}, params, forced=whole.choices[:count]).same_as(whole)


def test_forced_tokens_are_repeated_where_another_seed_would_choose_otherwise(
    thinker: Thinker, prompt: list[PromptSegment]
) -> None:
    params = {"max_tokens": TOKENS, **SAMPLED}
    whole = play(thinker, {"prompt": prompt}, params)
    other = play(thinker, {"prompt": prompt}, params, seed=4)
    mixed = play(thinker, {"prompt": prompt}, params, seed=4, forced=whole.choices[:5])
    assert other.choices[:5] != whole.choices[:5]
    assert mixed.choices[:5] == whole.choices[:5]
    assert mixed.choices != whole.choices


def test_the_penalty_covers_forced_tokens(thinker: Thinker, prompt: list[PromptSegment]) -> None:
    """A penalty that forbids repetition: a token of the forced part never comes again."""
    params = {"max_tokens": 60, "temperature": 0.0, "repetition_penalty": 1e6}
    whole = play(thinker, {"prompt": prompt}, params)
    assert len(set(whole.choices)) == len(whole.choices) == 60
    play(thinker, {"prompt": prompt}, params, forced=whole.choices[:30]).same_as(whole)


def test_forced_tokens_are_computed_together(
    thinker: Thinker, prompt: list[PromptSegment], steps: list[dict[str, int]]
) -> None:
    """All rows that another forced token follows go into one step; the last token may be the end."""
    whole = play(thinker, {"prompt": prompt}, {"max_tokens": 50})
    steps.clear()
    play(thinker, {"prompt": prompt}, {"max_tokens": 50}, forced=whole.choices[:40])
    prompt_steps = -(-length(prompt) // CHUNK)
    assert [step["r"] for step in steps[prompt_steps:]] == [39, *[1] * 10]
    steps.clear()
    play(thinker, {"prompt": prompt}, {"max_tokens": 50}, forced=whole.choices)
    assert [step["r"] for step in steps[prompt_steps:]] == [49]


def test_forced_tokens_keep_to_the_prompt_budget_and_hold_up_no_reply(
    tiny_folder: Path, prompt: list[PromptSegment], steps: list[dict[str, int]]
) -> None:
    node = Thinker(str(tiny_folder), prefill_chunk=8)
    whole = play(node, {"prompt": prompt}, {"max_tokens": 50})
    run = NodeRun(node)
    run.open("live", {"prompt": prompt}, {"max_tokens": 50})
    while len(run.outputs["live"]["text"]) < 2:
        run.move()
    steps.clear()
    run.open("again", {"prompt": prompt}, {"max_tokens": 50}, forced=whole.choices)
    run.run()
    both = [step for step in steps if len(step) == 2]
    assert max(step.get("again", 0) for step in steps) == 8
    assert both
    assert all(step["live"] == 1 for step in both)
    for request in ("live", "again"):
        assert close(run.outputs[request]["text"], whole.packets["text"])
        run.close(request)


def test_a_slow_client_bounds_what_is_repeated_ahead_of_it(
    thinker: Thinker, prompt: list[PromptSegment], steps: list[dict[str, int]]
) -> None:
    """Room for four deltas is room for four rows, whatever is still to repeat."""
    whole = play(thinker, {"prompt": prompt}, {"max_tokens": TOKENS})
    run = NodeRun(thinker, windows={"text": 4})
    run.paused.add("r")
    steps.clear()
    run.open("r", {"prompt": prompt}, {"max_tokens": TOKENS}, forced=whole.choices)
    run.run()
    assert all(step["r"] <= 4 for step in steps[-(-length(prompt) // CHUNK) :])
    assert sum(step["r"] for step in steps) < length(prompt) + TOKENS - 1
    run.paused.clear()
    run.run()
    assert close(run.outputs["r"]["text"], whole.packets["text"])
    run.close("r")


def test_stop_strings_cut_inside_the_forced_part(thinker: Thinker, prompt: list[PromptSegment]) -> None:
    text = TextDelta.merge(play(thinker, {"prompt": prompt}, {"max_tokens": TOKENS}).packets["text"]).text
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    params = {"max_tokens": TOKENS, "stop": [stop]}
    whole = play(thinker, {"prompt": prompt}, params)
    reply = TextDelta.merge(whole.packets["text"])
    assert (reply.text, reply.finish_reason) == (text[: text.index(stop)], "stop")
    assert 1 < len(whole.choices) < TOKENS
    for count in range(len(whole.choices) + 1):
        play(thinker, {"prompt": prompt}, params, forced=whole.choices[:count]).same_as(whole)


def test_a_forced_end_token_ends_the_reply(thinker: Thinker, prompt: list[PromptSegment]) -> None:
    long = play(thinker, {"prompt": prompt}, {"max_tokens": TOKENS})
    params = {"max_tokens": TOKENS, "stop_token_ids": [long.choices[6][0]]}
    whole = play(thinker, {"prompt": prompt}, params)
    assert TextDelta.merge(whole.packets["text"]).finish_reason == "stop"
    for count in range(len(whole.choices) + 1):
        play(thinker, {"prompt": prompt}, params, forced=whole.choices[:count]).same_as(whole)


def test_tokens_that_cannot_be_repeated_are_refused_by_name(thinker: Thinker, prompt: list[PromptSegment]) -> None:
    choices = play(thinker, {"prompt": prompt}, {"max_tokens": TOKENS}).choices
    inputs = {"prompt": prompt}
    size = thinker._model.vocabulary
    assert refusal(thinker, inputs, {}, [choices[0], (size,)]) == (
        f"choice 1 to repeat is ({size},); allowed: one id, 0 to {size - 1}"
    )
    assert "choice 0 to repeat is (1, 2)" in refusal(thinker, inputs, {}, [(1, 2)])
    assert (
        refusal(thinker, inputs, {"max_tokens": 5}, choices)
        == f"{TOKENS} tokens to repeat; allowed: 5, the reply's limit"
    )
    ends = {"stop_token_ids": [choices[6][0]]}
    at = choices.index(choices[6])
    left = TOKENS - at - 1
    assert refusal(thinker, inputs, ends, choices) == f"token {at} ends the reply (stop), and {left} to repeat are left"


def test_a_cancel_in_the_middle_of_forced_tokens_frees_everything(
    tiny_folder: Path, prompt: list[PromptSegment]
) -> None:
    node = Thinker(str(tiny_folder), prefill_chunk=8)
    whole = play(node, {"prompt": prompt}, {"max_tokens": 50})
    run = NodeRun(node)
    for request in ("gone", "stays"):
        run.open(request, {"prompt": prompt}, {"max_tokens": 50}, forced=whole.choices)
    while node._model._engine.handed("gone") <= length(prompt):
        run.move()
    assert node._model.forced("gone") > 8
    assert node._model.waiting("gone") > 8
    run.close("gone")
    run._finished.add("gone")
    run.run()
    assert close(run.outputs["stays"]["text"], whole.packets["text"])
    run.close("stays")
    assert node._model.free_blocks == node._model._engine.kv.pool.blocks


# ---- the Talker


@pytest.mark.parametrize("params", [GREEDY, {"temperature": 0.9}])
def test_any_prefix_of_the_codes_forced_gives_the_same_speech(
    talker: Talker, heard: Inputs, params: dict[str, Any]
) -> None:
    params = {"max_tokens": CODES, **params}
    whole = play(talker, heard, params)
    assert len(whole.choices) == CODES > len(heard["thought"]) + 2
    for count in range(CODES + 1):
        play(talker, heard, params, forced=whole.choices[:count]).same_as(whole)


def test_forced_codes_are_computed_together(talker: Talker, heard: Inputs, steps: list[dict[str, int]]) -> None:
    """Behind the prompt, the two rows that begin the speech, and a row for every forced code that another follows."""
    params = {"max_tokens": CODES, **GREEDY}
    whole = play(talker, heard, params)
    rows = sum(len(packet.states) for packet in heard["prompt"]) + 2
    steps.clear()
    play(talker, heard, params, forced=whole.choices[:20])
    counts = [step["r"] for step in steps]
    assert sum(counts) == rows + CODES - 1
    assert counts[-(CODES - 20) :] == [1] * (CODES - 20)
    assert len(counts) <= -(-(rows + 19) // CHUNK) + CODES - 20 + 1


class FewThoughts(NodeRun):
    """A run in which only so many thoughts have come yet."""

    thoughts = 0

    def _can_feed(self, key: tuple[str, int]) -> bool:
        late = self._edges[key[1]].reader_port == "thought" and self._senders[key].sent >= self.thoughts
        return not late and super()._can_feed(key)


def test_codes_are_repeated_as_far_as_thoughts_have_come(talker: Talker, heard: Inputs) -> None:
    params = {"max_tokens": CODES, **GREEDY}
    whole = play(talker, heard, params)
    run = FewThoughts(talker)
    run.open("r", heard, params, 3, forced=whole.choices)
    for thoughts in (0, 1, 2, 7, 8):
        run.thoughts = thoughts
        run.run()
        assert len(run.outputs["r"]["codes"]) == thoughts
    run.thoughts = len(heard["thought"]) + 1
    run.run()
    assert close(run.outputs["r"]["codes"], whole.packets["codes"])
    run.close("r")


def test_forced_codes_stay_within_room(talker: Talker, heard: Inputs) -> None:
    """And no thought is taken whose code has nowhere to go."""
    params = {"max_tokens": CODES, **GREEDY}
    whole = play(talker, heard, params)
    run = NodeRun(talker, windows={"codes": 3, "thought": 1})
    run.paused.add("r")
    run.open("r", heard, params, 3, forced=whole.choices)
    run.run()
    thoughts = next(n for n, edge in run._edges.items() if edge.reader_port == "thought")
    assert run._senders["r", thoughts].sent == 3 + 1
    run.paused.clear()
    run.run()
    assert close(run.outputs["r"]["codes"], whole.packets["codes"])
    run.close("r")


def test_a_forced_end_of_speech_ends_it(talker: Talker, heard: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"max_tokens": CODES, **GREEDY}
    codes = play(talker, heard, params).choices
    monkeypatch.setattr(talker, "_ends", frozenset(codes[9]))
    whole = play(talker, heard, params)
    assert len(whole.packets["codes"]) == len(whole.choices) - 1
    for count in range(len(whole.choices) + 1):
        play(talker, heard, params, forced=whole.choices[:count]).same_as(whole)
    at = codes.index(codes[9])
    message = f"the speech ends after {at + 1} codes, and {CODES - at - 1} to repeat are left"
    assert refusal(talker, heard, params, codes) == message


def test_codes_that_cannot_be_repeated_are_refused_by_name(talker: Talker, heard: Inputs) -> None:
    codes = play(talker, heard, {"max_tokens": CODES}).choices
    assert "choice 0 to repeat is (128,); allowed: one id, 0 to 127" in refusal(talker, heard, {}, [(128,), *codes])
    assert "choice 1 to repeat is (); allowed: one id" in refusal(talker, heard, {}, [codes[0], ()])
    message = f"{CODES} codes to repeat; allowed: 5, the limit of the speech"
    assert refusal(talker, heard, {"max_tokens": 5}, codes) == message
    mute = {"prompt": heard["prompt"], "thought": []}
    assert refusal(talker, mute, {}, codes[:4]) == "the speech ends after 0 codes, and 4 to repeat are left"


def test_a_cancel_in_the_middle_of_forced_codes_frees_everything(tiny_folder: Path, heard: Inputs) -> None:
    params = {"max_tokens": CODES, **GREEDY}
    node = Talker(str(tiny_folder), prefill_chunk=8)
    whole = play(node, heard, params)
    run = NodeRun(node)
    for request in ("gone", "stays"):
        run.open(request, heard, params, 3, forced=whole.choices)
    while not run.outputs["gone"]["codes"]:
        run.move()
    assert node._model.forced("gone") > 0
    run.close("gone")
    run._finished.add("gone")
    run.run()
    assert close(run.outputs["stays"]["codes"], whole.packets["codes"])
    run.close("stays")
    assert node._model.free_blocks == node._model._engine.kv.pool.blocks


# ---- both


@pytest.mark.parametrize(("tokens", "codes"), [(0, 0), (1, 0), (5, 3), (TOKENS, 9), (TOKENS, 20), (TOKENS, CODES)])
def test_a_replayed_thinker_makes_a_replayed_talker_say_the_same(
    thinker: Thinker, talker: Talker, prompt: list[PromptSegment], tokens: int, codes: int
) -> None:
    """The Thinker's replayed thoughts differ in their last bits; neither the forced nor the sampled codes do."""
    text_params, speech_params = {"max_tokens": TOKENS, **SAMPLED}, {"max_tokens": CODES}
    text = play(thinker, {"prompt": prompt}, text_params)
    speech = play(talker, _heard_of(text), speech_params)
    again = play(thinker, {"prompt": prompt}, text_params, forced=text.choices[:tokens])
    again.same_as(text)
    play(talker, _heard_of(again), speech_params, forced=speech.choices[:codes]).same_as(speech)


def _heard_of(said: Said) -> Inputs:
    return {"prompt": said.packets["states"], "thought": said.packets["thought"]}


def test_replays_share_the_batch_with_requests_that_run_once(
    thinker: Thinker, talker: Talker, prompt: list[PromptSegment], heard: Inputs
) -> None:
    cases = ((thinker, {"prompt": prompt}, TOKENS, "text"), (talker, heard, CODES, "codes"))
    for node, inputs, most, port in cases:
        params = {"max_tokens": most, "temperature": 0.9}
        whole = {seed: play(node, inputs, params, seed=seed) for seed in range(4)}
        run = NodeRun(node)
        for seed, said in whole.items():
            run.open(str(seed), inputs, params, seed, forced=said.choices[: seed * 4])
        run.run()
        for seed, said in whole.items():
            assert close(run.outputs[str(seed)][port], said.packets[port])
            run.close(str(seed))
