"""What streams does stream, and what nobody reads is not made: the order of events, demand, cancelling, odd files."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import omni_graph as og
from omni_graph.runtime.app import App
from tests.nodes.qwen2_5_omni.apps import codes_of, greedy, launch, samples_of
from tests.nodes.qwen2_5_omni.conversations import BLOCKWISE, audio, image, pixels, sound, user, video
from tests.nodes.qwen2_5_omni.token2wav_reference import Token2WavReference, snr_db
from tests.runtime.graphs import eventually, held

TEXT = [{"role": "user", "content": "tell me a story"}]


@pytest.fixture(scope="module", params=["low_latency", "balanced"])
def context(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def app(context: str, tiny_folder: Path) -> Iterator[App]:
    with launch(tiny_folder, context, stages={"talker": {"streams": 8}}) as running:
        yield running


def test_sound_leaves_before_the_last_code(app: App) -> None:
    """By the order in which packets reach the Gateway; the speech is longer than all windows before BigVGAN can hold."""
    order = [event.output for event in app.stream({"conversation": TEXT}, params=greedy(40, 720), seed=0)]
    first_sound = order.index("speech")
    last_code = len(order) - 1 - order[::-1].index("codes")
    assert first_sound < last_code
    assert order.count("codes") == 720


def test_the_first_text_comes_before_any_speech(app: App) -> None:
    order = [event.output for event in app.stream({"conversation": TEXT}, params=greedy(10, 60), seed=0)]
    assert order.index("text") < order.index("speech")


def test_the_waveform_is_the_single_process_references(app: App, context: str, tiny_folder: Path) -> None:
    result = app.run({"conversation": TEXT}, params=greedy(20, 101), seed=5)
    codes, reference = codes_of(result), Token2WavReference(tiny_folder)
    windows = reference.chunked_mel(codes, "Chelsie", 5, context)
    expected = torch.cat(reference.chunked_sound(windows, context == "low_latency")).numpy()
    assert len(samples_of(result)) == len(expected) == 480 * 101
    np.testing.assert_allclose(samples_of(result), expected, atol=1e-4)
    if context == "balanced":
        whole = reference.sound(reference.exact_mel(codes, "Chelsie", 5)).numpy()
        assert snr_db(whole, samples_of(result)) >= 100


def test_text_alone_touches_no_speech_stage(app: App) -> None:
    trace = app.run({"conversation": TEXT}, outputs=["text"], params={"thinker": {"max_tokens": 5}}).trace
    assert list(trace.stages) == ["frontend", "audio_encoder", "vision_encoder", "interleaver", "thinker"]
    assert not any("talker" in name for name in trace.edges)


def test_cancel_at_every_step_of_the_protocol(app: App) -> None:
    """After k events, for every small k and some large ones: all workers forget the request."""
    for stop_after in (*range(12), 30, 70, 150):
        handle = app.start({"conversation": TEXT}, params=greedy(20, 120), seed=0)
        for _ in range(stop_after):
            if handle.next(timeout=120) is None:
                break
        handle.cancel()
        with pytest.raises(og.Cancelled):
            while handle.next(timeout=120) is not None:
                pass
            raise og.Cancelled("", og.Code.CANCELLED, "it had ended already")
        assert set(handle.timings()) == set(app.plan.stages)
    eventually(lambda: held(app) == 0)


def cancelled_after(app: App, events: Sequence[int]) -> None:
    """One request for each count of events, of a speech too long to end before; eight at a time."""
    todo = iter(enumerate(events))
    turn = threading.Lock()

    def caller() -> None:
        while (mine := take()) is not None:
            cancel_one(app, *mine)

    def take() -> tuple[int, int] | None:
        with turn:
            return next(todo, None)

    callers = [threading.Thread(target=caller) for _ in range(8)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert next(todo, None) is None


def cancel_one(app: App, seed: int, events: int) -> None:
    messages = [user("hi", image(pixels(30, 40)))] if seed % 2 else [user("hi", audio(sound(0.5)))]
    handle = app.start({"conversation": messages}, params=greedy(40, 4000), seed=seed)
    for _ in range(events):
        assert handle.next(timeout=120) is not None
    handle.cancel()
    with pytest.raises(og.Cancelled):
        while handle.next(timeout=120) is not None:
            pass
    assert set(handle.timings(wait_s=60)) == set(app.plan.stages)


def test_requests_cancelled_by_the_hundred_leave_no_state(app: App) -> None:
    cancelled_after(app, [index % 7 for index in range(96)])
    eventually(lambda: held(app) == 0)
    status = app.status()
    assert status["requests"]["running"] == status["requests"]["waiting"] == 0
    for name, worker in workers(app):
        for node in worker.core._nodes.values():
            assert not node.requests, name
    assert app.run({"conversation": TEXT}, params=greedy(4, 8), seed=0)["text"].token_ids


def workers(app: App) -> list[tuple[str, Any]]:
    return [(name, handle._worker) for name, handle in app._deployment.handles.items()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_cancelled_requests_leave_no_state_in_processes(tiny_folder: Path) -> None:
    choice = random.Random(0)
    with launch(tiny_folder, "low_latency", "processes", max_requests=8) as app:
        first = app.run({"conversation": TEXT}, params=greedy(12, 60), seed=0)
        cancelled_after(app, [choice.choice((0, choice.randrange(8), choice.randrange(60))) for _ in range(1000)])
        eventually(lambda: held(app) == 0)
        assert app.status()["requests"] == dict(running=0, waiting=0, paused=0, completed=1, failed=0, cancelled=1000)
        assert set(router_load(app).values()) == {0}
        again = app.run({"conversation": TEXT}, params=greedy(12, 60), seed=0)
        eventually(lambda: held(app) == 0)
    assert again["text"] == first["text"] and codes_of(again) == codes_of(first)
    np.testing.assert_allclose(samples_of(again), samples_of(first), atol=1e-4)


def router_load(app: App) -> dict[str, int]:
    """Requests that the Router counts, by replica."""
    gateway = app._deployment.gateway
    assert gateway is not None
    return gateway.call(lambda core, now: dict(core.load()))


def test_a_file_with_all_video_before_all_sound_does_not_wedge(app: App) -> None:
    messages = [user("watch", video(BLOCKWISE, audio=True), "and tell", audio(sound(0.5)))]
    result = app.run({"conversation": messages}, params=greedy(4, 12), seed=0, deadline_s=240)
    assert len(result["text"].token_ids) == 4 and len(codes_of(result)) == 12
