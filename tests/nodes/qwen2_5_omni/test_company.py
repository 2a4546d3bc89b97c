"""In any company, with preemption forced and the prefix cache on or off, a request says what it says alone.

What would break for a user: an answer that depends on who else is there, or on what was asked before.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omni_graph.testing import NodeRun, run_node
from omni_nodes.engine.runner import Runner
from omni_nodes.payloads import PromptSegment
from omni_nodes.qwen2_5_omni.talker import Talker
from omni_nodes.qwen2_5_omni.thinker import Thinker
from tests.nodes.qwen2_5_omni.company import Company, codes_of, keyed, prompt_of, tokens_of
from tests.nodes.qwen2_5_omni.prompts import (
    close,
    media_inputs,
    segments,
    talker_inputs,
    text_inputs,
    turn_inputs,
    video_inputs,
)
from tests.nodes.qwen2_5_omni.reference import Answer, Reference

SYSTEM = "answer in few words and be kind. "
TEXTS = (SYSTEM + "hello", SYSTEM + "hello", SYSTEM + "what is this", "a b c", SYSTEM + "a b c", SYSTEM * 2, "d")
AGAIN = {"m1": "m0"}  # the same prompt, asked by another request
VOICES = {"t1": "Ethan"}  # the others': Chelsie
WORDS = ("hello", "a", "describe")  # the stopping checkpoint ends its replies to them
CHUNKS = {1: 1000, 2: 7, 3: 16, 4: 1000, 5: 7, 6: 16, 7: 1000, 8: 1}  # of a batch
TOKENS, CODES = 10, 20
GREEDY = {"thinker": {"max_tokens": TOKENS}, "talker": {"max_tokens": CODES, "temperature": 0.0}}
SAMPLED = {"thinker": {"max_tokens": TOKENS, "temperature": 1.2, "top_p": 0.95}, "talker": {"max_tokens": CODES}}
ENDING = {"thinker": {"max_tokens": 40}, "talker": {"max_tokens": 40, "temperature": 0.0}}
ROW_BYTES = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, head_dim, float32
HIDDEN_BYTES = 64 * 4
Inputs = dict[str, dict[str, Any]]
Prompts = dict[str, list[PromptSegment]]
Heard = dict[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def asked(reference: Reference) -> Inputs:
    """Texts, media of each kind, a video with its sound, and a second turn."""
    inputs: Inputs = {f"t{n}": text_inputs(reference, text) for n, text in enumerate(TEXTS)}
    inputs |= {"m0": media_inputs(reference), "v0": video_inputs(reference), "c0": turn_inputs(reference)}
    return {**inputs, **{request: inputs[like] for request, like in AGAIN.items()}}


@pytest.fixture(scope="module")
def prompts(reference: Reference, asked: Inputs) -> Prompts:
    most = {request: 9 if request.startswith("t") else 1000 for request in asked}
    return {request: keyed(segments(reference, one, most[request])) for request, one in asked.items()}


@pytest.fixture(scope="module")
def answers(reference: Reference, asked: Inputs) -> dict[str, Answer]:
    """transformers, one request at a time."""
    return {
        request: reference.generate(
            one, max_tokens=TOKENS, talker_max_tokens=CODES, voice=VOICES.get(request, "Chelsie")
        )
        for request, one in asked.items()
    }


def longest(prompts: Prompts) -> int:
    return max(sum(len(segment.token_ids) for segment in prompt) for prompt in prompts.values())


def nodes(
    folder: Path, rows: int, batch: int, chunk: int, *, caches: bool, device: str = "cpu"
) -> tuple[Thinker, Talker]:
    """With room for so many ``rows``."""
    options: dict[str, Any] = {"max_batch": batch, "prefill_chunk": chunk, "prefix_cache": caches}
    options |= {"device": device, "dtype": "float32"}
    thinker = Thinker(str(folder), kv_bytes=rows * (ROW_BYTES + HIDDEN_BYTES * caches), **options)
    return thinker, Talker(str(folder), kv_bytes=rows * ROW_BYTES, **options)


def three(prompts: Prompts) -> int:
    """Rows for little more than three of the prompts."""
    return 3 * longest(prompts) + TOKENS + CODES


def heard(sent: Mapping[str, Any]) -> Heard:
    return {request: {"prompt": one["states"], "thought": one["thought"]} for request, one in sent.items()}


def voiced(requests: Iterable[str], params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A Talker's parameters, for each request with its voice."""
    return {request: {**params, "voice": VOICES.get(request, "Chelsie")} for request in requests}


def check_disturbed(company: Company) -> None:
    """Others left, and it was preempted: or the test showed nothing."""
    assert company.cancelled > 0
    assert company.node.counters()["preemptions"] >= company.preempted > 0


@pytest.mark.parametrize("caches", [True, False])
@pytest.mark.parametrize("batch", range(1, 9))
def test_greedy_answers_equal_transformers_one_at_a_time(
    tiny_folder: Path, prompts: Prompts, answers: dict[str, Answer], batch: int, caches: bool
) -> None:
    """Batches of 1 to 8 and chunks of any size; others join, leave and are preempted at any step."""
    rng = random.Random(batch)
    thinker, talker = nodes(tiny_folder, three(prompts), batch, CHUNKS[batch], caches=caches)
    thinking, talking = Company(thinker, rng), Company(talker, rng)
    assert answers["t0"].codes != answers["t1"].codes  # by the voice
    for _ in range(1 + caches):  # the second time, the cache has what it has room for
        inputs = {request: {"prompt": prompt} for request, prompt in prompts.items()}
        sent = thinking.play(inputs, dict.fromkeys(prompts, GREEDY["thinker"]))
        spoken = talking.play(heard(sent), voiced(prompts, GREEDY["talker"]))
        for request, answer in answers.items():
            assert tokens_of(sent[request]) == answer.token_ids, request
            assert codes_of(spoken[request]) == answer.codes, request
    for company in (thinking, talking):
        check_disturbed(company)
        counters = company.node.counters()
        assert (counters["prefix_rows_hit"] > 0) == caches
        assert counters["prefix_rows_hit"] <= counters["prefix_rows_asked"]


@pytest.mark.parametrize("caches", [True, False])
def test_replies_that_end_by_themselves_equal_transformers(
    stopping_folder: Path, stopping_reference: Reference, caches: bool
) -> None:
    """Whoever ends leaves the others in the middle of theirs."""
    asked = {f"{word}{n}": text_inputs(stopping_reference, word) for word in WORDS for n in range(4)}
    prompts = {request: segments(stopping_reference, one, most=9) for request, one in asked.items()}
    said = {
        request: stopping_reference.generate(one, max_tokens=40, talker_max_tokens=40)
        for request, one in asked.items()
        if request.endswith("0")
    }
    assert all(1 < len(answer.token_ids) < 40 and 0 < len(answer.codes) < 40 for answer in said.values())
    rng = random.Random(caches)
    thinker, talker = nodes(stopping_folder, 3 * (longest(prompts) + 80), 8, 7, caches=caches)
    thinking, talking = Company(thinker, rng), Company(talker, rng)
    inputs = {request: {"prompt": prompt} for request, prompt in prompts.items()}
    sent = thinking.play(inputs, dict.fromkeys(prompts, ENDING["thinker"]))
    spoken = talking.play(heard(sent), dict.fromkeys(prompts, ENDING["talker"]))
    for request in prompts:
        answer = said[f"{request[:-1]}0"]
        assert tokens_of(sent[request]) == answer.token_ids, request
        assert codes_of(spoken[request]) == answer.codes, request
    check_disturbed(thinking)
    check_disturbed(talking)


@pytest.mark.parametrize(("chunk", "caches"), [(7, True), (1000, True), (16, False)])
def test_sampled_answers_equal_themselves_alone(tiny_folder: Path, prompts: Prompts, chunk: int, caches: bool) -> None:
    rng = random.Random(chunk)
    thinker, talker = nodes(tiny_folder, three(prompts), 8, chunk, caches=caches)
    plain = nodes(tiny_folder, three(prompts), 1, 1000, caches=False)
    thinking, talking = Company(thinker, rng), Company(talker, rng)
    params = voiced(prompts, SAMPLED["talker"])
    inputs = {request: {"prompt": prompt} for request, prompt in prompts.items()}
    sent = thinking.play(inputs, dict.fromkeys(prompts, SAMPLED["thinker"]), seed=5)
    spoken = talking.play(heard(sent), params, seed=5)
    for request, prompt in prompts.items():
        alone = run_node(plain[0], {"r": {"prompt": prompt}}, {"r": SAMPLED["thinker"]}, seed=5)
        assert tokens_of(sent[request]) == tokens_of(alone["r"]), request
        said = run_node(plain[1], heard(alone), {"r": params[request]}, seed=5)["r"]
        assert codes_of(spoken[request]) == codes_of(said), request
    check_disturbed(thinking)
    check_disturbed(talking)


def test_a_replay_finds_what_its_first_attempt_left(tiny_folder: Path, prompts: Prompts) -> None:
    """On a replica that lives: the forced tokens too are rows of the cache, and give the same packets."""
    node = Thinker(str(tiny_folder))
    params = {"max_tokens": 40}
    run = NodeRun(node)
    run.open("r", {"prompt": prompts["t2"]}, params)
    run.run()
    run.close("r")
    before = node.counters()["prefix_rows_hit"]
    again = run_node(node, {"r": {"prompt": prompts["t2"]}}, {"r": params}, forced={"r": run.choices("r")})["r"]
    rows = sum(len(segment.token_ids) for segment in prompts["t2"])
    assert node.counters()["prefix_rows_hit"] - before == rows + 39 - rows % 16 - (rows + 39) % 16
    assert tokens_of(again) == tokens_of(run.outputs["r"])
    for port in ("states", "thought"):
        assert close(again[port], run.outputs["r"][port])


# ---- the next turn of a session


def test_the_next_turn_computes_only_what_is_new(tiny_folder: Path, thinker_rows: list[int]) -> None:
    """The first prompt and the reply to it are the beginning of the second prompt: but for the block that the two turns
    share, none of their rows is computed again, and the Talker finds the first prompt's too."""
    thinker, talker = Thinker(str(tiny_folder)), Talker(str(tiny_folder))
    first = [(7 * n) % 500 for n in range(70)]
    spoken = talker_inputs(thinker, prompt_of(first), 30)
    run_node(talker, {"r": spoken}, {"r": GREEDY["talker"]})
    reply = [thought.token_id for thought in spoken["thought"]]
    second = [*first, *reply, *((11 * n) % 500 for n in range(25))]
    thinker_rows.clear()
    asked, hit = (
        sum(node.counters()[name] for node in (thinker, talker)) for name in ("prefix_rows_asked", "prefix_rows_hit")
    )
    cached = (len(first) + len(reply)) // 16 * 16
    spoken = talker_inputs(thinker, prompt_of(second, most=10), 2)
    assert sum(thinker_rows) == len(second) - cached + 1
    assert thinker.counters()["prefix_rows_hit"] == cached
    run_node(talker, {"r": spoken}, {"r": GREEDY["talker"]})
    assert talker.counters()["prefix_rows_hit"] == len(first) // 16 * 16
    assert (asked, hit) == (2 * len(first) + len(reply), 0)


@pytest.fixture
def thinker_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each forward."""
    seen: list[int] = []
    run = Runner.run

    def counted(self: Runner, slices: Any) -> Any:
        seen.append(sum(len(rows) for _, rows in slices))
        return run(self, slices)

    monkeypatch.setattr(Runner, "run", counted)
    return seen


def test_pictures_are_found_again_by_what_they_show(tiny_folder: Path, prompts: Prompts) -> None:
    """And not at all where nobody says what that is, or where it is another one."""
    node = Thinker(str(tiny_folder))
    prompt = prompts["m0"]
    rows = sum(len(segment.token_ids) for segment in prompt)
    talker_inputs(node, prompt, 2)
    first = talker_inputs(node, prompt, 2)
    assert node.counters()["prefix_rows_hit"] == rows // 16 * 16
    media = next(n for n, segment in enumerate(prompt) if segment.modality != "text")
    before = sum(len(segment.token_ids) for segment in prompt[:media]) // 16 * 16
    for key in (b"another", b""):
        other = [replace(one, content_key=key) if n == media else one for n, one in enumerate(prompt)]
        hit = node.counters()["prefix_rows_hit"]
        assert len(talker_inputs(node, other, 2)["prompt"]) == len(first["prompt"])
        assert node.counters()["prefix_rows_hit"] - hit == before


# ---- nothing is left


def shape(rng: random.Random, media: list[PromptSegment]) -> tuple[list[PromptSegment], dict[str, Any], dict[str, Any]]:
    """A request of random shape: some begin alike, some are of ``media``."""
    ids = [rng.randrange(500)] * rng.choice((0, 20, 40)) + [rng.randrange(500) for _ in range(rng.randint(1, 40))]
    prompt = media if rng.random() < 0.1 else prompt_of(ids, most=30)
    sampling = {"temperature": rng.choice((0.0, 1.0)), "top_k": rng.choice((0, 20))}
    thinker = {"max_tokens": rng.randint(1, 12), **sampling}
    return prompt, thinker, {"max_tokens": rng.randint(1, 16), **sampling}


def resident() -> int:
    """Bytes of memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def every_row_count(thinker: Thinker, talker: Talker, rng: random.Random) -> None:
    """A step of each number of rows: oneDNN keeps the kernels of the last 1,024 shapes, which is memory, too."""
    for rows in range(1, 265):
        prompt = prompt_of([rng.randrange(500) for _ in range(rows)])
        sent = run_node(thinker, {"r": {"prompt": prompt}}, {"r": {"max_tokens": 2}})
        run_node(talker, heard(sent), {"r": {"max_tokens": 1}})


def soak(folder: Path, media: list[PromptSegment], count: int, wave: int = 20, *, warm: bool) -> list[int]:
    """``count`` requests in waves through a Thinker and a Talker; the resident memory after each wave."""
    rng = random.Random(0)
    thinker = Thinker(str(folder), max_batch=8, kv_bytes=600 * (ROW_BYTES + HIDDEN_BYTES))
    talker = Talker(str(folder), max_batch=8, kv_bytes=600 * ROW_BYTES)
    memory = []
    if warm:
        every_row_count(thinker, talker, rng)
    for start in range(0, count, wave):
        shapes = {f"r{start + n}": shape(rng, media) for n in range(wave)}
        inputs = {request: {"prompt": one[0]} for request, one in shapes.items()}
        sent = Company(thinker, rng).play(inputs, {request: one[1] for request, one in shapes.items()}, seed=start)
        Company(talker, rng).play(heard(sent), {request: one[2] for request, one in shapes.items()}, seed=start)
        for node in (thinker, talker):
            assert node._model.free_blocks == node._model._engine.kv.pool.blocks
            assert not node._requests and not node._model._requests and not node._model._engine._sequences
        memory.append(resident())
    assert all(node.counters()["prefix_blocks_evicted"] > 0 for node in (thinker, talker))
    return memory


def test_a_short_soak_leaves_nothing(tiny_folder: Path, prompts: Prompts) -> None:
    soak(tiny_folder, prompts["m0"], 100, warm=False)


@pytest.mark.slow
def test_two_thousand_requests_leave_every_block_free_and_memory_flat(tiny_folder: Path, prompts: Prompts) -> None:
    memory = soak(tiny_folder, prompts["m0"], 2000, warm=True)
    assert memory[-1] <= 1.02 * memory[len(memory) // 4]
