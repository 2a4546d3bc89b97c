"""The encoder stages against transformers' towers on whole inputs, and their manners: order, room, batches, endings."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from omni_graph.errors import Code, RequestError
from omni_graph.payload import Array, max_packet_bytes, packet_bytes
from omni_graph.testing import NodeRun, run_node
from omni_nodes.payloads import Embeddings, MelChunk, Patches
from omni_nodes.qwen2_5_omni.audio_encoder import AudioEncoder
from omni_nodes.qwen2_5_omni.audio_encoder_model import AudioEncoderModel
from omni_nodes.qwen2_5_omni.layout import audio_tokens
from omni_nodes.qwen2_5_omni.vision_encoder import VisionEncoder, packets
from omni_nodes.qwen2_5_omni.vision_encoder_model import VisionEncoderModel

BLOCK = 200


@pytest.fixture(params=["reference", "odd_reference"])
def oracle(request):
    return request.getfixturevalue(request.param)


def mel_of(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((128, frames)).astype(np.float32)


def blocks_of(mel: np.ndarray, span: int = 0) -> list[MelChunk]:
    return [MelChunk(Array.of(mel[:, i : i + BLOCK]), span) for i in range(0, mel.shape[1], BLOCK)]


def joined(sent: list[Embeddings]) -> np.ndarray:
    return np.concatenate([packet.values.values for packet in sent])


def encode_clip(oracle, mel: np.ndarray) -> np.ndarray:
    tower = oracle.model.thinker.model.audio_tower
    return tower(torch.from_numpy(mel), feature_lens=torch.tensor([mel.shape[1]])).last_hidden_state.numpy()


def encode_pictures(oracle, pixels: np.ndarray, grids: list[tuple[int, int, int]]) -> np.ndarray:
    tower = oracle.model.thinker.model.visual
    return tower(torch.from_numpy(pixels), grid_thw=torch.tensor(grids)).pooler_output.numpy()


@pytest.mark.parametrize("frames", [3, 57, 200, 201, 202, 203, 399, 400, 401, 1111])
def test_blocks_of_a_clip_encode_as_the_whole_clip(oracle, frames):
    mel = mel_of(frames)
    sent = run_node(AudioEncoder(str(oracle.folder), device="cpu"), {"r": {"features": blocks_of(mel)}})["r"]["embeds"]
    assert [len(packet.values) for packet in sent] == [
        count for i in range(0, frames, BLOCK) if (count := audio_tokens(min(BLOCK, frames - i)))
    ]
    np.testing.assert_allclose(joined(sent), encode_clip(oracle, mel), atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_clip_too_short_for_a_token_ends_without_a_packet(reference, frames):
    node = AudioEncoder(str(reference.folder), device="cpu")
    assert run_node(node, {"r": {"features": blocks_of(mel_of(frames))}})["r"]["embeds"] == []
    assert run_node(node, {"r": {}})["r"]["embeds"] == []


@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_requests_in_one_call_are_encoded_as_alone(reference, max_batch):
    clips = {f"r{i}": mel_of(frames, i) for i, frames in enumerate((203, 1111, 2, 640, 401))}
    node = AudioEncoder(str(reference.folder), max_batch=max_batch, device="cpu")
    inputs = {request: {"features": blocks_of(mel)} for request, mel in clips.items()}
    for seed in range(2):
        got = run_node(node, inputs, windows={"features": 3, "embeds": 2}, rng=random.Random(seed))
        for request, mel in clips.items():
            if mel.shape[1] > 2:
                np.testing.assert_allclose(
                    joined(got[request]["embeds"]), encode_clip(reference, mel), atol=1e-5, rtol=0
                )


def test_blocks_of_two_requests_share_one_call(reference, blocks_encoded):
    clips = {f"r{i}": mel_of(400, i) for i in range(2)}
    node = AudioEncoder(str(reference.folder), max_batch=4, device="cpu")
    inputs = {request: {"features": blocks_of(mel)} for request, mel in clips.items()}
    together = run_node(node, inputs, windows={"features": 4})
    assert blocks_encoded == [4]
    for request, given in inputs.items():
        alone = run_node(AudioEncoder(str(reference.folder), device="cpu"), {request: given})[request]["embeds"]
        np.testing.assert_allclose(joined(together[request]["embeds"]), joined(alone), atol=1e-5, rtol=0)


def test_a_request_without_room_keeps_its_blocks_and_holds_up_nobody(reference):
    run = NodeRun(AudioEncoder(str(reference.folder), device="cpu"), windows={"features": 4, "embeds": 2})
    run.paused.add("slow")
    for request in ("slow", "fast"):
        run.open(request, {"features": blocks_of(mel_of(2000))})
    run.run()
    assert run.complete("fast")
    assert not run.complete("slow")
    run.paused.clear()
    run.run()
    assert joined(run.outputs["slow"]["embeds"]).tobytes() != b""
    np.testing.assert_allclose(
        joined(run.outputs["slow"]["embeds"]), joined(run.outputs["fast"]["embeds"]), atol=1e-5, rtol=0
    )


@pytest.fixture
def blocks_encoded(monkeypatch) -> list[int]:
    """The blocks in each call of the audio tower, as they come."""
    sizes: list[int] = []
    encode = AudioEncoderModel.encode
    monkeypatch.setattr(
        AudioEncoderModel, "encode", lambda m, blocks: (sizes.append(len(blocks)), encode(m, blocks))[1]
    )
    return sizes


def test_sound_heard_before_is_not_encoded_again(reference, blocks_encoded):
    """A session's next turn brings the same clip; what follows it is new. Rows are the same bits as the first time."""
    node = AudioEncoder(str(reference.folder), device="cpu")
    clip = mel_of(600)
    (first,) = run_node(node, {"r": {"features": blocks_of(clip)}})["r"].values()
    longer = np.concatenate([clip, mel_of(57, 1)], axis=1)
    (second,) = run_node(node, {"s": {"features": blocks_of(longer)}})["s"].values()
    assert second[:3] == first
    assert sum(blocks_encoded) == 4
    assert node.counters()["cache_hits"] == 3
    assert node.counters()["cache_misses"] == 4
    assert len({packet.content_key for packet in second}) == 4


def test_without_a_cache_everything_is_encoded_and_is_the_same(reference, blocks_encoded):
    inputs = {request: {"features": blocks_of(mel_of(457))} for request in "ab"}
    cached = run_node(AudioEncoder(str(reference.folder), device="cpu"), inputs)
    node = AudioEncoder(str(reference.folder), cache_bytes=0, device="cpu")
    blocks_encoded.clear()
    plain = run_node(node, inputs)
    assert sum(blocks_encoded) == 6
    assert not any(node.counters().values())
    for request in "ab":
        ours, theirs = cached[request]["embeds"], plain[request]["embeds"]
        assert [packet.content_key for packet in ours] == [packet.content_key for packet in theirs]
        np.testing.assert_allclose(joined(ours), joined(theirs), atol=1e-5, rtol=0)


def test_bfloat16_rows_travel_as_bfloat16(reference):
    node = AudioEncoder(str(reference.folder), device="cpu", dtype="bfloat16")
    (packet,) = run_node(node, {"r": {"features": blocks_of(mel_of(100))}})["r"]["embeds"]
    assert packet.values.dtype == "bfloat16"
    assert packet.values.shape == (25, 64)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_rows_that_are_not_finite_fail_their_requests_alone(reference, blocks_encoded, cache_bytes):
    """Two bring the same broken clip: both fail, its broken block is not kept, and who shares the call is as alone."""
    broken, clip = mel_of(450, 1), mel_of(450)
    broken[7, 300] = np.nan
    node = AudioEncoder(str(reference.folder), max_batch=8, cache_bytes=cache_bytes, device="cpu")
    run = NodeRun(node)
    for request, mel in {"x": broken, "good": clip, "y": broken}.items():
        run.open(request, {"features": blocks_of(mel)})
    run.run()
    assert blocks_encoded[0] >= 5
    assert {request: error.code for request, error in run.errors.items()} == {"x": Code.NUMERIC, "y": Code.NUMERIC}
    assert "a block of 200 mel frames" in run.errors["x"].message
    np.testing.assert_allclose(joined(run.outputs["good"]["embeds"]), encode_clip(reference, clip), atol=1e-5, rtol=0)
    for request in ("x", "y"):
        (first,) = run.outputs[request]["embeds"]
        np.testing.assert_allclose(first.values.values, encode_clip(reference, broken[:, :200]), atol=1e-5, rtol=0)
        run.close(request)
    assert len(node._cache) == (5 if cache_bytes else 0)
    assert not node._faults


def test_who_failed_and_is_cancelled_before_it_is_told_fails_nobody(reference):
    """A slice raises one failure; the other one's request is over before its turn."""
    broken = np.full((128, 200), np.inf, np.float32)
    run = NodeRun(AudioEncoder(str(reference.folder), max_batch=8, device="cpu"))
    for request, mel in {"x": broken, "y": broken, "good": mel_of(800)}.items():
        run.open(request, {"features": blocks_of(mel)})
    while not run.errors:
        assert run.move()
    assert not run.complete("good")
    run.close("y")
    run.run()
    assert set(run.errors) == {"x"} and run.complete("good")


# ---- pictures

GRIDS = [(1, 4, 6), (1, 10, 2), (1, 34, 30), (1, 2, 2), (1, 16, 22)]


def pixels_of(grids: list[tuple[int, int, int]], seed: int = 0) -> np.ndarray:
    rows = sum(t * h * w for t, h, w in grids)
    return np.random.default_rng(seed).standard_normal((rows, 1176)).astype(np.float32)


def pieces_of(pixels: np.ndarray, grids: list[tuple[int, int, int]], rows: int = 200) -> list[Patches]:
    """Each picture in pieces of ``rows``; a grid of several frame pairs is that many pictures."""
    pieces = []
    start = 0
    for frame_pairs, height, width in grids:
        for _ in range(frame_pairs):
            end = start + height * width
            for i in range(start, end, rows):
                piece = Array.of(pixels[i : min(i + rows, end)])
                pieces.append(Patches(piece, (1, height, width), 0, i + rows >= end))
            start = end
    return pieces


@pytest.mark.parametrize("rows", [200, 222, 7])
def test_pictures_encode_as_in_one_call(oracle, rows):
    pixels = pixels_of(GRIDS)
    node = VisionEncoder(str(oracle.folder), device="cpu")
    sent = run_node(node, {"r": {"patches": pieces_of(pixels, GRIDS, rows)}})["r"]["embeds"]
    np.testing.assert_allclose(joined(sent), encode_pictures(oracle, pixels, GRIDS), atol=1e-5, rtol=0)


def test_frame_pairs_encode_as_the_whole_video(oracle):
    grid = [(5, 8, 6)]
    pixels = pixels_of(grid)
    sent = run_node(VisionEncoder(str(oracle.folder), device="cpu"), {"r": {"patches": pieces_of(pixels, grid)}})
    np.testing.assert_allclose(joined(sent["r"]["embeds"]), encode_pictures(oracle, pixels, grid), atol=1e-5, rtol=0)


@pytest.mark.parametrize("max_batch", [1, 2, 4])
def test_pictures_of_several_requests_share_a_call(reference, max_batch):
    pictures = {f"r{i}": (pixels_of([grid], i), [grid]) for i, grid in enumerate(GRIDS)}
    node = VisionEncoder(str(reference.folder), max_batch=max_batch, device="cpu")
    inputs = {request: {"patches": pieces_of(*picture)} for request, picture in pictures.items()}
    for seed in range(2):
        got = run_node(node, inputs, windows={"patches": 2, "embeds": 1}, rng=random.Random(seed))
        for request, (pixels, grids) in pictures.items():
            wanted = encode_pictures(reference, pixels, grids)
            np.testing.assert_allclose(joined(got[request]["embeds"]), wanted, atol=1e-5, rtol=0)
    assert not node._streams


@pytest.fixture
def patches_encoded(monkeypatch) -> list[list[int]]:
    """The patches of each picture in each call of the vision tower, as they come."""
    calls: list[list[int]] = []
    encode = VisionEncoderModel.encode

    def spy(model, pictures):
        if pictures:
            calls.append([sum(map(len, pieces)) for _, pieces in pictures])
        return encode(model, pictures)

    monkeypatch.setattr(VisionEncoderModel, "encode", spy)
    return calls


def test_a_picture_is_encoded_once_for_all_who_bring_it(reference, patches_encoded):
    """Two bring it at once, in pieces of their own; one later. All get the same bits; a different picture does not."""
    grids = [(1, 16, 22)]
    same, other = pixels_of(grids), pixels_of(grids, 1)
    node = VisionEncoder(str(reference.folder), device="cpu")
    inputs = {
        "a": {"patches": pieces_of(same, grids)},
        "b": {"patches": pieces_of(same, grids, 7)},
        "c": {"patches": pieces_of(other, grids)},
    }
    got = run_node(node, inputs, windows={"patches": 64})
    later = run_node(node, {"d": inputs["a"]})["d"]["embeds"]
    assert got["a"]["embeds"] == got["b"]["embeds"] == later
    assert [p.content_key for p in got["c"]["embeds"]] != [p.content_key for p in later]
    assert [size for call in patches_encoded for size in call] == [16 * 22] * 2
    assert (node.counters()["cache_hits"], node.counters()["cache_misses"]) == (2, 2)
    np.testing.assert_allclose(joined(later), encode_pictures(reference, same, grids), atol=1e-5, rtol=0)


def test_the_same_patches_in_another_grid_are_another_picture(reference):
    pixels = pixels_of([(1, 4, 6)])
    node = VisionEncoder(str(reference.folder), device="cpu")
    got = {
        grid: run_node(node, {"r": {"patches": pieces_of(pixels, [grid])}})["r"]["embeds"]
        for grid in ((1, 4, 6), (1, 6, 4))
    }
    for grid, sent in got.items():
        np.testing.assert_allclose(joined(sent), encode_pictures(reference, pixels, [grid]), atol=1e-5, rtol=0)


def test_a_small_cache_forgets_and_encodes_again_to_the_same_rows(reference, patches_encoded):
    grids = [(1, 4, 6)]
    pictures = [pixels_of(grids, seed) for seed in range(3)]
    node = VisionEncoder(str(reference.folder), cache_bytes=6000, device="cpu")  # room for 2 of 6 rows of 256 bytes
    for _ in range(2):
        for pixels in pictures:
            (sent,) = run_node(node, {"r": {"patches": pieces_of(pixels, grids)}})["r"].values()
            np.testing.assert_allclose(joined(sent), encode_pictures(reference, pixels, grids), atol=1e-5, rtol=0)
            assert node.counters()["cache_bytes"] <= 6000
    assert len(patches_encoded) == 6
    assert node.counters()["cache_evicted"] == 4


def test_a_call_of_large_pictures_is_cut(reference, patches_encoded):
    """No more patches than ``max_patches`` together, so that a slice stays short; none waits behind a later one."""
    pictures = {f"r{i}": (pixels_of([grid], i), [grid]) for i, grid in enumerate(GRIDS)}
    node = VisionEncoder(str(reference.folder), max_batch=8, max_patches=48, device="cpu")
    inputs = {request: {"patches": pieces_of(*picture)} for request, picture in pictures.items()}
    got = run_node(node, inputs, windows={"patches": 16})
    assert patches_encoded == [[24, 20], [1020], [4], [352]]
    for request, (pixels, grids) in pictures.items():
        wanted = encode_pictures(reference, pixels, grids)
        np.testing.assert_allclose(joined(got[request]["embeds"]), wanted, atol=1e-5, rtol=0)
    assert not node._waiting


def test_a_cancelled_request_leaves_no_picture(reference, patches_encoded):
    grids = [(1, 4, 6)]
    node = VisionEncoder(str(reference.folder), max_patches=24, device="cpu")
    run = NodeRun(node)
    for seed, request in enumerate("ab"):
        run.open(request, {"patches": pieces_of(pixels_of(grids, seed), grids)})
    while not patches_encoded:
        run.move()
    assert set(node._waiting) == {"b"}
    run.close("b")
    assert not node._waiting
    run.run()
    assert patches_encoded == [[24]]


def test_rows_fill_packets_and_none_is_too_large():
    sent = packets(Array.of(np.arange(200 * 3584, dtype=np.float32).reshape(200, 3584)), b"picture")
    assert [len(packet.values) for packet in sent] == [73, 73, 54]
    assert max(map(packet_bytes, sent)) <= max_packet_bytes(Embeddings)
    np.testing.assert_array_equal(joined(sent).ravel(), np.arange(200 * 3584))
    assert [packet.content_key for packet in sent] == [b"picture" + row.to_bytes(4, "big") for row in (0, 73, 146)]


def test_nothing_is_taken_while_rows_wait_for_room(reference, monkeypatch):
    monkeypatch.setattr(
        "omni_nodes.qwen2_5_omni.vision_encoder.HEADER_BYTES", (1 << 20) - 64 * 4 * 10
    )  # 10 rows a packet
    grids = [(1, 10, 10), (1, 10, 10)]
    node = VisionEncoder(str(reference.folder), device="cpu")
    run = NodeRun(node, windows={"patches": 2, "embeds": 1})
    run.paused.add("r")
    run.open("r", {"patches": pieces_of(pixels_of(grids), grids)})
    run.run()
    assert [len(packet.values) for packet in node._streams["r"].outgoing] == [10, 5]
    assert not node._streams["r"].pieces
    run.paused.clear()
    run.run()
    assert run.complete("r")
    assert [len(packet.values) for packet in run.outputs["r"]["embeds"]] == [10, 10, 5] * 2


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (
            pieces_of(pixels_of([(1, 4, 6)]), [(1, 4, 6)], 10)[:-1],
            r"patches ended inside a picture of grid \(1, 4, 6\)",
        ),
        ([Patches(Array.empty(20, 1176), (1, 4, 6), 0)], r"a picture of 20 patches in pieces of grid \[\(1, 4, 6\)\]"),
        (
            [Patches(Array.empty(12, 1176), (1, 4, 6), 0, False), Patches(Array.empty(12, 1176), (1, 2, 6), 0)],
            r"a picture of 24 patches in pieces of grid \[\(1, 2, 6\), \(1, 4, 6\)\]",
        ),
    ],
)
@pytest.mark.parametrize("order", [("bad", "good"), ("good", "bad")])
def test_a_picture_whose_pieces_do_not_agree_fails_its_request_alone(reference, patches, message, order):
    grids = [(1, 4, 6), (1, 2, 2)]
    inputs = {"bad": patches, "good": pieces_of(pixels_of(grids), grids)}
    run = NodeRun(VisionEncoder(str(reference.folder), device="cpu"))
    for request in order:
        run.open(request, {"patches": inputs[request]})
    run.run()
    assert set(run.errors) == {"bad"}
    error: RequestError = run.errors["bad"]
    assert error.code is Code.NODE_FAILED
    with pytest.raises(RequestError, match=message):
        raise error
    run.close("bad")
    run.run()
    assert run.complete("good")


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_picture_whose_rows_are_not_finite_fails_its_requests_alone(reference, patches_encoded, cache_bytes):
    """Two bring the same broken picture: both fail, it is not kept, and who shares the call is as alone."""
    grids = [(1, 10, 10), (1, 4, 6)]
    broken, pixels = pixels_of(grids, 1), pixels_of(grids)
    broken[50, 1] = np.nan
    node = VisionEncoder(str(reference.folder), cache_bytes=cache_bytes, device="cpu")
    run = NodeRun(node, windows={"patches": 4})
    for request, values in {"x": broken, "good": pixels, "y": broken}.items():
        run.open(request, {"patches": pieces_of(values, grids)})
    run.run()
    assert patches_encoded[0] == [100] * (2 if cache_bytes else 3)
    assert {request: error.code for request, error in run.errors.items()} == {"x": Code.NUMERIC, "y": Code.NUMERIC}
    assert "a picture of grid (1, 10, 10)" in run.errors["x"].message
    assert not run.outputs["x"]["embeds"] and not run.outputs["y"]["embeds"]
    wanted = encode_pictures(reference, pixels, grids)
    np.testing.assert_allclose(joined(run.outputs["good"]["embeds"]), wanted, atol=1e-5, rtol=0)
    assert len(node._cache) == (2 if cache_bytes else 0)
    for request in run.outputs:
        run.close(request)
    assert not node._waiting and not node._streams
