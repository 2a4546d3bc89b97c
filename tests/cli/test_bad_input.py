"""Bad input to ``run``: one line that says what, where and what is allowed; exit code 1; nothing left behind.

What can be judged without a stage is refused before one is started, and without reading the file.
"""

from __future__ import annotations

import getpass
import json
import struct
import tempfile
import wave
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Ran, command
from tests.nodes.media.files import Clip

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder; when the test ends it holds the files of bad input alone, and the temporary folder nothing."""
    tmp, folder = tmp_path / "tmp", tmp_path / "here"
    tmp.mkdir()
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.glob("*.out.*"))
    assert [
        one.name for one in tmp.iterdir() if one.name != f"torchinductor_{getpass.getuser()}"
    ] == []  # torch's own cache


def ask(capsys: pytest.CaptureFixture[str], tiny: Path, *arguments: str) -> Ran:
    files = ("--speech", "speech.out.wav", "--trace", "trace.out.jsonl")
    ran = command(capsys, "run", "qwen2_5_omni", "--set", f"checkpoint={tiny}", *files, "--max-tokens", "2", *arguments)
    assert (ran.code, ran.out) == (1, "")
    return ran


def refused(ran: Ran) -> str:
    """The one line of a request that was refused before any stage started."""
    assert ran.err.count("\n") == 1 and ran.err.startswith("omni-graph: ")
    return ran.err.removeprefix("omni-graph: ").rstrip()


def failed(ran: Ran) -> str:
    """The one line of a request that a stage refused."""
    *progress, line = ran.err.splitlines()
    assert all(one.endswith("ready") or "stages ready in" in one for one in progress)
    return line.removeprefix("omni-graph: ")


def conversation(*parts: Any) -> str:
    Path("messages.json").write_text(json.dumps([{"role": "user", "content": list(parts)}]))
    return "messages.json"


# ---- before a stage is started


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    for option in ("--image", "--audio", "--video"):
        line = refused(ask(capsys, tiny, option, "no.file"))
        assert line == "invalid_input: no.file: cannot be read: No such file or directory"
    assert refused(ask(capsys, tiny, "--messages", "no.json")) == "no.json: cannot be read: No such file or directory"


def test_what_is_no_file(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    assert refused(ask(capsys, tiny, "--audio", "/dev/zero")).endswith(
        "/dev/zero: is no regular file; a file is needed"
    )
    assert refused(ask(capsys, tiny, "--image", ".")).endswith(".: is a folder; a file is needed")
    assert "cannot be read" in refused(ask(capsys, tiny, "--image", "a\0b"))


def test_an_empty_file(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    Path("empty.wav").touch()
    assert refused(ask(capsys, tiny, "--audio", "empty.wav")) == "invalid_input: empty.wav: is empty (0 bytes)"


def test_a_file_far_too_large_is_not_read(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    with Path("long.mp4").open("wb") as file:
        file.truncate(3 << 30)
    assert refused(ask(capsys, tiny, "--video", "long.mp4")) == (
        "invalid_input: long.mp4: has 3221225472 bytes; at most 512000000 are allowed for video (limits.video_bytes)"
    )


def test_the_deploy_file_sets_the_limits(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    Path("sound.wav").write_bytes(bytes(2000))
    Path("deploy.yaml").write_text("api_version: omni_graph/v1\nlimits: {audio_bytes: 1KB, messages: 1, images: 1}\n")
    deploy = ("--deploy", "deploy.yaml")
    line = refused(ask(capsys, tiny, "--audio", "sound.wav", *deploy))
    assert line.endswith("sound.wav: has 2000 bytes; at most 1000 are allowed for audio (limits.audio_bytes)")
    line = refused(ask(capsys, tiny, "--text", "a", "--system", "b", *deploy))
    assert line.endswith("conversation: 2 messages; at most 1 are allowed (limits.messages)")
    line = refused(ask(capsys, tiny, "--image", "sound.wav", "--image", "sound.wav", *deploy))
    assert line.endswith("conversation: 2 images; at most 1 are allowed (limits.images)")


def test_an_empty_conversation(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    line = (
        "invalid_input: the conversation is empty; say something with --text, --image, --audio, --video or --messages"
    )
    assert refused(ask(capsys, tiny)) == line
    Path("none.json").write_text("[]")
    for said in (["--text", ""], ["--messages", "none.json"], ["--messages", conversation()]):
        line = refused(ask(capsys, tiny, *said))
        assert line == "invalid_input: conversation: is empty; at least one message with text or a medium is needed"


def test_messages_that_are_none(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    for text, message in (
        ('{"role": "user"}', "must hold a list of messages {'role', 'content'}"),
        ("[1]", "must hold a list of messages"),
        ("nonsense", "not JSON: "),
        ("[" * 100_000, "not JSON: "),
    ):
        Path("messages.json").write_text(text)
        assert refused(ask(capsys, tiny, "--messages", "messages.json")).startswith(f"messages.json: {message}")
    part = conversation({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})
    line = refused(ask(capsys, tiny, "--messages", part))
    assert line.endswith("messages[0].content[0]: image_url must hold a data: URL; other URLs are not fetched")


def test_text_that_no_model_reads(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    long = conversation({"type": "text", "text": "word " * 400_000})
    assert refused(ask(capsys, tiny, "--messages", long)).endswith("bytes of text; at most 1044480 are allowed")
    assert "not Unicode" in refused(ask(capsys, tiny, "--text", "\udcff"))


# ---- by a stage


def png(width: int, height: int) -> bytes:
    """A black picture of one bit a pixel."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height)
    chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    return PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_a_truncated_video(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    whole = Clip().encode()
    Path("half.mp4").write_bytes(whole[: len(whole) // 2])
    line = failed(ask(capsys, tiny, "--outputs", "text", "--video", "half.mp4"))
    assert line.startswith(
        f"invalid_input: frontend: half.mp4: is truncated: it has {len(whole) // 2} bytes and states"
    )


def test_a_picture_of_20000_by_20000(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    Path("big.png").write_bytes(png(20_000, 20_000))
    line = failed(ask(capsys, tiny, "--outputs", "text", "--image", "big.png"))
    assert line == "invalid_input: frontend: big.png: has far more pixels than the 16800000 that are allowed"


def test_hours_of_sound(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    with wave.open("hours.wav", "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * 8000 * 7200)
    line = failed(ask(capsys, tiny, "--outputs", "text", "--audio", "hours.wav"))
    assert line == ("invalid_input: frontend: hours.wav: lasts more than 3600 s; at most 3600 s are allowed for audio")


def test_a_prompt_past_the_context(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    long = conversation({"type": "text", "text": "word " * 40_000})
    line = failed(ask(capsys, tiny, "--outputs", "text", "--messages", long))
    assert line.startswith("invalid_input: frontend: 800") and line.endswith(
        "tokens of text; the model's context is 32768"
    )


def test_an_unknown_voice(capsys: pytest.CaptureFixture[str], tiny: Path, here: Path) -> None:
    line = failed(ask(capsys, tiny, "--text", "hi", "--param", "talker.voice=Nobody"))
    assert line == "invalid_input: talker: voice is 'Nobody'; allowed: Chelsie, Ethan"
