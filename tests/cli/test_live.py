"""``run --live-audio``: what is played arrives in time and whole, here and over ``--url``; the rest is refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

import omni_graph as og
from omni_graph.payload import Array, AudioChunk, VideoFrame
from tests.cli.background import Background
from tests.cli.command import command

LISTEN = str(Path(__file__).parent / "listen.yaml")
HEARD = "5 chunks, 11025 samples at 22050"


def test_what_is_played_arrives_whole(capsys: pytest.CaptureFixture[str], question: Path) -> None:
    ran = command(capsys, "run", LISTEN, "--live-audio", "q.wav")
    assert (ran.code, ran.out) == (0, HEARD + "\n")
    assert "listened 0.5 s\n" in ran.err
    assert "0.5 s of live input, first text" in ran.err and "after its end" in ran.err


def test_the_times_count_from_the_end_of_speech(capsys: pytest.CaptureFixture[str], question: Path) -> None:
    result = json.loads(command(capsys, "run", LISTEN, "--live-audio", "q.wav", "--json").out)
    live, timing = result["timing"]["live"], result["timing"]
    assert set(live) == {"speech_s", "first_text_after_s", "first_audio_after_s"}
    assert (live["speech_s"], live["first_audio_after_s"]) == (0.5, None)
    assert 0 < live["first_text_after_s"] < timing["total_s"]
    assert timing["total_s"] > live["speech_s"]


def test_qwen_is_asked_aloud(capsys: pytest.CaptureFixture[str], question: Path) -> None:
    asked = ("--text", "Answer.", "--live-audio", "q.wav", "--outputs", "text", "--max-tokens", "4", "--json")
    result = json.loads(command(capsys, "run", "qwen2_5_omni", *asked).out)
    assert result["usage"]["prompt_tokens"]["audio"] == 12  # of 50 mel frames
    assert len(result["token_ids"]) == 4 and result["timing"]["live"]["speech_s"] == 0.5


def test_a_video_is_shown_and_with_audio_in_video_heard(capsys: pytest.CaptureFixture[str], clip: Path) -> None:
    ran = command(capsys, "run", LISTEN, "--live-video", "v.mp4", "--audio-in-video")
    assert ran.code == 0 and "2 pictures" in ran.out and "chunks" in ran.out


def test_the_same_over_a_control_server(
    capsys: pytest.CaptureFixture[str], question: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Background(tmp_path, "up", LISTEN, "--launcher", "threads") as held:
        assert held.process.stdout is not None
        url = held.process.stdout.readline().decode().strip()
        ran = command(capsys, "run", "--live-audio", "q.wav", "--url", url)
        assert (ran.code, ran.out) == (0, HEARD + "\n")
        held.signal(signal.SIGINT)
        assert held.end() == 0


def test_ctrl_c_ends_it_while_it_listens(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(8_000 * 600, np.float32), 8_000)
    with Background(tmp_path, "run", LISTEN, "--live-audio", "long.wav") as running:
        running.until(lambda: "listening 1.0 s" in running.err)
        running.signal(signal.SIGINT)
        assert running.end() == 130
        assert "interrupted" in running.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--live-audio", "none.wav"], 1, "none.wav: cannot be read as a recording: No such file"),
        (["--live-audio", "text.wav"], 1, "text.wav: cannot be read as a recording"),
        (["--live-video", "q.wav"], 1, "q.wav: has no video track to play"),
        (
            ["--live-audio", "q.wav", "--live-video", "v.mp4", "--audio-in-video"],
            2,
            "the sound is that of --live-video",
        ),
        (["--live-audio", "q.wav", "--text", "a"], 2, "takes no conversation"),
        (
            ["--live-audio", "q.wav", "--input", "sound=x"],
            1,
            "input 'sound' is given whole and is to be written live too",
        ),
    ],
)
def test_what_cannot_be_played_is_refused_before_a_stage_starts(
    capsys: pytest.CaptureFixture[str], question: Path, clip: Path, arguments: list[str], code: int, message: str
) -> None:
    Path("text.wav").write_text("no sound at all")
    ran = command(capsys, "run", LISTEN, *arguments)
    assert ran.code == code and message in " ".join(ran.err.replace("│", " ").split())
    assert "ready in" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--live-audio", "q.wav"], 1, "must be a list of messages"),
        (["--text", "Hi."], 2, "conversation is given already by the flags that say something"),
    ],
)
def test_a_conversation_that_is_given_is_not_replaced(
    capsys: pytest.CaptureFixture[str], question: Path, arguments: list[str], code: int, message: str
) -> None:
    ran = command(capsys, "run", "qwen2_5_omni", "--input", "conversation=Hello", *arguments)
    assert ran.code == code and message in " ".join(ran.err.replace("│", " ").split())
    assert "ready in" not in ran.err


def test_a_graph_without_such_an_input_says_so(capsys: pytest.CaptureFixture[str], question: Path) -> None:
    ran = command(capsys, "run", str(Path(LISTEN).with_name("talk.yaml")), "--live-audio", "q.wav")
    assert ran.code == 2 and "no input of type AudioChunk" in " ".join(ran.err.replace("│", " ").split())


def test_an_optional_input_that_was_not_begun_ends_when_its_caller_reads(question: Path) -> None:
    chunk = AudioChunk(Array.of(np.zeros(80, np.float32)), 8_000)
    with og.launch(og.load_graph(LISTEN)) as app:
        handle = app.open()
        handle.write("sound", chunk)
        handle.end("sound")
        assert [event.packet.text for event in handle] == ["1 chunks, 80 samples at 8000"]
        with pytest.raises(og.RequestError, match="no input 'pictures' to write to; still open: none"):
            handle.write("pictures", chunk)
        named = app.open(inputs=["sound"])
        with pytest.raises(og.RequestError, match="no input 'pictures' to write to; still open: sound"):
            named.write("pictures", chunk)
        named.cancel()
        with pytest.raises(og.RequestError, match="needs the input 'sound'"):
            app.open(inputs=["pictures"])
        both = app.open(inputs=["sound", "pictures"])
        with pytest.raises(TimeoutError):
            both.next(timeout=0.0)  # to read ends nothing that was named
        both.write("pictures", VideoFrame(Array.of(np.zeros((2, 2, 3), np.uint8)), 0.0))
        both.end("pictures")
        both.end("sound")
        assert [event.packet.text for event in both] == ["1 pictures"]
