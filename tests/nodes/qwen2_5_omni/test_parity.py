"""The whole graph against transformers on the same weights, fp32: equal tokens, equal codes, the same waveform.

What would break for a user: another answer than the model's own, or speech that is not what transformers would have said.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_graph.runtime.app import App
from omni_nodes.qwen2_5_omni.tiny_config import CODEC_END, CODEC_PAD
from tests.nodes.qwen2_5_omni.apps import Messages, codes_of, frames, greedy, launch, picture, samples_of, tone
from tests.nodes.qwen2_5_omni.conversations import BLOCKWISE, VIDEO, audio, flac, image, user, video
from tests.nodes.qwen2_5_omni.processed import processed
from tests.nodes.qwen2_5_omni.reference import Answer, Reference

TOKENS, CODES, SEED = 14, 40, 3

CASES: dict[str, Messages] = {
    "text": [user("hello, describe yourself")],
    "audio": [user(audio(tone(3.3)), "what was said?")],
    "two images of odd sizes": [user(image(picture(113, 171)), "and", image(picture(60, 99, 1)))],
    "video": [user(video(frames(6, 84, 112)), "what moves?")],
    "video with its sound": [user("watch", video(VIDEO, audio=True), "what was said?")],
    "a file with all video before all sound": [user(video(BLOCKWISE, audio=True))],
    "mix": [user("look", image(picture(70, 90)), audio(tone(2.6, 300)), video(frames(4, 56, 84)), "and speak")],
    "multi-turn": [
        {"role": "system", "content": "You are brief."},
        user("hi", audio(flac(tone(1.0)))),
        {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
        user(audio(tone(0.7)), "and now?"),
    ],
}


QUICK = ("text", "audio", "video with its sound", "mix")
ODD, OTHERS = ("odd", 0), (("odd", 0), ("odd", 2), ("default", 1))


def heard(messages: Messages) -> bool:
    """The videos come with their sound."""
    return any(
        part.get("audio") is True for message in messages for part in message["content"] if isinstance(part, dict)
    )


def check(app: App, reference: Reference, messages: Messages, voice: str = "Chelsie") -> None:
    made = processed(reference, messages, heard=heard(messages))
    expected = reference.generate(made, max_tokens=TOKENS, talker_max_tokens=CODES, seed=SEED, voice=voice)
    result = app.run({"conversation": messages}, params=greedy(TOKENS, CODES, voice), seed=SEED)
    check_equal(result, expected)


def check_equal(result: Any, expected: Answer) -> None:
    assert result["text"].token_ids == expected.token_ids
    assert codes_of(result) == expected.codes
    assert expected.waveform is not None
    assert samples_of(result).shape == expected.waveform.shape
    np.testing.assert_allclose(samples_of(result), expected.waveform, atol=1e-4)


@pytest.fixture(scope="module")
def launched() -> Callable[[Path], App]:
    """The graph running on a checkpoint; elsewhere these tests run with another."""
    return launch


@pytest.fixture(scope="module")
def exact(launched: Callable[[Path], App], tiny_folder: Path) -> Iterator[App]:
    with launched(tiny_folder) as app:
        yield app


@pytest.fixture(scope="module")
def other(
    request: pytest.FixtureRequest,
    launched: Callable[[Path], App],
    built: Callable[[str, int], Path],
    odd_folder: Path,
) -> Iterator[tuple[App, Reference]]:
    """The checkpoint of another shape and seed, in our graph and in transformers."""
    folder = built(*request.param)
    reference = request.getfixturevalue("odd_reference") if folder == odd_folder else Reference(folder)
    with launched(folder) as app:
        yield app, reference


@pytest.fixture(scope="module")
def stopping(launched: Callable[[Path], App], stopping_folder: Path) -> Iterator[App]:
    with launched(stopping_folder) as app:
        yield app


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_transformers_answer(name: str, exact: App, reference: Reference) -> None:
    check(exact, reference, CASES[name])


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("other", [ODD], indirect=True, ids=str)
def test_another_shape_answers_as_transformers_does(name: str, other: tuple[App, Reference]) -> None:
    check(*other, CASES[name], voice="Ethan")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("other", OTHERS, indirect=True, ids=str)
def test_every_shape_and_seed_answers_as_transformers_does(name: str, other: tuple[App, Reference]) -> None:
    check(*other, CASES[name], voice="Ethan")


def stopping_answer(reference: Reference, messages: Sequence[Any], **choices: Any) -> Answer:
    return reference.generate(processed(reference, messages), max_tokens=200, seed=SEED, **choices)


@pytest.mark.parametrize("words", ["hello", "a", "describe"])
def test_replies_that_stop_by_themselves(words: str, stopping: App, stopping_reference: Reference) -> None:
    expected = stopping_answer(stopping_reference, [user(words)], talker_max_tokens=400)
    result = stopping.run({"conversation": [user(words)]}, params=greedy(200, 400), seed=SEED)
    assert 1 < len(expected.token_ids) < 200 and 0 < len(expected.codes) < 400
    assert result["text"].finish_reason == "stop"
    check_equal(result, expected)


def test_an_answer_of_one_token_has_empty_speech(stopping: App, stopping_reference: Reference) -> None:
    """transformers crashes here; its text alone is the reference."""
    expected = stopping_answer(stopping_reference, [user("tell me more")], speech=False)
    result = stopping.run({"conversation": [user("tell me more")]}, params=greedy(200, 400), seed=SEED)
    assert result["text"].token_ids == expected.token_ids and len(expected.token_ids) == 1
    assert codes_of(result) == () and len(samples_of(result)) == 0


@pytest.fixture
def speechless_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The default checkpoint, whose first code ends the speech: one of the two ends scores |row . hidden|, all else 0."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "speechless"))
    tensors = load_file(folder / "model.safetensors")
    head = torch.zeros_like(tensors["talker.codec_head.weight"])
    head[CODEC_END] = tensors["talker.codec_head.weight"][0]
    head[CODEC_PAD] = -head[CODEC_END]
    save_file({**tensors, "talker.codec_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_an_answer_of_no_code_is_complete_and_silent(
    speechless_folder: Path, exact: App, launched: Callable[[Path], App]
) -> None:
    """transformers crashes here; the text is that of the same Thinker when the Talker speaks."""
    messages, params = CASES["audio"], greedy(TOKENS, CODES)
    spoken = exact.run({"conversation": messages}, params=params, seed=SEED)
    with launched(speechless_folder) as app:
        result = app.run({"conversation": messages}, params=params, seed=SEED)
        completed = app.status()["requests"]["completed"]
    assert len(codes_of(spoken)) == CODES
    assert codes_of(result) == () and len(samples_of(result)) == 0
    assert result["text"] == spoken["text"] and completed == 1


def test_one_code_is_480_samples(exact: App) -> None:
    result = exact.run({"conversation": CASES["text"]}, params=greedy(TOKENS, 1), seed=SEED)
    assert len(codes_of(result)) == 1 and len(samples_of(result)) == 480


def test_a_short_speech_does_not_cut_the_text(exact: App) -> None:
    result = exact.run({"conversation": CASES["text"]}, params=greedy(80, 8), seed=SEED)
    assert len(result["text"].token_ids) == 80 and len(codes_of(result)) == 8


def test_the_usage_counts_what_went_in_and_out(exact: App) -> None:
    result = exact.run({"conversation": CASES["mix"]}, params=greedy(TOKENS, CODES), seed=SEED)
    usage = dict(result["text"].usage) | dict(result["speech"].usage)
    assert usage["completion.text"] == TOKENS and usage["completion.audio"] == CODES
    assert all(usage[f"prompt.{kind}"] > 0 for kind in ("text", "audio", "image", "video"))
