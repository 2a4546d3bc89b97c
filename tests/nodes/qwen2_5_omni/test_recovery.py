"""kill -9 of any stage in the middle of an answer costs the client a pause: the same text, codes and samples come out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_graph.runtime.app import App
from tests.nodes.qwen2_5_omni.apps import greedy, launch, picture, tone
from tests.nodes.qwen2_5_omni.conversations import audio, image, user
from tests.runtime.graphs import eventually

MESSAGES = [user("tell me", image(picture(60, 90)), audio(tone(2.3)), "everything")]
STAGES = ("frontend", "audio_encoder", "vision_encoder", "interleaver", "thinker", "talker", "codec_dit", "bigvgan")
SAMPLED = {"thinker": {"max_tokens": 24, "temperature": 0.9}, "talker": {"max_tokens": 150}}


class Answer:
    """What the client has of an answer."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.codes: list[int] = []
        self.chunks: list[np.ndarray] = []

    def read(self, event: Any) -> None:
        if event.output == "text":
            self.tokens += event.packet.token_ids
            self.text += event.packet.text
        elif event.output == "codes":
            self.codes += event.packet.values.values.reshape(-1).tolist()
        else:
            self.chunks.append(np.array(event.packet.samples.values))

    def same_as(self, other: Answer) -> None:
        assert (self.text, self.tokens, self.codes) == (other.text, other.tokens, other.codes)
        assert [len(chunk) for chunk in self.chunks] == [len(chunk) for chunk in other.chunks]
        np.testing.assert_allclose(np.concatenate(self.chunks), np.concatenate(other.chunks), atol=1e-4)


@pytest.fixture(scope="module")
def app(tiny_folder: Path) -> Iterator[App]:
    with launch(tiny_folder, "low_latency", "processes") as running:
        yield running


def run(
    app: App,
    params: dict[str, dict[str, Any]],
    kill: str = "",
    at: int = 0,
    number: signal.Signals = signal.SIGKILL,
) -> tuple[Answer, int]:
    """An answer; ``kill``: the stage whose process gets the signal ``number`` after ``at`` packets have come."""
    handle = app.start({"conversation": MESSAGES}, params=params, seed=7, deadline_s=240)
    answer = Answer()
    if kill and at == 0:
        kill_stage(app, kill, number)
    for read, event in enumerate(handle, 1):
        answer.read(event)
        if kill and read == at:
            kill_stage(app, kill, number)
    handle.timings()
    return answer, handle.retries


def kill_stage(app: App, stage: str, number: signal.Signals = signal.SIGKILL) -> None:
    pid = app.status()["stages"][stage]["replicas"][0]["pid"]
    assert pid > 0  # 0 is everybody, the tests among them
    os.kill(pid, number)


def healthy(app: App) -> bool:
    return all(
        replica["state"] == "ready" for stage in app.status()["stages"].values() for replica in stage["replicas"]
    )


@pytest.fixture(scope="module")
def undisturbed(app: App) -> Answer:
    answer, retries = run(app, SAMPLED)
    assert retries == 0 and len(answer.codes) > 40 and len(answer.chunks) > 2
    return answer


@pytest.mark.parametrize("stage", STAGES)
def test_an_answer_survives_the_death_of_any_stage(stage: str, app: App, undisturbed: Answer) -> None:
    """Sampled, so that only forced choices can give the same answer."""
    eventually(lambda: healthy(app), within_s=60)
    answer, retries = run(app, SAMPLED, kill=stage, at=30)
    assert retries == 1
    answer.same_as(undisturbed)
    eventually(lambda: healthy(app), within_s=60)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("at", [0, 1, 5, 60, 120])
def test_at_any_moment(stage: str, at: int, app: App, undisturbed: Answer) -> None:
    eventually(lambda: healthy(app), within_s=60)
    answer, _ = run(app, SAMPLED, kill=stage, at=at)
    answer.same_as(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGSEGV, signal.SIGTERM])
def test_a_frozen_crashed_or_ended_stage_too(number: signal.Signals, stage: str, app: App, undisturbed: Answer) -> None:
    eventually(lambda: healthy(app), within_s=60)
    answer, _ = run(app, SAMPLED, kill=stage, at=30, number=number)
    answer.same_as(undisturbed)


def test_a_greedy_answer_too(app: App) -> None:
    eventually(lambda: healthy(app), within_s=60)
    whole, _ = run(app, greedy(20, 60))
    answer, _ = run(app, greedy(20, 60), kill="thinker", at=10)
    answer.same_as(whole)
