"""The frontend against transformers' Qwen2_5OmniProcessor: the same ids, features and patches, to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from omni_graph.conversation import conversation_packets
from omni_graph.payload import max_packet_bytes, packet_bytes
from omni_graph.testing import run_node
from omni_nodes.media.limits import MediaLimits
from omni_nodes.qwen2_5_omni.audio_encoder import AudioEncoder
from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
from omni_nodes.qwen2_5_omni.frontend import Frontend
from omni_nodes.qwen2_5_omni.intake import MediaIntake
from omni_nodes.qwen2_5_omni.interleaver import Interleaver
from omni_nodes.qwen2_5_omni.settings import CheckpointError, MelSettings, PixelSettings
from omni_nodes.qwen2_5_omni.vision_encoder import VisionEncoder
from tests.nodes.qwen2_5_omni.conversations import (
    BLOCKWISE,
    SILENT,
    VIDEO,
    audio,
    flac,
    image,
    pixels,
    png,
    sound,
    user,
    video,
)
from tests.nodes.qwen2_5_omni.processed import processed

Outputs = dict[str, list[Any]]


@pytest.fixture(scope="module")
def node(tiny_folder) -> Frontend:
    return Frontend(str(tiny_folder))


def run(node: Frontend, messages: Sequence[Mapping[str, Any]], *, audio_in_video: bool = False) -> Outputs:
    packets = conversation_packets(messages)
    return run_node(node, {"r": {"conversation": packets}}, {"r": {"audio_in_video": audio_in_video}})["r"]


def check_equal(outputs: Outputs, made: Mapping[str, Any]) -> None:
    """Ids, features and patches, to the bit; and that every packet is legal."""
    ids = np.concatenate([segment.token_ids.values for segment in outputs["layout"]])
    np.testing.assert_array_equal(ids, made["input_ids"][0].numpy())
    features = made.get("input_features", torch.zeros(0, 128, 0))
    masks = made.get("feature_attention_mask", torch.zeros(0, 0)).bool()
    wanted = [clip[:, mask].numpy() for clip, mask in zip(features, masks, strict=True)]
    spans = sorted({chunk.span for chunk in outputs["audio"]})
    assert len(spans) == len(wanted)
    for span, clip in zip(spans, wanted, strict=True):
        ours = np.concatenate([c.features.values for c in outputs["audio"] if c.span == span], axis=1)
        np.testing.assert_array_equal(ours, clip)
    kinds = {segment.span: segment.kind for segment in outputs["layout"] if segment.kind in ("image", "video")}
    for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        rows = [packet.pixels.values for packet in outputs["vision"] if kinds[packet.span] == kind]
        theirs = made.get(name, torch.zeros(0, 1176)).numpy()
        np.testing.assert_array_equal(np.concatenate([np.zeros((0, 1176), np.float32), *rows]), theirs)
    for packet in (*outputs["layout"], *outputs["audio"], *outputs["vision"]):
        assert packet_bytes(packet) <= max_packet_bytes(type(packet))


CASES: dict[str, list[dict[str, Any]]] = {
    "text": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello world"}],
    "sound": [user("what", audio(sound(3.3)), audio(sound(0.31)), audio(sound(4.0)))],
    "sound files": [user(audio(flac(sound(2.01))), "and", audio(flac(sound(0.5))))],
    "images": [user(image(pixels(57, 301)), image(pixels(31, 29)), "what?"), user(image(png(pixels(200, 150))))],
    "video arrays": [user(video(pixels(4, 60, 90)), "and", video(pixels(7, 33, 131)))],
    "video file": [user(video(VIDEO), "what happens?")],
    "all": [
        {"role": "system", "content": [{"type": "text", "text": "You see and hear."}]},
        user("a", image(pixels(90, 90)), audio(sound(1.0)), video(pixels(2, 50, 50)), audio(flac(sound(2.5)))),
        {"role": "assistant", "content": "Yes."},
        user(video(SILENT), image(png(pixels(64, 200))), "?"),
    ],
}


@pytest.mark.parametrize("messages", CASES.values(), ids=CASES)
def test_outputs_equal_the_processors(node, reference, messages):
    check_equal(run(node, messages), processed(reference, messages))


@pytest.mark.parametrize("clips", [(VIDEO,), (BLOCKWISE,), (VIDEO, BLOCKWISE)], ids=["interleaved", "blockwise", "two"])
def test_videos_with_their_sound_equal_the_processors(node, reference, clips):
    messages = [user("watch", *[video(clip, audio=True) for clip in clips], "what?")]
    check_equal(run(node, messages), processed(reference, messages, heard=True))


def test_slow_video_arrays_keep_their_clock(node, reference):
    messages = [user(video(pixels(8, 40, 40), fps=0.5))]
    outputs = run(node, messages)
    made = processed(reference, messages, fps=0.5)
    check_equal(outputs, made)
    seconds = {segment.seconds_per_grid for segment in outputs["layout"] if segment.kind == "video"}
    assert seconds == {float(made["video_second_per_grid"][0])}


def test_the_parameter_makes_videos_heard_that_do_not_say_themselves(node):
    messages = [user(video(VIDEO), video(VIDEO, audio=False))]
    outputs = run(node, messages, audio_in_video=True)
    assert {chunk.span for chunk in outputs["audio"]} == {0}
    assert run(node, messages)["audio"] == []


@pytest.mark.parametrize("heard", [False, True])
def test_the_four_stages_together_make_the_thinkers_own_input(tiny_folder, node, reference, heard):
    """Rows where transformers scatters its features, at the positions that it computes."""
    folder = str(tiny_folder)
    if heard:
        messages = [user("watch", video(VIDEO, audio=True), "then", video(BLOCKWISE, audio=True), "?")]
    else:
        messages = CASES["all"]
    made = processed(reference, messages, heard=heard)
    front = run(node, messages)
    rows = run_node(AudioEncoder(folder, device="cpu"), {"r": {"features": front["audio"]}})["r"]["embeds"]
    seen = run_node(VisionEncoder(folder, device="cpu"), {"r": {"patches": front["vision"]}})["r"]["embeds"]
    inputs = {"layout": front["layout"], "audio": rows, "vision": seen}
    prompt = run_node(Interleaver(folder), {"r": inputs})["r"]["prompt"]

    thinker = reference.model.thinker
    positions, delta = thinker.get_rope_index(
        made["input_ids"],
        made.get("image_grid_thw"),
        made["video_grid_thw"],
        made["attention_mask"],
        heard,
        made["feature_attention_mask"].sum(-1),
        made["video_second_per_grid"],
    )
    ours = np.concatenate([segment.positions.values for segment in prompt], axis=1)
    np.testing.assert_array_equal(ours, positions[:, 0].numpy())
    assert prompt[-1].next_position == made["input_ids"].shape[1] + int(delta)

    captured: dict[str, torch.Tensor] = {}

    def capture(module: Any, args: Any, kwargs: Any) -> None:
        captured["embeds"] = kwargs["inputs_embeds"]

    handle = thinker.model.language_model.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        thinker(**made)
    finally:
        handle.remove()
    start = 0
    for segment in prompt:
        end = start + len(segment.token_ids)
        if segment.modality != "text":
            theirs = captured["embeds"][0, start:end].numpy()
            np.testing.assert_allclose(segment.embeddings.values, theirs, atol=1e-5, rtol=0)
        start = end


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mel": MelSettings(128, 400, 200, 16000)}, "its mel has n_fft 400, hop 200"),
        ({"images": PixelSettings(1, 2, 14, 2, 4, (0, 0, 0), (1, 1, 1))}, "temporal_patch_size"),
    ],
)
def test_a_checkpoint_that_wants_other_features_is_refused_at_start(tiny_folder, change, message):
    checkpoint = replace(open_checkpoint(str(tiny_folder)), **change)
    with pytest.raises(CheckpointError, match=message):
        MediaIntake(checkpoint, MediaLimits())
