"""The frontend's manners: the same packets at any window, three arms of which none waits for another, and nothing kept.

And one clear line for each bad input, which fails that request alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from omni_graph.conversation import conversation_packets
from omni_graph.errors import Code, RequestError
from omni_graph.node import UNLIMITED, In, Out
from omni_graph.payload import Conversation
from omni_graph.spec import Limits
from omni_graph.testing import NodeRun, run_node
from omni_nodes.media.limits import MediaLimits
from omni_nodes.payloads import Patches
from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
from omni_nodes.qwen2_5_omni.conversation import ConversationLimits, MediaPart, Message, ParsedConversation
from omni_nodes.qwen2_5_omni.frontend import Frontend
from omni_nodes.qwen2_5_omni.intake import MediaIntake
from omni_nodes.qwen2_5_omni.preparation import Preparer
from tests.nodes.qwen2_5_omni.conversations import (
    BLOCKWISE,
    RNG,
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

Outputs = dict[str, list[Any]]


@pytest.fixture(scope="module")
def node(tiny_folder) -> Frontend:
    return Frontend(str(tiny_folder))


@pytest.fixture(scope="module")
def everything() -> list[Conversation]:
    media = [image(pixels(200, 300)), audio(sound(7.0)), video(BLOCKWISE, audio=True), image(png(pixels(33, 44)))]
    return list(conversation_packets([user("look", *media, "and", audio(flac(sound(2.2))), video(pixels(3, 40, 40)))]))


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
    "a role": ([{"role": "robot", "content": "a"}], r"messages\[0\].role"),
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
        ([Conversation("[]")], "at least one message"),
        (
            [
                Conversation(json.dumps([user({"type": "audio", "media": 0, "format": "file", "name": "a.wav"})])),
                Conversation(media=0),
            ],
            r"a.wav: is empty",
        ),
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


def test_limits_are_those_of_the_deploy_file(tiny_folder):
    limits = Limits(images=1, audio_seconds=1.0, messages=2, video_frames=2, image_bytes=3000)
    node = Frontend(str(tiny_folder), limits=limits.model_dump())
    for messages, message in (
        ([user(image(pixels(30, 30)), image(pixels(30, 30)))], "2 images, at most 1"),
        ([user(audio(sound(1.5)))], "lasts more than 1 s"),
        ([user("a")] * 3, "3 of them, at most 2"),
        ([user(video(pixels(4, 30, 30)))], "has 4 frames; 1 to 2"),
        ([user(image(pixels(40, 30)))], "more than 3000 bytes"),
    ):
        with pytest.raises(RequestError, match=message):
            run_node(node, {"r": {"conversation": conversation_packets(messages)}})


def test_the_nodes_limits_are_by_default_those_of_the_table():
    table = Limits().model_dump()
    assert ConversationLimits.of(table) == ConversationLimits()
    names = {"messages", "parts", *(one.name for one in dataclasses.fields(MediaLimits))}
    assert names < set(table)


def test_pictures_end_with_last_and_their_rows_are_the_grids(node, everything):
    rows = 0
    for packet in run_node(node, {"r": {"conversation": everything}})["r"]["vision"]:
        assert isinstance(packet, Patches)
        rows += len(packet.pixels)
        assert packet.last == (rows == packet.grid[1] * packet.grid[2])
        rows = 0 if packet.last else rows
    assert rows == 0


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
            arms = finished.value.arms
    assert [more > least for more, least in zip(holders(), idle, strict=True)] == [
        False,
        True,
        True,
    ]  # sound is mel now
    while (packet := arms["vision"].advance()) is None or packet.span == 1:
        pass
    assert [more > least for more, least in zip(holders(), idle, strict=True)] == [False, False, True]


def test_rooms_without_bound_are_no_special_case(node, everything):
    hands = Hands(everything)
    node.open("r", Frontend.Params())
    hands.rooms = dict.fromkeys(hands.rooms, UNLIMITED)
    settle(node, hands)
    assert sorted(hands.ended) == ["audio", "layout", "vision"]
    node.close("r")
