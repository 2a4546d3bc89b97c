"""A conversation's files are judged at once and read late, a piece at a time, as often as they are asked for."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_graph.conversation import PIECE, ConversationPackets, conversation_packets
from omni_graph.errors import RequestError
from omni_graph.payload import max_packet_bytes, packet_bytes
from omni_graph.spec import Limits


def say(*parts: Any, limits: Limits | None = None, folder: Path | None = None) -> ConversationPackets:
    return conversation_packets([{"role": "user", "content": list(parts)}], folder, limits)


def media_of(packets: ConversationPackets) -> list[bytes]:
    """The bytes of each medium, with what must hold of every packet on the way."""
    first, *rest = packets
    assert first.media == -1
    found: list[bytes] = []
    open_ = False
    for packet in rest:
        assert packet_bytes(packet) <= max_packet_bytes(type(packet))
        assert packet.media == len(found) - open_
        found = [*found[:-1], found[-1] + packet.data] if open_ else [*found, packet.data]
        open_ = not packet.last
    assert not open_
    return found


@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 7])
def test_a_file_and_the_same_bytes_give_the_same_packets(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "a.wav").write_bytes(data)
    file = say({"type": "audio", "audio": "a.wav"}, folder=tmp_path)
    given = say({"type": "audio", "audio": data})
    assert media_of(file) == media_of(given) == [data]
    assert media_of(file) == [data]  # again, from its beginning
    (part,) = json.loads(file.messages)[0]["content"]
    assert part == {"type": "audio", "media": 0, "format": "file", "name": "a.wav"}


def test_every_form_of_a_medium(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"file")
    encoded = base64.b64encode(b"inline").decode()
    sound = np.arange(4, dtype=np.float32)
    packets = say(
        {"type": "image", "image": tmp_path / "f"},
        {"type": "text", "text": "and"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
        {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}},
        {"type": "audio", "audio": sound, "sample_rate": 8000},
        {"type": "video", "video": bytearray(b"frames"), "audio": True},
    )
    assert media_of(packets) == [b"file", b"inline", b"inline", sound.tobytes(), b"frames"]
    parts = [part for part in json.loads(packets.messages)[0]["content"] if part["type"] != "text"]
    assert [(part["type"], part["media"]) for part in parts] == [
        ("image", 0), ("image", 1), ("audio", 2), ("audio", 3), ("video", 4)
    ]  # fmt: skip
    assert parts[3] == {
        "type": "audio", "media": 3, "format": "float32", "shape": [4], "name": "messages[0].content[4]",
        "sample_rate": 8000,
    }  # fmt: skip


def test_a_file_is_opened_when_its_turn_comes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "b").write_bytes(bytes(2 * PIECE))
    packets = iter(say({"type": "image", "image": "a"}, {"type": "video", "video": "b"}, folder=tmp_path))
    assert [next(packets).media for _ in range(3)] == [-1, 0, 1]
    (tmp_path / "b").open("r+b").truncate(PIECE + 5)
    with pytest.raises(RequestError, match=rf"b: became shorter than its {2 * PIECE} bytes while it was read"):
        list(packets)
    packets = iter(say({"type": "image", "image": "a"}, folder=tmp_path))
    (tmp_path / "a").unlink()
    with pytest.raises(RequestError, match="a: cannot be read: No such file or directory"):
        list(packets)


def test_limits_are_looked_at_before_a_byte_is_read(tmp_path: Path) -> None:
    limits = Limits(image_bytes=3, audio_bytes=16, video_bytes=5, parts=2, images=1)
    (tmp_path / "six").write_bytes(b"123456")
    sparse = tmp_path / "sparse"
    sparse.touch()
    with sparse.open("r+b") as file:
        file.truncate(1 << 40)
    encoded = base64.b64encode(b"123456").decode()
    for part, message in (
        (
            {"type": "image", "image": b"1234"},
            r"messages\[0\].content\[0\]: has 4 bytes; at most 3 .*limits.image_bytes",
        ),
        ({"type": "video", "video": tmp_path / "six"}, "six: has 6 bytes; at most 5 are allowed for video"),
        ({"type": "audio", "audio": sparse}, "sparse: has 1099511627776 bytes"),
        ({"type": "audio", "audio": np.zeros(5, np.float32)}, "has 20 bytes; at most 16 are allowed for audio"),
        (
            {"type": "image_url", "image_url": f"data:image/png;base64,{encoded}"},
            "bytes; at most 3 are allowed for image",
        ),
    ):
        with pytest.raises(RequestError, match=message):
            say(part, limits=limits)
    with pytest.raises(RequestError, match="3 parts; at most 2"):
        say(*[{"type": "text", "text": "a"}] * 3, limits=limits)
    with pytest.raises(RequestError, match="2 images; at most 1"):
        say(*[{"type": "image", "image": b"1"}] * 2, limits=limits)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "must be a list of messages"),
        ({"role": "user"}, "must be a list of messages"),
        ([], "is empty"),
        ([{"role": "user", "content": ""}], "is empty"),
        ([{"role": "user", "content": [{"type": "text", "text": ""}]}], "is empty"),
        ([{"role": "user", "content": object()}], "is not JSON but for its media: .*object"),
        ([{"role": "user", "content": "\ud800"}], "not Unicode"),
        ([{"role": "user", "content": [{"type": "image"}]}], r"content\[0\]: a part of type 'image' needs the field"),
        ([{"role": "user", "content": [{"type": "image", "image": 3}]}], r"content\[0\]: a medium is a path, bytes"),
        ([{"role": "user", "content": [{"type": "audio", "audio": b""}]}], r"content\[0\]: is empty \(0 bytes\)"),
        ([{"role": "user", "content": [{"type": "video", "video": b"1", "audio": "yes"}]}], "true or false"),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "%"}}]}], "not base64"),
    ],
)
def test_what_is_no_conversation_is_one_line(messages: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        conversation_packets(messages)
    assert error.value.code == "invalid_input" and "\n" not in str(error.value)
