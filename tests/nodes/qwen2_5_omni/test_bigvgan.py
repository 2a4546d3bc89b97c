"""The vocoder stage: chunked == whole, the same calls whatever the load, sample counts to the sample."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_graph.errors import Code
from omni_graph.payload import Array, AudioChunk
from omni_graph.testing import NodeRun, run_node
from omni_nodes.payloads import Codes, Mel
from omni_nodes.playback import Playback
from omni_nodes.qwen2_5_omni.bigvgan import BigVGAN
from omni_nodes.qwen2_5_omni.bigvgan_model import BigVGANModel
from omni_nodes.qwen2_5_omni.bigvgan_schedule import CONTEXT_FRAMES, MelTape, VocoderCall
from omni_nodes.qwen2_5_omni.codec_dit import CodecDiT
from tests.nodes.qwen2_5_omni.token2wav_reference import Token2WavReference


@pytest.fixture(scope="module")
def oracle(tiny_folder: Path) -> Token2WavReference:
    return Token2WavReference(tiny_folder)


@pytest.fixture(scope="module")
def shared_node(tiny_folder: Path) -> BigVGAN:
    return BigVGAN(str(tiny_folder), max_frames=140)


@pytest.fixture
def node(shared_node: BigVGAN) -> Iterator[BigVGAN]:
    """The node, which must hold nothing when the test is over."""
    yield shared_node
    assert not shared_node.held()


def mel(frames: int, seed: int = 0) -> np.ndarray:
    """Random mel (frames, 80) at the level of speech; neither silent nor clipped."""
    return np.random.default_rng([frames, seed]).standard_normal((frames, 80), "float32") - 3


def cut(frames: np.ndarray, sizes: Sequence[int], lookahead: int = 0) -> list[Mel]:
    """Packets of these sizes (even), repeated as needed; the first with this much of what follows it."""
    result, start = [], 0
    while start < len(frames):
        end = min(start + sizes[len(result) % len(sizes)], len(frames))
        ahead = frames[end : end + lookahead] if start == 0 else frames[:0]
        result.append(Mel(Array.of(frames[start:end]), Array.of(ahead), (end - start) // 2))
        start = end
    return result


def sound(chunks: Sequence[AudioChunk]) -> np.ndarray:
    return np.concatenate([chunk.samples.values for chunk in chunks])


def assert_same(sent: Sequence[AudioChunk], expected: Sequence[AudioChunk]) -> None:
    assert [(c.samples.shape, c.usage) for c in sent] == [(c.samples.shape, c.usage) for c in expected]
    for ours, theirs in zip(sent, expected, strict=True):
        np.testing.assert_allclose(ours.samples.values, theirs.samples.values, atol=1e-5)


# ---- the calls, without a model


def calls_of(packets: Sequence[Mel]) -> list[VocoderCall]:
    tape = MelTape()
    calls = [tape.append(packet) for packet in packets]
    assert tape.kept <= 2 * CONTEXT_FRAMES
    return [call for call in [*calls, tape.finish()] if call is not None]


@given(st.integers(0, 300), st.lists(st.integers(1, 72), min_size=1, max_size=5), st.integers(0, 30))
def test_calls_cover_every_frame_once_in_its_whole_context(count: int, halves: list[int], lookahead: int) -> None:
    frames = np.repeat(np.arange(2 * count, dtype="float32")[:, None], 80, axis=1)
    packets = cut(frames, [2 * half for half in halves], lookahead)
    early = bool(packets) and len(packets[0].lookahead) > 0
    done = 0
    for number, call in enumerate(calls_of(packets)):
        seen = call.mel[:, 0]
        assert seen[call.skip] == done and call.frames > 0
        assert seen[0] == max(0, done - CONTEXT_FRAMES)
        end = done + call.frames
        if number > 0 or not early:
            assert seen[-1] >= min(end + CONTEXT_FRAMES, 2 * count) - 1
        done = end
    assert done == 2 * count
    assert sum(call.codes for call in calls_of(packets)) == count


def test_the_first_call_uses_the_lookahead_that_came_with_it() -> None:
    """24 codes are enough for 240 ms of sound; without the look-ahead the first 24 frames would give none."""
    frames = mel(100)
    assert [call.frames for call in calls_of(cut(frames, (24, 48, 28), lookahead=24))] == [24, 20, 28, 28]
    assert [call.frames for call in calls_of(cut(frames, (24, 48, 28)))] == [44, 28, 28]


def test_mel_is_forgotten_after_its_sound() -> None:
    tape = MelTape()
    for packet in cut(mel(3000), (144,)):
        tape.append(packet)
        assert tape.kept <= 2 * CONTEXT_FRAMES


# ---- the node


@pytest.mark.parametrize(
    ("frames", "sizes"),
    [(2, (2,)), (28, (2,)), (30, (2,)), (58, (24, 34)), (100, (10,)), (200, (24, 48, 72, 144)), (200, (144,))],
)
def test_chunked_is_whole(node: BigVGAN, oracle: Token2WavReference, frames: int, sizes: tuple[int, ...]) -> None:
    expected = oracle.sound(torch.from_numpy(mel(frames)))
    assert 0.01 < float(expected.abs().max()) < 0.99, "silence or clipping would hide errors"
    sent = run_node(node, {"r": {"mel": cut(mel(frames), sizes)}})["r"]["audio"]
    assert {chunk.sample_rate for chunk in sent} == {24000}
    np.testing.assert_allclose(sound(sent), expected, atol=1e-5)
    assert sum(count for chunk in sent for _, count in chunk.usage) == frames // 2


def test_requests_at_once_are_as_alone(node: BigVGAN) -> None:
    """More frames than max_frames, equal and unequal shapes, a random order of events, little room."""
    lengths = {"a": 80, "b": 80, "c": 80, "d": 62, "e": 2}
    inputs = {r: {"mel": cut(mel(n, seed=ord(r)), (24, 48), lookahead=24)} for r, n in lengths.items()}
    together = run_node(node, inputs, rng=random.Random(2), windows={"mel": 2, "audio": 1})
    for request in lengths:
        assert_same(together[request]["audio"], run_node(node, {"r": inputs[request]})["r"]["audio"])


def test_equal_shapes_share_a_call(node: BigVGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    vocode = BigVGANModel.vocode
    monkeypatch.setattr(BigVGANModel, "vocode", lambda m, mels: (batches.append(len(mels)), vocode(m, mels))[1])
    run_node(node, {r: {"mel": cut(mel(58), (58,))} for r in "abc"})
    assert batches == [2, 1, 2, 1]


def test_who_runs_dry_first_is_vocoded_first(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk a call: a newcomer goes first, then who has less to hear; all sound is as alone."""
    node, served, now = BigVGAN(str(tiny_folder), max_frames=1), list[str](), [0.0]
    node._playback = Playback(lambda: now[0])
    vocode = BigVGANModel.vocode

    def spy(model: BigVGANModel, mels: list[np.ndarray]) -> np.ndarray:
        (window,) = mels
        served.extend(request for request, call in node._calls.items() if call.mel is window)
        now[0] += 0.001
        return vocode(model, mels)

    inputs = {"long": {"mel": cut(mel(200), (80, 40))}, "short": {"mel": cut(mel(90), (30, 30, 30))}}
    alone = {request: run_node(node, {request: packets})[request]["audio"] for request, packets in inputs.items()}
    monkeypatch.setattr(BigVGANModel, "vocode", spy)
    run = NodeRun(node)
    for request, packets in inputs.items():
        run.open(request, packets)
    run.run()
    # 0.52, 0.4, 0.8 and 0.28 s of the long one; 0.02, 0.3, 0.3 and 0.28 s of the other
    assert served == ["long", "short", "short", "short", "long", "short", "long", "long"]
    for request, chunks in alone.items():
        assert_same(run.outputs[request]["audio"], chunks)


def test_a_client_that_does_not_read_pauses_its_own_request_alone(node: BigVGAN) -> None:
    inputs = {"mel": cut(mel(100), (24, 48, 28), lookahead=24)}
    alone = run_node(node, {"r": inputs})["r"]["audio"]
    run = NodeRun(node, windows={"mel": 1, "audio": 1})
    run.paused.add("slow")
    for request in ("slow", "fast"):
        run.open(request, inputs)
    run.run()
    assert run.complete("fast") and not run.complete("slow") and not run.errors
    assert node.held() == {"slow"}
    run.paused.clear()
    run.run()
    for request in ("slow", "fast"):
        assert_same(run.outputs[request]["audio"], alone)


def test_no_mel_is_no_sound(node: BigVGAN) -> None:
    assert run_node(node, {"r": {"mel": []}})["r"]["audio"] == []


def test_a_cancelled_request_leaves_nothing(node: BigVGAN) -> None:
    run = NodeRun(node)
    run.open("r", {"mel": cut(mel(200), (24,))})
    for _ in range(5):
        run.move()
    assert node.held() == {"r"}
    run.close("r")


# ---- a replay


@pytest.fixture
def vocoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The requests in each call of the vocoder, as they come."""
    sizes: list[int] = []
    vocode = BigVGANModel.vocode
    monkeypatch.setattr(BigVGANModel, "vocode", lambda m, mels: (sizes.append(len(mels)), vocode(m, mels))[1])
    return sizes


@pytest.mark.parametrize("lookahead", [0, 24])
def test_sound_that_the_client_has_is_counted_and_not_computed(
    node: BigVGAN, vocoded: list[int], lookahead: int
) -> None:
    inputs = {"r": {"mel": cut(mel(100), (24, 48, 28), lookahead)}}
    whole = run_node(node, inputs)["r"]["audio"]
    for has in range(len(whole) + 1):
        vocoded.clear()
        sent = run_node(node, inputs, accepted={"r": {"audio": has}}, windows={"mel": 2, "audio": 1})["r"]["audio"]
        assert sent[:has] == [None] * has
        assert_same(sent[has:], whole[has:])
        assert len(vocoded) == len(whole) - has


def test_a_replay_passes_a_request_that_runs_once(node: BigVGAN, vocoded: list[int]) -> None:
    """What is skipped takes no part in a call, so that it costs the others nothing."""
    inputs = {r: {"mel": cut(mel(84), (28,))} for r in ("again", "once")}
    whole = run_node(node, {"once": inputs["once"]})["once"]["audio"]
    vocoded.clear()
    sent = run_node(node, inputs, accepted={"again": {"audio": len(whole) - 1}}, rng=random.Random(3))
    assert_same(sent["again"]["audio"][-1:], whole[-1:])
    assert_same(sent["once"]["audio"], whole)
    assert sum(vocoded) == len(whole) + 1


def test_sound_that_is_not_finite_fails_its_requests_alone(node: BigVGAN, vocoded: list[int]) -> None:
    """Two with the same broken mel, in calls with a healthy one: what was sound is heard, the rest fails them."""
    whole = mel(90)
    broken = whole.copy()
    broken[89, 3] = np.nan
    inputs = {"x": broken, "good": mel(90, seed=1), "y": broken}
    alone = {
        request: run_node(node, {request: {"mel": cut(frames, (44, 46))}})[request]["audio"]
        for request, frames in {"x": whole, "good": inputs["good"]}.items()
    }
    vocoded.clear()
    run = NodeRun(node)
    for request, frames in inputs.items():
        run.open(request, {"mel": cut(frames, (44, 46))})
    run.run()
    assert vocoded[0] == 3
    assert {request: error.code for request, error in run.errors.items()} == {"x": Code.NUMERIC, "y": Code.NUMERIC}
    assert "mel frames is not finite" in run.errors["x"].message
    assert_same(run.outputs["good"]["audio"], alone["good"])
    for request in ("x", "y"):
        heard = run.outputs[request]["audio"]
        assert 0 < len(heard) < len(alone["x"])
        assert_same(heard, alone["x"][: len(heard)])
        run.close(request)


# ---- codes to sound, both stages


@pytest.mark.parametrize("count", [1, 12, 60])
def test_exact_sounds_as_transformers_token2wav(
    node: BigVGAN, oracle: Token2WavReference, tiny_folder: Path, count: int
) -> None:
    codes = np.random.default_rng(count).integers(0, 99, count)
    packets = [Codes(Array.of(codes[:, None]), "Chelsie")]
    spoken = run_node(CodecDiT(str(tiny_folder), "exact"), {"r": {"codes": packets}}, seed=4)["r"]["mel"]
    sent = run_node(node, {"r": {"mel": spoken}})["r"]["audio"]
    expected = oracle.sound(oracle.exact_mel(codes.tolist(), "Chelsie", seed=4))
    assert len(sound(sent)) == len(expected) == 480 * count
    np.testing.assert_allclose(sound(sent), expected, atol=1e-4)


@pytest.mark.parametrize(("count", "lookahead"), [(12, True), (25, True), (60, True), (60, False)])
def test_low_latency_sounds_as_the_chunked_reference(
    node: BigVGAN, oracle: Token2WavReference, tiny_folder: Path, count: int, lookahead: bool
) -> None:
    codes = np.random.default_rng(count).integers(0, 99, count)
    dit = CodecDiT(str(tiny_folder), "low_latency", first_call_lookahead=lookahead)
    packets = [Codes(Array.of(codes[start : start + 1, None]), "Ethan") for start in range(count)]
    spoken = run_node(dit, {"r": {"codes": packets}}, seed=9)["r"]["mel"]
    sent = run_node(node, {"r": {"mel": spoken}})["r"]["audio"]
    windows = oracle.chunked_mel(codes.tolist(), "Ethan", 9, "low_latency")
    expected = oracle.chunked_sound(windows, lookahead)
    assert [len(chunk.samples) for chunk in sent] == [len(chunk) for chunk in expected]
    np.testing.assert_allclose(sound(sent), torch.cat(expected), atol=3e-5)
