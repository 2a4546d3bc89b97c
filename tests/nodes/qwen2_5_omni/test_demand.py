"""A caller that stops reading pauses its own request up to the Thinker, within the plan's bound, and may read on later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from omni_graph.payload import packet_bytes
from omni_graph.runtime.app import App, Handle
from tests.nodes.qwen2_5_omni.apps import greedy, launch
from tests.nodes.qwen2_5_omni.conversations import user
from tests.runtime.graphs import eventually

TEXT = [user("tell me a long story")]
TOKENS, CODES = 300, 330


@pytest.fixture(scope="module")
def app(tiny_folder: Path) -> Iterator[App]:
    """Small buffers and a thought window that the reply outgrows, so that demand reaches the Thinker."""
    settings = ["nodes.talker.inputs.thought={from: thinker.thought, window: 16}"]
    with launch(tiny_folder, "low_latency", settings=settings, limits={"output_bytes": 512}) as running:
        yield running


def cores(app: App) -> Iterator[Any]:
    for handle in app._deployment.handles.values():
        yield handle._worker.core  # type: ignore[attr-defined]


def tokens_made(app: App, request: str) -> int:
    """How many tokens the Thinker has chosen for the request."""
    thinker = app._deployment.handles["thinker/0.0"]._worker.core._nodes["thinker"]  # type: ignore[attr-defined]
    return int(thinker.requests[request].choices) if request in thinker.requests else 0


def held_bytes(app: App, handle: Handle) -> int:
    """Payload bytes of the request's packets, wherever they wait."""
    waiting = [
        packet_bytes(packet)
        for core in cores(app)
        for stream in core._requests[handle.request].ins.values()
        for _, packet in stream.waiting
    ]
    buffered = [event.size for event in handle._mailbox._events if hasattr(event, "size")]
    return sum(waiting) + sum(buffered)


def answer(handle: Handle) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    tokens: list[int] = []
    codes: list[int] = []
    samples = 0
    for event in handle:
        if event.output == "text":
            tokens += event.packet.token_ids
        elif event.output == "codes":
            codes += event.packet.values.values.reshape(-1).tolist()
        else:
            samples += len(event.packet.samples)
    return tuple(tokens), tuple(codes), samples


def others_complete(app: App) -> None:
    others = [app.start({"conversation": [user(f"be brief {i}")]}, params=greedy(8, 16), seed=i) for i in range(3)]
    for other in others:
        assert len(answer(other)[1]) == 16


def test_a_caller_that_stops_reading_pauses_the_thinker_of_its_request_alone(app: App) -> None:
    undisturbed = answer(app.start({"conversation": TEXT}, params=greedy(TOKENS, CODES), seed=1))
    assert len(undisturbed[0]) == TOKENS and len(undisturbed[1]) == CODES

    slow = app.start({"conversation": TEXT}, params=greedy(TOKENS, CODES), seed=1)
    eventually(lambda: app.paused == 1 and tokens_made(app, slow.request) > 0, within_s=60)
    made = [-1, tokens_made(app, slow.request)]
    while made[-1] != made[-2]:  # until it has come to rest, others go on; bounded by the tokens it may make
        others_complete(app)
        made.append(tokens_made(app, slow.request))
    assert 0 < made[-1] < TOKENS
    others_complete(app)
    assert tokens_made(app, slow.request) == made[-1]
    assert held_bytes(app, slow) <= app.plan.bound.in_flight
    assert answer(slow) == undisturbed
