"""What the Thinker refuses, what fails, and that neither costs another request anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_graph.errors import Code, RequestError
from omni_graph.payload import Array, TextDelta
from omni_graph.testing import run_node
from omni_graph.testing.run import NodeRun
from omni_nodes.payloads import PromptSegment
from omni_nodes.qwen2_5_omni.thinker import Thinker
from tests.nodes.qwen2_5_omni.prompts import QUESTION, TOKENS, generate, segments, text_inputs
from tests.nodes.qwen2_5_omni.reference import Reference

TEXTS = ("hello", QUESTION, "the quick brown fox jumps over the lazy dog " * 4)


@pytest.fixture(scope="module")
def thinker(tiny_folder: Path) -> Thinker:
    return Thinker(str(tiny_folder))


@pytest.fixture(scope="module")
def prompts(reference: Reference) -> dict[str, list[PromptSegment]]:
    return {f"r{n}": segments(reference, text_inputs(reference, text)) for n, text in enumerate(TEXTS)}


@pytest.fixture(autouse=True)
def nothing_is_left(thinker: Thinker) -> Any:
    """Whatever a test did to the shared node, every KV block is free again."""
    yield
    assert thinker._model.free_blocks == thinker._model._engine.kv.pool.blocks


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
    sent = run_node(thinker, inputs, {"r": {"max_tokens": TOKENS}}, outputs=["text"], windows={"text": 1})["r"]
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
    node = Thinker(str(tiny_folder), kv_bytes=768 * 32)
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


def test_who_failed_and_is_cancelled_before_it_is_told_fails_nobody(thinker: Thinker, prompts: dict[str, Any]) -> None:
    """A slice raises one failure; the other one's request is over before its turn."""
    positions = Array.of(np.tile(np.arange(4), (3, 1)))
    bad = PromptSegment(Array.of([-1, 2, 3, 4], "int64"), positions, "text", "user", Array.empty(0, 0), 4, True)
    run = NodeRun(thinker)
    for request in ("x", "y"):
        run.open(request, {"prompt": [bad]})
    run.open("good", {"prompt": prompts["r1"]}, {"max_tokens": TOKENS})
    while not run.errors:
        assert run.move()
    run.close("y")
    run.run()
    assert set(run.errors) == {"x"}
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
