"""kill -9 of a stage while the user speaks, or while the graph answers: what was said is said again, to the same answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_graph.runtime.app import App
from tests.nodes.qwen2_5_omni.apps import frames, launch, tone
from tests.nodes.qwen2_5_omni.conversations import user
from tests.nodes.qwen2_5_omni.live_requests import LIVE_VIDEO, begin, chunks, in_step, shown
from tests.nodes.qwen2_5_omni.test_recovery import SAMPLED, Answer, healthy, kill_stage
from tests.runtime.graphs import eventually

MESSAGES = [user("watch", {**LIVE_VIDEO, "audio": True}, "what?")]
SAID = list(in_step(chunks(tone(4.4), [8_000]), shown(frames(9, 28, 56), 2.0)))


@pytest.fixture(scope="module")
def app(tiny_folder: Path) -> Iterator[App]:
    with launch(tiny_folder, "low_latency", "processes") as running:
        yield running


def spoken(app: App, kill: str = "", speaking: bool = False) -> Answer:
    """An answer; ``kill``: the stage whose process is killed in the middle of the speech, or of the answer."""
    handle = begin(app, MESSAGES, SAMPLED, seed=7, deadline_s=240)
    for number, (name, packet) in enumerate(SAID):
        if kill and speaking and number == len(SAID) // 2:
            kill_stage(app, kill)
        handle.write(name, packet)
    handle.end("audio")
    handle.end("video")
    answer = Answer()
    for read, event in enumerate(handle, 1):
        answer.read(event)
        if kill and not speaking and read == 30:
            kill_stage(app, kill)
    handle.timings()
    assert handle.retries == (1 if kill else 0)
    return answer


@pytest.fixture(scope="module")
def undisturbed(app: App) -> Answer:
    answer = spoken(app)
    assert len(answer.codes) > 40
    return answer


@pytest.mark.parametrize(
    ("stage", "speaking"),
    [("frontend", True), ("thinker", True), ("talker", True), ("frontend", False), ("thinker", False)],
)
def test_an_answer_to_speech_survives_the_death_of_a_stage(
    stage: str, speaking: bool, app: App, undisturbed: Answer
) -> None:
    """Sampled, so that only forced choices can give the same answer."""
    eventually(lambda: healthy(app), within_s=120)
    spoken(app, stage, speaking).same_as(undisturbed)
