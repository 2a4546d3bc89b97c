"""The codec DiT stage: equal to transformers where it says so, the same whatever the load, and modest in what it takes."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omni_graph.errors import Code, NodeError, RequestError
from omni_graph.payload import Array
from omni_graph.testing import NodeRun, run_node
from omni_nodes.payloads import Codes, Mel
from omni_nodes.playback import Playback
from omni_nodes.qwen2_5_omni.codec_dit import CodecDiT
from omni_nodes.qwen2_5_omni.codec_dit_model import CodecDiTModel, WindowSolve
from omni_nodes.qwen2_5_omni.dit_schedule import CodecTape
from omni_nodes.qwen2_5_omni.mel_packets import packets
from tests.nodes.qwen2_5_omni.token2wav_reference import Token2WavReference, snr_db

LENGTHS = (1, 11, 12, 13, 24, 25, 103)


class Checkpoint:
    """One tiny checkpoint: its oracle, and its nodes by mode, which must hold nothing when a test is over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.oracle = Token2WavReference(folder)
        self._nodes: dict[str, CodecDiT] = {}

    def node(self, mode: str) -> CodecDiT:
        if mode not in self._nodes:
            self._nodes[mode] = CodecDiT(str(self.folder), mode)
        return self._nodes[mode]

    def check_ledgers(self) -> None:
        for mode, node in self._nodes.items():
            assert not node.held(), f"{mode} still holds {set(node.held())}"


@pytest.fixture(scope="module")
def checkpoints(tiny_folder: Path, odd_folder: Path) -> dict[str, Checkpoint]:
    return {"default": Checkpoint(tiny_folder), "odd": Checkpoint(odd_folder)}


@pytest.fixture(params=["default", "odd"])
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Checkpoint]) -> Iterator[Checkpoint]:
    yield checkpoints[request.param]
    checkpoints[request.param].check_ledgers()


@pytest.fixture
def default(checkpoints: dict[str, Checkpoint]) -> Iterator[Checkpoint]:
    yield checkpoints["default"]
    checkpoints["default"].check_ledgers()


def ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([count, seed]).integers(0, 99, count).tolist()


def cut(codes: Sequence[int], voice: str = "Chelsie", sizes: Sequence[int] = (7,)) -> list[Codes]:
    """``codes`` in packets of these sizes, repeated as needed."""
    result, start = [], 0
    while start < len(codes):
        size = sizes[len(result) % len(sizes)]
        result.append(Codes(Array.of(np.array(codes[start : start + size], "int64")[:, None]), voice))
        start += size
    return result


def speak(node: CodecDiT, codes: Sequence[int], voice: str = "Chelsie", seed: int = 0, **run: Any) -> list[Mel]:
    return run_node(node, {"r": {"codes": cut(codes, voice)}}, seed=seed, **run)["r"]["mel"]


def mel_of(sent: Sequence[Mel]) -> np.ndarray:
    return np.concatenate([packet.frames.values for packet in sent])


def assert_same(sent: Sequence[Mel], expected: Sequence[Mel]) -> None:
    """Equal boundaries and counts; frames within 1e-5."""
    assert [(p.frames.shape, p.lookahead.shape, p.codes) for p in sent] == [
        (p.frames.shape, p.lookahead.shape, p.codes) for p in expected
    ]
    for ours, theirs in zip(sent, expected, strict=True):
        np.testing.assert_allclose(ours.frames.values, theirs.frames.values, atol=1e-5)
        np.testing.assert_allclose(ours.lookahead.values, theirs.lookahead.values, atol=1e-5)


# ---- equality


def test_exact_is_transformers_token2wav(checkpoint: Checkpoint) -> None:
    """All lengths at once, sharing evaluations, each with its own seed; transformers one after another."""
    inputs = {str(n): {"codes": cut(ids(n))} for n in LENGTHS}
    outputs = run_node(checkpoint.node("exact"), inputs, seed=11)
    for n in LENGTHS:
        expected = checkpoint.oracle.exact_mel(ids(n), "Chelsie", seed=11)
        assert expected.shape == (2 * n, 80)
        np.testing.assert_allclose(mel_of(outputs[str(n)]["mel"]), expected, atol=1e-5)
        assert sum(packet.codes for packet in outputs[str(n)]["mel"]) == n


def test_exact_is_sent_in_packets_of_at_most_144_frames(default: Checkpoint) -> None:
    sent = speak(default.node("exact"), ids(200))
    assert [len(packet.frames) for packet in sent] == [144, 144, 112]
    assert [packet.codes for packet in sent] == [72, 72, 56]


def test_balanced_is_within_100_db_of_exact(checkpoint: Checkpoint) -> None:
    codes = ids(150)
    expected = checkpoint.oracle.exact_mel(codes, "Ethan", seed=3)
    sent = speak(checkpoint.node("balanced"), codes, "Ethan", seed=3)
    assert len(sent) > 3
    assert snr_db(expected, mel_of(sent)) >= 100


@pytest.mark.parametrize("mode", ["low_latency", "balanced"])
@pytest.mark.parametrize("count", [1, 12, 13, 61])
def test_windows_are_those_of_the_chunked_reference(checkpoint: Checkpoint, mode: str, count: int) -> None:
    windows = checkpoint.oracle.chunked_mel(ids(count), "Ethan", 5, mode)
    sent = speak(checkpoint.node(mode), ids(count), "Ethan", seed=5)
    assert [len(packet.frames) for packet in sent] == [len(window.frames) for window in windows]
    for packet, window in zip(sent, windows, strict=True):
        np.testing.assert_allclose(packet.frames.values, window.frames, atol=2e-5)
    expected = windows[0].lookahead if mode == "low_latency" else windows[0].lookahead[:0]
    np.testing.assert_allclose(sent[0].lookahead.values, expected, atol=2e-5)
    assert all(len(packet.lookahead) == 0 for packet in sent[1:])


@pytest.mark.parametrize(("mode", "wish", "frames"), [("low_latency", False, 0), ("balanced", True, 96)])
def test_the_first_lookahead_is_a_choice(default: Checkpoint, mode: str, wish: bool, frames: int) -> None:
    sent = speak(CodecDiT(str(default.folder), mode, first_call_lookahead=wish), ids(103))
    assert [len(packet.lookahead) for packet in sent] == [frames] + [0] * (len(sent) - 1)


@pytest.mark.parametrize("mode", ["exact", "balanced", "low_latency"])
@pytest.mark.parametrize("sizes", [(1,), (13, 1, 5), (200,)])
def test_neither_chunking_nor_order_of_events_shows_in_the_output(
    default: Checkpoint, mode: str, sizes: tuple[int, ...]
) -> None:
    node, codes = default.node(mode), ids(80)
    expected = speak(node, codes)
    rng, windows = random.Random(len(sizes)), {"codes": 2, "mel": 1}
    sent = run_node(node, {"r": {"codes": cut(codes, sizes=sizes)}}, windows=windows, rng=rng)["r"]["mel"]
    assert_same(sent, expected)


@pytest.mark.parametrize("mode", ["exact", "low_latency"])
def test_requests_at_once_are_as_alone(checkpoint: Checkpoint, mode: str) -> None:
    """Two voices, three lengths, three seeds, more blocks than max_blocks; a random order of events."""
    node = CodecDiT(str(checkpoint.folder), mode, max_blocks=4)
    lengths = {"a": 60, "b": 61, "c": 13}
    voices = {"a": "Chelsie", "b": "Ethan", "c": "Chelsie"}
    run = NodeRun(node, rng=random.Random(1))
    for request, n in lengths.items():
        run.open(request, {"codes": cut(ids(n), voices[request])}, seed=n)
    run.run()
    for request, n in lengths.items():
        assert_same(run.outputs[request]["mel"], speak(node, ids(n), voices[request], seed=n))
    assert not node.held()


# ---- slices


def test_a_newcomer_shares_the_next_evaluation(default: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows at different ODE times, and of different length, are evaluated together, each one evaluation a slice."""
    batches: list[list[tuple[int, int]]] = []
    evaluate = CodecDiTModel.evaluate

    def spy(model: CodecDiTModel, windows: Sequence[WindowSolve]) -> None:
        batches.append([(window.frames, window.trajectory.evaluation) for window in windows])
        evaluate(model, windows)

    node = default.node("exact")
    alone = {n: speak(node, ids(n)) for n in (30, 12)}
    monkeypatch.setattr(CodecDiTModel, "evaluate", spy)
    run = NodeRun(node)
    run.open("early", {"codes": cut(ids(30))})
    while len(batches) < 10:
        run.move()
    run.open("late", {"codes": cut(ids(12))})
    run.run()
    assert batches[9:11] == [[(60, 9)], [(60, 10), (24, 0)]]
    assert len(batches) == 46
    assert_same(run.outputs["early"]["mel"], alone[30])
    assert_same(run.outputs["late"]["mel"], alone[12])


class Order:
    """Which request each evaluation went to, where one window fits, on a clock that every evaluation moves."""

    def __init__(self, node: CodecDiT, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.seconds, self.served = 0.0, seconds, list[str]()
        node._playback = Playback(lambda: self.now)
        evaluate = CodecDiTModel.evaluate

        def spy(model: CodecDiTModel, windows: Sequence[WindowSolve]) -> None:
            (window,) = windows
            self.served += [request for request, call in node._calls.items() if call.solve is window]
            self.now += self.seconds
            evaluate(model, windows)

        monkeypatch.setattr(CodecDiTModel, "evaluate", spy)

    def runs(self) -> list[tuple[str, int]]:
        """Evaluations in a row for the same request."""
        return [(request, len(list(group))) for request, group in groupby(self.served)]


def test_a_newcomer_goes_first_and_the_windows_are_as_alone(
    default: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that keeps up: a half-done window waits for a first one, and then goes on where it stopped."""
    alone = {n: speak(default.node("low_latency"), ids(n), seed=n) for n in (36, 24)}
    node = CodecDiT(str(default.folder), "low_latency", max_blocks=1)
    order = Order(node, monkeypatch, seconds=0.001)
    run = NodeRun(node)
    run.open("speaks", {"codes": cut(ids(36))}, seed=36)
    while len(order.served) < 46:
        run.move()
    run.open("new", {"codes": cut(ids(24))}, seed=24)
    run.run()
    # each of them has two windows; after their first ones, the one who spoke first runs dry first
    assert order.runs() == [("speaks", 46), ("new", 36), ("speaks", 26), ("new", 36)]
    assert_same(run.outputs["speaks"]["mel"], alone[36])
    assert_same(run.outputs["new"]["mel"], alone[24])
    assert not node.held() and not len(node._playback)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 1.0])
def test_no_window_waits_longer_than_one_window_of_every_other_request(
    default: Checkpoint, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Five requests, one window an evaluation, whether the machine keeps up or not; a cancelled one holds up nobody."""
    node = CodecDiT(str(default.folder), "low_latency", max_blocks=1)
    order = Order(node, monkeypatch, seconds)
    run = NodeRun(node)
    for request in "abcde":
        run.open(request, {"codes": cut(ids(72))})
    while len(order.served) < 50:
        run.move()
    run.close("e")
    run.run()
    assert all(run.complete(request) for request in "abcd")
    for request in "abcd":
        turns = [index for index, served in enumerate(order.served) if served == request]
        assert max(later - turn for turn, later in pairwise([-1, *turns])) <= 5 * 36
    assert not node.held() and not len(node._playback)


@pytest.mark.parametrize("max_blocks", [1, 4, 9])
def test_the_clock_decides_the_order_and_nothing_else(
    default: Checkpoint, monkeypatch: pytest.MonkeyPatch, max_blocks: int
) -> None:
    rng = random.Random(max_blocks)
    node = CodecDiT(str(default.folder), "low_latency", max_blocks=max_blocks)
    ticks = accumulate(iter(lambda: rng.choice((0.0, 0.01, 3.0)), None))
    node._playback = Playback(lambda: next(ticks))
    lengths = {"a": 50, "b": 37, "c": 24}
    together = run_node(node, {r: {"codes": cut(ids(n))} for r, n in lengths.items()}, rng=rng)
    for request, n in lengths.items():
        assert_same(together[request]["mel"], speak(default.node("low_latency"), ids(n)))


def test_windows_of_any_lengths_cost_their_own_blocks(default: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows lie end to end on the axis of blocks, both halves of guidance: nothing is padded to the longest."""
    computed: list[tuple[int, ...]] = []
    transform = CodecDiTModel._transform
    monkeypatch.setattr(
        CodecDiTModel,
        "_transform",
        lambda m, hidden, times, layout: (computed.append(hidden.shape[:2]), transform(m, hidden, times, layout))[1],
    )
    node = CodecDiT(str(default.folder), "exact", max_blocks=7)
    run_node(node, {str(n): {"codes": cut(ids(n), sizes=(n,))} for n in (13, 48, 3)})
    assert computed == [(2 * (2 + 4 + 1), 24)] * 36


def test_an_evaluation_has_at_most_max_blocks(default: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU larger ones only make everybody wait. A window of more blocks still gets its turn."""
    blocks: list[list[int]] = []
    evaluate = CodecDiTModel.evaluate
    monkeypatch.setattr(
        CodecDiTModel, "evaluate", lambda m, w: (blocks.append([len(one.guided) for one in w]), evaluate(m, w))
    )
    node = CodecDiT(str(default.folder), "exact", max_blocks=5)
    run_node(node, {str(n): {"codes": cut(ids(n), sizes=(n,))} for n in (30, 24, 25, 90, 12)})
    assert blocks == [[3, 2]] * 36 + [[3]] * 36 + [[8]] * 36 + [[1]] * 36
    with pytest.raises(NodeError, match="max_blocks is 0"):
        CodecDiT(str(default.folder), max_blocks=0)


def test_a_cancel_frees_a_half_done_window_at_once(default: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    node, batches = default.node("low_latency"), []
    alone = speak(node, ids(40))
    evaluate = CodecDiTModel.evaluate
    monkeypatch.setattr(CodecDiTModel, "evaluate", lambda m, w: (batches.append(len(w)), evaluate(m, w)))
    run = NodeRun(node)
    for request in ("cancelled", "stays"):
        run.open(request, {"codes": cut(ids(40))})
    while len(batches) < 5:
        run.move()
    assert batches[-1] == 2
    run.close("cancelled")
    assert node.held() == {"stays"}
    run.run()
    assert set(batches[5:]) == {1}
    assert_same(run.outputs["stays"]["mel"], alone)


class Wire:
    """An Inbox and Outbox of one request, whose room the test sets."""

    def __init__(self, waiting: list[Codes], room: int) -> None:
        self.waiting, self.room_left, self.sent = waiting, room, []
        self.taken, self.evaluations, self.ended = 0, 0, False

    def ready(self, port: Any) -> Sequence[str]:
        return ["r"] if self.waiting else []

    def take(self, port: Any, request: str) -> Codes:
        self.taken += 1
        return self.waiting.pop(0)

    def drained(self, port: Any) -> Sequence[str]:
        return [] if self.waiting else ["r"]

    def room(self, port: Any, request: str) -> int:
        return self.room_left

    def send(self, port: Any, request: str, packet: Mel) -> None:
        assert self.room_left > 0
        self.room_left -= 1
        self.sent.append(packet)

    def end(self, request: str, port: Any = None) -> None:
        self.ended = True

    def working(self, request: str) -> None:
        self.evaluations += 1


@pytest.mark.parametrize(("room", "taken", "sent"), [(0, 0, 0), (1, 48, 1), (2, 84, 2)])
def test_codes_are_taken_only_for_mel_that_has_room(default: Checkpoint, room: int, taken: int, sent: int) -> None:
    """A client that does not read must pause the Talker: the windows wanted are 24, 48 and 84 codes, one code a packet.

    While a window is in work, the codes of the next may come in; without room it is not begun.
    """
    node, wire = default.node("low_latency"), Wire(cut(ids(400), sizes=(1,)), room)
    node.open("r", CodecDiT.Params())
    while node.step(wire, wire):
        pass
    assert (wire.taken, len(wire.sent), wire.evaluations, wire.ended) == (taken, sent, 36 * sent, False)
    wire.room_left = 1 << 62
    while node.step(wire, wire):
        pass
    assert wire.ended and sum(packet.codes for packet in wire.sent) == 400
    node.close("r")


def test_no_codes_end_with_no_packet(default: Checkpoint) -> None:
    for mode in ("exact", "low_latency"):
        assert run_node(default.node(mode), {"r": {"codes": []}})["r"]["mel"] == []


def test_what_no_window_wants_is_forgotten() -> None:
    tape = CodecTape()
    for start in range(0, 4000, 72):
        tape.append(list(range(start, start + 72)))
        assert tape.window(max(0, start - 24), start + 72) == list(range(max(0, start - 24), start + 72))
    assert tape.kept == 96 and len(tape) == 4032


def test_packets_of_blocks_longer_than_a_packet() -> None:
    """A checkpoint with blocks of 200 frames: the first packet's look-ahead is then mostly its own block."""
    mel = np.arange(400 * 80, dtype="float32").reshape(400, 80)
    cut_up = list(packets(mel, final=200, repeats=2, lookahead=True))
    assert [(len(p.frames), len(p.lookahead), p.codes) for p in cut_up] == [(144, 144, 72), (56, 0, 28)]
    np.testing.assert_array_equal(mel_of(cut_up), mel[:200])
    np.testing.assert_array_equal(cut_up[0].lookahead.values, mel[144:288])


# ---- what goes wrong


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (cut([1, 2], voice="Nobody"), "voice 'Nobody' is not in this checkpoint; known: Chelsie, Ethan"),
        (cut([1, 100]), "codec id 100; the DiT knows 0 to 99"),
        (cut([-1]), "codec id -1; the DiT knows 0 to 99"),
        ([*cut([1]), *cut([1], voice="Ethan")], "the voice changed from 'Chelsie' to 'Ethan'"),
        ([Codes(Array.of(np.zeros((3, 16), "int64")), "Chelsie")], r"codes of shape \(3, 16\); allowed: \(n, 1\)"),
    ],
)
def test_codes_that_cannot_be_spoken_fail_their_request_alone(
    default: Checkpoint, bad: list[Codes], message: str
) -> None:
    node = default.node("low_latency")
    alone = speak(node, ids(30))
    run = NodeRun(node)
    run.open("bad", {"codes": [*cut(ids(20), bad[0].voice), *bad]})
    run.open("good", {"codes": cut(ids(30))})
    run.run()
    assert set(run.errors) == {"bad"}
    assert run.errors["bad"].code is Code.INVALID_INPUT
    with pytest.raises(RequestError, match=message):
        raise run.errors["bad"]
    assert_same(run.outputs["good"]["mel"], alone)


def test_numbers_that_are_not_finite_fail_their_requests_alone(tiny_folder: Path, tmp_path: Path) -> None:
    """A broken voice: both of its requests fail, those beside them in every evaluation do not notice."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_folder, folder)
    speakers = torch.load(folder / "spk_dict.pt", weights_only=True)
    speakers["Ethan"]["cond"][0, 0] = float("nan")
    torch.save(speakers, folder / "spk_dict.pt")
    node = CodecDiT(str(folder))
    alone = speak(node, ids(30))
    run = NodeRun(node)
    for request, voice in {"x": "Ethan", "good": "Chelsie", "y": "Ethan"}.items():
        run.open(request, {"codes": cut(ids(30), voice)})
    run.run()
    assert {request: error.code for request, error in run.errors.items()} == {"x": Code.NUMERIC, "y": Code.NUMERIC}
    assert "mel frames 0 to 23" in str(run.errors["x"])
    assert_same(run.outputs["good"]["mel"], alone)
    for request in run.outputs:
        run.close(request)
    assert not node.held()


def test_an_unknown_context_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(NodeError, match="codec_context is 'fast'"):
        CodecDiT(str(tiny_folder), "fast")


def test_the_node_modules_import_without_torch() -> None:
    """`check` reads ports from the classes; it must not wait for torch, nor need it."""
    code = (
        "import sys, omni_nodes.qwen2_5_omni.codec_dit, omni_nodes.qwen2_5_omni.bigvgan;"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
