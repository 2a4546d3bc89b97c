"""The same answer however the graph is spread: launcher, transport, replicas, chunking of the prompt, and company.

Tokens, codes and packet boundaries are equal, samples to 1e-4. What would break for a user: a deploy file that changes what
the model says.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_graph.plan import make_plan
from omni_graph.runtime.app import App
from omni_graph.runtime.deployment import Deployment
from omni_graph.runtime.processes import ProcessLauncher
from omni_graph.spec import DeploySpec
from tests.nodes.qwen2_5_omni.apps import greedy, launch, omni_graph_of, picture, tone
from tests.nodes.qwen2_5_omni.conversations import VIDEO

STAGES = ("frontend", "audio_encoder", "vision_encoder", "interleaver", "thinker", "talker", "codec_dit", "bigvgan")
SAMPLED = {"thinker": {"max_tokens": 12, "temperature": 0.8}, "talker": {"max_tokens": 60}}
TWICE = {name: {"replicas": 2, "streams": 16} for name in STAGES}


@dataclass(frozen=True)
class Answer:
    """What must not change: the packets' boundaries and their contents."""

    tokens: tuple[tuple[int, ...], ...]
    codes: tuple[int, ...]
    samples: tuple[np.ndarray, ...]

    def same_as(self, other: Answer) -> None:
        assert self.tokens == other.tokens
        assert self.codes == other.codes
        assert [len(one) for one in self.samples] == [len(one) for one in other.samples]
        for mine, theirs in zip(self.samples, other.samples, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-4)


def conversation(kind: int) -> list[dict[str, Any]]:
    """Different prompts, so that requests in company are not all alike: text, audio, image, video with its sound."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"tell me about number {kind}"}]
    if kind % 4 == 1:
        parts.append({"type": "audio", "audio": tone(1.2 + 0.5 * kind, 200 + 10 * kind), "sample_rate": 16_000})
    if kind % 4 == 2:
        parts.append({"type": "image", "image": picture(60 + 3 * kind, 90, kind)})
    if kind % 4 == 3:
        parts.append({"type": "video", "video": VIDEO, "audio": True})
    return [{"role": "user", "content": parts}]


def answer(app: App, kind: int, seed: int | None = None) -> Answer:
    """The answer to ``conversation(kind)``; kinds 4, 9 and 14 are sampled, the others greedy. ``seed`` None: the kind."""
    params = SAMPLED if kind % 5 == 4 else greedy(12, 60)
    handle = app.start({"conversation": conversation(kind)}, params=params, seed=kind if seed is None else seed)
    found: dict[str, list[Any]] = {"text": [], "codes": [], "speech": []}
    for event in handle:
        found[event.output].append(event.packet)
    return Answer(
        tuple(delta.token_ids for delta in found["text"]),
        tuple(int(code) for packet in found["codes"] for code in packet.values.values.reshape(-1)),
        tuple(np.array(chunk.samples.values) for chunk in found["speech"]),
    )


def together(app: App, kinds: range) -> dict[int, Answer]:
    """All at once."""
    answers: dict[int, Answer] = {}
    callers = [threading.Thread(target=lambda k=k: answers.update({k: answer(app, k)})) for k in kinds]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(240)
    assert sorted(answers) == list(kinds)
    return answers


def same(answers: dict[int, Answer], alone: dict[int, Answer]) -> None:
    """Each is what it is alone."""
    for kind, one in answers.items():
        one.same_as(alone[kind])


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> Iterator[App]:
    """Threads, one replica each: what the others must equal."""
    with launch(tiny_folder, "low_latency", max_requests=16) as app:
        yield app


@pytest.fixture(scope="module")
def alone(plain: App) -> dict[int, Answer]:
    return {kind: answer(plain, kind) for kind in range(16)}


def test_in_company_of_eight_others(plain: App, alone: dict[int, Answer]) -> None:
    same(together(plain, range(9)), alone)


def test_sampled_answers_depend_on_the_seed_alone(plain: App, alone: dict[int, Answer]) -> None:
    answer(plain, 9).same_as(alone[9])
    other = answer(plain, 9, seed=1)
    assert other.tokens != alone[9].tokens and other.codes != alone[9].codes


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_any_chunking_of_the_prompt(chunk: int, tiny_folder: Path, alone: dict[int, Answer]) -> None:
    settings = [f"nodes.thinker.config.prefill_chunk={chunk}", f"nodes.talker.config.prefill_chunk={chunk}"]
    with launch(tiny_folder, "low_latency", settings=settings) as app:
        answer(app, 1).same_as(alone[1])


def test_two_replicas_of_every_stage_in_threads(tiny_folder: Path, alone: dict[int, Answer]) -> None:
    with launch(tiny_folder, "low_latency", stages=TWICE) as app:
        same(together(app, range(5)), alone)


def test_sixteen_at_once_through_processes_give_what_each_gives_alone(
    tiny_folder: Path, alone: dict[int, Answer]
) -> None:
    with launch(tiny_folder, "low_latency", "processes", max_requests=16) as app:
        same(together(app, range(16)), alone)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_two_replicas_of_every_stage_in_processes(transport: str, tiny_folder: Path, alone: dict[int, Answer]) -> None:
    plan = make_plan(omni_graph_of(tiny_folder, "low_latency"), DeploySpec.model_validate({"stages": TWICE}))
    with App(plan, Deployment(plan, ProcessLauncher(transport))) as app:
        same(together(app, range(5)), alone)


def test_stages_that_share_a_worker(tiny_folder: Path, alone: dict[int, Answer]) -> None:
    stages = {
        "interleaver": {"with": "thinker"},
        "bigvgan": {"with": "codec_dit"},
        "audio_encoder": {"with": "frontend"},
    }
    with launch(tiny_folder, "low_latency", stages=stages) as app:
        assert len(app._deployment.handles) == 5
        answer(app, 1).same_as(alone[1])
