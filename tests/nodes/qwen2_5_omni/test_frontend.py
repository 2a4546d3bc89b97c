"""The frontend against transformers' Qwen2_5OmniProcessor: the same ids, features and patches, to the bit.

And its manners: the same packets at any window, three arms of which none waits for another, one clear line per bad input.
"""

from __future__ import annotations

import io
import json
import math
import random
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from omni_graph.conversation import conversation_packets
from omni_graph.errors import Code, RequestError
from omni_graph.node import UNLIMITED, In, Out
from omni_graph.payload import Conversation, max_packet_bytes, packet_bytes
from omni_graph.testing import NodeRun, run_node
from omni_nodes.media.audio import AudioDecoder
from omni_nodes.media.limits import MediaLimits
from omni_nodes.media.video import FrameReader, probe_video
from omni_nodes.payloads import Patches
from omni_nodes.qwen2_5_omni.audio_encoder import AudioEncoder
from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
from omni_nodes.qwen2_5_omni.conversation import MediaPart, Message, ParsedConversation
from omni_nodes.qwen2_5_omni.frontend import Frontend
from omni_nodes.qwen2_5_omni.intake import MediaIntake
from omni_nodes.qwen2_5_omni.interleaver import Interleaver
from omni_nodes.qwen2_5_omni.preparation import Preparer
from omni_nodes.qwen2_5_omni.settings import CheckpointError, MelSettings, PixelSettings
from omni_nodes.qwen2_5_omni.vision_encoder import VisionEncoder
from tests.nodes.media.files import Clip

Outputs = dict[str, list[Any]]
RNG = np.random.default_rng(0)
VIDEO = Clip(seconds=5.0, fps=8, audio="aac").encode()
BLOCKWISE = Clip(seconds=6.0, fps=8, audio="aac", interleaved=False).encode()
SILENT = Clip(seconds=3.0, fps=8).encode()


def sound(seconds: float) -> np.ndarray:
    return (0.2 * RNG.standard_normal(int(16000 * seconds))).astype(np.float32)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 255, (*shape, 3), dtype=np.uint8)


def flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="FLAC", subtype="PCM_24")
    return file.getvalue()


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def user(*parts: Mapping[str, Any] | str) -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else dict(part) for part in parts]
    return {"role": "user", "content": content}


def audio(medium: np.ndarray | bytes) -> dict[str, Any]:
    return {"type": "audio", "audio": medium, **({} if isinstance(medium, bytes) else {"sample_rate": 16000})}


def image(medium: np.ndarray | bytes) -> dict[str, Any]:
    return {"type": "image", "image": medium}


def video(medium: np.ndarray | bytes, fps: float = 2.0, **options: Any) -> dict[str, Any]:
    return {"type": "video", "video": medium, **({} if isinstance(medium, bytes) else {"fps": fps}), **options}


@pytest.fixture(scope="module")
def node(tiny_folder) -> Frontend:
    return Frontend(str(tiny_folder))


def run(node: Frontend, messages: Sequence[Mapping[str, Any]], *, audio_in_video: bool = False) -> Outputs:
    packets = conversation_packets(messages)
    return run_node(node, {"r": {"conversation": packets}}, {"r": {"audio_in_video": audio_in_video}})["r"]


def decoded(part: Mapping[str, Any]) -> Any:
    """The part's samples, picture or frames, as the processor is handed them: decoded by our own decoders."""
    medium = part[part["type"]]
    if part["type"] == "audio":
        return AudioDecoder(medium, "a").read() if isinstance(medium, bytes) else medium
    if part["type"] == "image":
        return Image.open(io.BytesIO(medium)) if isinstance(medium, bytes) else Image.fromarray(medium)
    if isinstance(medium, bytes):
        return np.concatenate(list(FrameReader(medium, "v", probe_video(medium, "v"))))
    return medium


def processed(reference: Any, messages: Sequence[Mapping[str, Any]], *, heard: bool = False, fps: float = 2.0) -> Any:
    """What the processor makes of the messages; ``heard``: each video with its sound track."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    media = {kind: [decoded(part) for part in parts if part["type"] == kind] for kind in ("audio", "image", "video")}
    if heard:
        tracks = [AudioDecoder(part["video"], "v", medium="video").read() for part in parts if part["type"] == "video"]
        media["audio"] = tracks
    named = [{**message, "content": _named(message["content"])} for message in messages]
    pillow = Qwen2VLImageProcessorPil.from_pretrained(reference.folder)  # torchvision's resizes otherwise
    with mock.patch.object(reference.processor, "image_processor", pillow):
        return reference.inputs(named, media["audio"], media["image"], media["video"], audio_in_video=heard, fps=fps)


def _named(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [part if part["type"] == "text" else {"type": part["type"], part["type"]: "x"} for part in content]


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


@pytest.fixture(scope="module")
def everything() -> list[Conversation]:
    media = [image(pixels(200, 300)), audio(sound(7.0)), video(BLOCKWISE, audio=True), image(png(pixels(33, 44)))]
    return conversation_packets([user("look", *media, "and", audio(flac(sound(2.2))), video(pixels(3, 40, 40)))])


@pytest.mark.parametrize("window", range(1, 9))
def test_any_window_gives_the_same_packets(node, everything, window):
    wanted = run_node(node, {"r": {"conversation": everything}})["r"]
    windows = {"conversation": window, "layout": window, "audio": 9 - window, "vision": 1 + (window * 5) % 8}
    text = conversation_packets([user("just text")])
    inputs = {"a": {"conversation": everything}, "b": {"conversation": text}, "c": {"conversation": everything}}
    got = run_node(node, inputs, windows=windows, rng=random.Random(window))
    assert got["a"] == wanted
    assert got["c"] == wanted
    assert got["b"] == run_node(node, {"r": {"conversation": text}})["r"]


class Hands:
    """Inbox and Outbox of one request, with the room of each output in our hands."""

    def __init__(self, packets: Sequence[Conversation]) -> None:
        self.packets = deque(packets)
        self.rooms = {"layout": 0, "audio": 0, "vision": 0}
        self.sent: Outputs = {"layout": [], "audio": [], "vision": []}
        self.ended: list[str] = []

    def ready(self, port: In[Any]) -> list[str]:
        return ["r"] if self.packets else []

    def take(self, port: In[Any], request: str) -> Any:
        return self.packets.popleft()

    def drained(self, port: In[Any]) -> list[str]:
        return [] if self.packets else ["r"]

    def routed(self, port: Out[Any], request: str) -> bool:
        return True

    def room(self, port: Out[Any], request: str) -> int:
        return self.rooms[port.name]

    def send(self, port: Out[Any], request: str, packet: Any) -> None:
        assert self.rooms[port.name] > 0
        self.rooms[port.name] -= 1
        self.sent[port.name].append(packet)

    def end(self, request: str, port: Out[Any] | None = None) -> None:
        assert port is not None
        self.ended.append(port.name)

    def choose(self, request: str, choice: tuple[int, ...]) -> None:
        raise AssertionError("the frontend decides nothing")


def settle(node: Frontend, hands: Hands) -> None:
    while node.step(hands, hands):
        pass


@pytest.mark.parametrize("order", list(permutations(("layout", "audio", "vision"))))
def test_each_arm_is_complete_while_the_others_have_no_room(node, everything, order):
    """A video of all pictures first and all sound after them, and an interleaver that wants them otherwise."""
    wanted = run_node(node, {"r": {"conversation": everything}})["r"]
    hands = Hands(everything)
    node.open("r", Frontend.Params())
    hands.rooms[order[0]] = 1
    settle(node, hands)
    for port in order:
        while port not in hands.ended:
            hands.rooms[port] += 1
            settle(node, hands)
        assert hands.sent[port] == wanted[port]
        assert hands.rooms[port] == 0  # the output ended with its last packet, not at the next credit
    assert hands.ended == list(order)
    node.close("r")
    assert not node._requests


def test_nothing_is_taken_without_room(node, everything):
    hands = Hands(everything)
    node.open("r", Frontend.Params())
    settle(node, hands)
    assert len(hands.packets) == len(everything)
    node.close("r")


def test_nothing_is_made_for_an_output_that_nobody_reads(node, everything, monkeypatch):
    def refuse(*args: Any) -> Any:
        raise AssertionError("pictures were decoded for nobody")

    monkeypatch.setattr(MediaIntake, "_image_packets", refuse)
    monkeypatch.setattr(MediaIntake, "_video_packets", refuse)
    got = run_node(node, {"r": {"conversation": everything}}, outputs=["layout", "audio"])["r"]
    assert got["layout"]
    assert got["audio"]


def test_an_output_that_is_stopped_midway_ends_and_the_others_go_on(node, everything):
    wanted = run_node(node, {"r": {"conversation": everything}})["r"]
    run = NodeRun(node, windows={"vision": 1})
    run.open("r", {"conversation": everything})
    while not run.outputs["r"]["vision"]:
        assert run.move()
    run.stop("r", "vision")
    run.run()
    assert run.complete("r")
    assert len(run.outputs["r"]["vision"]) < len(wanted["vision"])
    assert run.outputs["r"]["layout"] == wanted["layout"]
    assert run.outputs["r"]["audio"] == wanted["audio"]


def test_a_cancelled_request_is_forgotten_in_any_state(node, everything):
    for slices in range(0, 60, 7):
        run = NodeRun(node, windows={"vision": 1, "audio": 1})
        run.paused.add("r")
        run.open("r", {"conversation": everything})
        for _ in range(slices):
            run.move()
        run.close("r")
        run.run()
        assert not node._requests


BAD = {
    "no message": ([], "at least one message"),
    "a role": ([{"role": "robot", "content": "a"}], r"messages\[0\].role"),
    "no sound": ([user(audio(b""))], r"messages\[0\].content\[0\]: is empty"),
    "not a picture": ([user("a", image(b"nothing"))], r"messages\[0\].content\[1\]: is not a picture"),
    "half a picture": ([user(image(png(pixels(90, 90))[:900]))], r"content\[0\]: is damaged or truncated"),
    "not a video": ([user(video(b"nothing at all"))], r"content\[0\]: is not a media file"),
    "half a video": ([user(video(VIDEO[: len(VIDEO) // 2]))], r"content\[0\]: is truncated"),
    "no track": ([user(video(SILENT, audio=True))], r"content\[0\]: has no audio track"),
    "an array has no track": ([user(video(pixels(4, 40, 40), audio=True))], "an array of frames has no sound"),
    "a rate": ([user({**audio(sound(1)), "sample_rate": 1000})], "sampling rate of 1000 Hz"),
    "a shape": ([user(image(pixels(4, 4)[..., :2]))], r"uint8 \(4, 4, 2\); uint8 \(height, width, 3\)"),
    "a thin picture": ([user(image(pixels(1, 300)))], "aspect ratio"),
    "a placeholder": ([user("<|IMAGE|>")], r"text must not contain <\|AUDIO\|>"),
    "text": ([user("word " * 60_000)], r"bytes of text; the model's context"),
    "media": ([user(*[audio(np.zeros(16000 * 700, np.float32))] * 2)], r"a prompt of 350\d\d tokens, media included"),
}


@pytest.mark.parametrize(("messages", "message"), BAD.values(), ids=BAD)
def test_bad_input_fails_its_request_with_one_line(node, messages, message):
    run = NodeRun(node)
    run.open("bad", {"conversation": conversation_packets(messages)})
    run.open("good", {"conversation": conversation_packets([user("hi")])})
    run.run()
    assert set(run.errors) == {"bad"}
    error = run.errors["bad"]
    assert error.code is Code.INVALID_INPUT
    assert "\n" not in error.message
    with pytest.raises(RequestError, match=message):
        raise error
    run.close("bad")
    run.run()
    assert run.complete("good")
    run.close("good")
    assert not node._requests


@pytest.mark.parametrize(
    ("packets", "message"),
    [
        ([], "the conversation is empty"),
        ([Conversation('[{"role": "user", "content": "a"}]'), Conversation(media=0)], "the messages name 0"),
        (
            [
                Conversation(json.dumps([user({"type": "image", "media": 0, "format": "uint8", "shape": [2, 2, 3]})])),
                Conversation(media=0, data=b"12345"),
            ],
            r"5 bytes came for a uint8 array \(2, 2, 3\) of 12",
        ),
    ],
)
def test_packets_that_are_no_conversation_are_refused(node, packets, message):
    with pytest.raises(RequestError, match=message) as caught:
        run_node(node, {"r": {"conversation": packets}})
    assert caught.value.code is Code.INVALID_INPUT


def test_limits_are_the_nodes_configuration(tiny_folder):
    node = Frontend(str(tiny_folder), max_images=1, max_audio_seconds=1.0, max_messages=2, max_video_frames=2)
    for messages, message in (
        ([user(image(pixels(30, 30)), image(pixels(30, 30)))], "2 images, at most 1"),
        ([user(audio(sound(1.5)))], "lasts more than 1 s"),
        ([user("a")] * 3, "3 of them, at most 2"),
        ([user(video(pixels(4, 30, 30)))], "has 4 frames; 1 to 2"),
    ):
        with pytest.raises(RequestError, match=message):
            run(node, messages)


def test_pictures_end_with_last_and_their_rows_are_the_grids(node, everything):
    rows = 0
    for packet in run_node(node, {"r": {"conversation": everything}})["r"]["vision"]:
        assert isinstance(packet, Patches)
        rows += len(packet.pixels)
        assert packet.last == (rows == packet.grid[1] * packet.grid[2])
        rows = 0 if packet.last else rows
    assert rows == 0


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


def test_a_mediums_bytes_are_let_go_when_its_cursor_is_past(tiny_folder):
    shapes = [("audio", "float32", (16000,)), ("image", "uint8", (60, 60, 3)), ("image", "uint8", (40, 40, 3))]
    parts = [MediaPart(kind, i, str(i), dtype, shape, 16000) for i, (kind, dtype, shape) in enumerate(shapes)]
    data = [RNG.bytes(math.prod(part.shape) * (4 if part.kind == "audio" else 1)) for part in parts]
    data[0] = bytes(len(data[0]))

    def holders() -> list[int]:
        return [sys.getrefcount(one) for one in data]

    idle = holders()
    message = Message("user", tuple(parts))
    preparer = Preparer(open_checkpoint(str(tiny_folder)), MediaLimits())
    preparation = preparer.prepare(ParsedConversation((message,), tuple(zip(parts, data, strict=True))), False)
    arms: Mapping[str, Any] = {}
    while not arms:
        try:
            next(preparation)
        except StopIteration as finished:
            arms = finished.value
    assert [more > least for more, least in zip(holders(), idle, strict=True)] == [
        False,
        True,
        True,
    ]  # sound is mel now
    while (packet := arms["vision"].advance()) is None or packet.span == 1:
        pass
    assert [more > least for more, least in zip(holders(), idle, strict=True)] == [False, False, True]


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


def test_rooms_without_bound_are_no_special_case(node, everything):
    hands = Hands(everything)
    node.open("r", Frontend.Params())
    hands.rooms = dict.fromkeys(hands.rooms, UNLIMITED)
    settle(node, hands)
    assert sorted(hands.ended) == ["audio", "layout", "vision"]
    node.close("r")
