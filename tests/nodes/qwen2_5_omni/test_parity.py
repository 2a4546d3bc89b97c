"""The whole graph against transformers on the same weights, fp32: equal tokens, equal codes, the same waveform.

What would break for a user: another answer than the model's own, or speech that is not what transformers would have said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni_graph.runtime.app import App
from tests.nodes.qwen2_5_omni.apps import codes_of, frames, greedy, launch, picture, samples_of, tone
from tests.nodes.qwen2_5_omni.reference import Reference

TOKENS, CODES, SEED = 14, 40, 3


@dataclass(frozen=True)
class Case:
    """One conversation; media as raw arrays, so that both sides see the same samples and pixels."""

    content: list[dict[str, Any]]
    before: list[dict[str, Any]] = field(default_factory=list)
    audio: list[np.ndarray] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    videos: list[np.ndarray] = field(default_factory=list)
    audio_in_video: bool = False

    def ours(self) -> list[dict[str, Any]]:
        media: dict[str, Iterator[np.ndarray]] = {
            "audio": iter(self.audio if not self.audio_in_video else ()),
            "image": iter(self.images),
            "video": iter(self.videos),
        }
        return [*self.before, {"role": "user", "content": [self._part(part, media) for part in self.content]}]

    def _part(self, part: dict[str, Any], media: dict[str, Iterator[np.ndarray]]) -> dict[str, Any]:
        kind = part["type"]
        if kind == "text":
            return part
        array = next(media[kind])
        extra = {"audio": {"sample_rate": 16_000}, "image": {}, "video": {"fps": 2.0}}[kind]
        return {"type": kind, kind: array, **extra}

    def theirs(self, reference: Reference) -> dict[str, Any]:
        messages = [*self.before, {"role": "user", "content": self.content}]
        images = [Image.fromarray(one) for one in self.images]
        return reference.inputs(messages, self.audio, images, self.videos, audio_in_video=self.audio_in_video)


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


AUDIO, IMAGE, VIDEO = {"type": "audio", "audio": "x"}, {"type": "image", "image": "x"}, {"type": "video", "video": "x"}

CASES = {
    "text": Case([text("hello, describe yourself")]),
    "audio": Case([AUDIO, text("what was said?")], audio=[tone(3.3)]),
    "two images of odd sizes": Case([IMAGE, text("and"), IMAGE], images=[picture(113, 171), picture(60, 99, 1)]),
    "video": Case([VIDEO, text("what moves?")], videos=[frames(6, 84, 112)]),
    "mix": Case(
        [text("look"), IMAGE, AUDIO, VIDEO, text("and speak")],
        audio=[tone(2.6, 300)],
        images=[picture(70, 90)],
        videos=[frames(4, 56, 84)],
    ),
    "multi-turn": Case(
        [AUDIO, text("and now?")],
        before=[
            {"role": "system", "content": "You are brief."},
            {"role": "user", "content": [text("hi")]},
            {"role": "assistant", "content": [text("hello")]},
        ],
        audio=[tone(0.7)],
    ),
}


def check(app: App, reference: Reference, case: Case, voice: str = "Chelsie") -> None:
    expected = reference.generate(
        case.theirs(reference), max_tokens=TOKENS, talker_max_tokens=CODES, seed=SEED, voice=voice
    )
    result = app.run({"conversation": case.ours()}, params=greedy(TOKENS, CODES, voice), seed=SEED)
    assert result["text"].token_ids == expected.token_ids
    assert codes_of(result) == expected.codes
    assert expected.waveform is not None
    assert samples_of(result).shape == expected.waveform.shape
    np.testing.assert_allclose(samples_of(result), expected.waveform, atol=1e-4)


@pytest.fixture(scope="module")
def exact(tiny_folder: Path) -> Iterator[App]:
    with launch(tiny_folder) as app:
        yield app


@pytest.fixture(scope="module")
def odd(odd_folder: Path) -> Iterator[App]:
    with launch(odd_folder) as app:
        yield app


@pytest.fixture(scope="module")
def stopping(stopping_folder: Path) -> Iterator[App]:
    with launch(stopping_folder) as app:
        yield app


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_transformers_answer(name: str, exact: App, reference: Reference) -> None:
    check(exact, reference, CASES[name])


@pytest.mark.parametrize("name", ["text", "mix"])
def test_other_shapes_of_checkpoint_answer_as_transformers_does(name: str, odd: App, odd_reference: Reference) -> None:
    check(odd, odd_reference, CASES[name], voice="Ethan")


@pytest.mark.parametrize("words", ["hello", "a", "describe"])
def test_replies_that_stop_by_themselves(words: str, stopping: App, stopping_reference: Reference) -> None:
    case = Case([text(words)])
    expected = stopping_reference.generate(
        case.theirs(stopping_reference), max_tokens=200, talker_max_tokens=400, seed=SEED
    )
    result = stopping.run({"conversation": case.ours()}, params=greedy(200, 400), seed=SEED)
    assert result["text"].token_ids == expected.token_ids and 1 < len(expected.token_ids) < 200
    assert result["text"].finish_reason == "stop"
    assert codes_of(result) == expected.codes and 0 < len(expected.codes) < 400
    assert expected.waveform is not None
    np.testing.assert_allclose(samples_of(result), expected.waveform, atol=1e-4)


def test_an_answer_of_one_token_has_empty_speech(stopping: App, stopping_reference: Reference) -> None:
    """transformers crashes here; its text alone is the reference."""
    case = Case([text("tell me more")])
    expected = stopping_reference.generate(case.theirs(stopping_reference), max_tokens=200, speech=False)
    result = stopping.run({"conversation": case.ours()}, params=greedy(200, 400), seed=SEED)
    assert result["text"].token_ids == expected.token_ids and len(expected.token_ids) == 1
    assert codes_of(result) == () and len(samples_of(result)) == 0


def test_one_code_is_480_samples(exact: App) -> None:
    result = exact.run({"conversation": CASES["text"].ours()}, params=greedy(TOKENS, 1), seed=SEED)
    assert len(codes_of(result)) == 1 and len(samples_of(result)) == 480


def test_a_short_speech_does_not_cut_the_text(exact: App) -> None:
    result = exact.run({"conversation": CASES["text"].ours()}, params=greedy(80, 8), seed=SEED)
    assert len(result["text"].token_ids) == 80 and len(codes_of(result)) == 8
