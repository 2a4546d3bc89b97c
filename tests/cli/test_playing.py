"""A recording as packets with their times, and the player that writes them: in order, to the end of each, and let go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omni_graph.cli.playing import Played, Player
from omni_graph.cli.recordings import pictures_of, sound_of
from omni_graph.errors import OmniGraphError
from omni_graph.payload import AudioChunk, VideoFrame
from tests.nodes.media.files import Clip


def test_a_recording_is_heard_in_chunks_of_100_ms(question: Path) -> None:
    times, chunks = zip(*sound_of(question), strict=True)
    assert [round(time, 3) for time in times] == [0.1, 0.2, 0.3, 0.4, 0.5]
    samples = np.concatenate([chunk.samples.values for chunk in chunks])
    np.testing.assert_allclose(samples, soundfile.read(question, dtype="float32")[0].mean(axis=1), atol=1e-6)


def test_a_recording_is_seen_twice_a_second(clip: Path) -> None:
    assert [(time, frame.time) for time, frame in pictures_of(clip)] == [(0.0, 0.0), (0.5, 0.5)]


def test_times_count_from_the_files_start_and_late_sound_begins_with_silence(tmp_path: Path) -> None:
    late, stamped = tmp_path / "late.mkv", tmp_path / "stamped.ts"
    made = Clip("matroska", seconds=1.0, fps=8, audio="aac", audio_delay=0.5)
    late.write_bytes(made.encode())
    stamped.write_bytes(replace(made, container="mpegts", options=(("output_ts_offset", "1.4"),)).encode())
    for path in (late, stamped):
        assert [time for time, _ in pictures_of(path)] == pytest.approx([0.0, 0.5], abs=0.13)
        times, chunks = zip(*sound_of(path), strict=True)
        assert list(times[:5]) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5]) and times[-1] == pytest.approx(1.5, abs=0.06)
        loud = [float(np.abs(chunk.samples.values).max()) > 0.01 for chunk in chunks]
        assert not any(loud[:4]) and all(loud[5:10])


class Broken:
    """A handle that takes what is played."""

    seed = retries = 0

    def __init__(self) -> None:
        self.cancelled = False

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(())

    def cancel(self) -> None:
        self.cancelled = True

    def write(self, name: str, packet: object) -> None:
        raise OmniGraphError("q.wav: cannot be decoded to its end")

    def end(self, name: str) -> None:
        raise AssertionError("it never came to its end")


def test_a_file_that_breaks_off_ends_the_request_with_its_reason(question: Path) -> None:
    handle = Broken()
    player = Player([Played("sound", AudioChunk, question)], handle)
    with pytest.raises(OmniGraphError, match="cannot be decoded to its end"), player.playing():
        player._thread.join()
        raise OmniGraphError("cancelled: cancelled by the caller")
    assert handle.cancelled and player.timing()["first_text_after_s"] is None


class Taking(Broken):
    """Takes what is played, and tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def write(self, name: str, packet: object) -> None:
        self.said.append(name)

    def end(self, name: str) -> None:
        self.said.append(f"end of {name}")


def in_no_time(clock: Iterator[int]) -> Callable[[], float]:
    """A clock by which everything is due already."""
    return lambda: 1e6 * next(clock)


def play(files: list[Played], handle: Broken) -> None:
    player = Player(files, handle, in_no_time(count()))
    with player.playing():
        player._thread.join()


def test_an_input_ends_with_its_file_and_not_with_the_longest(question: Path, clip: Path) -> None:
    handle = Taking()
    play([Played("pictures", VideoFrame, clip), Played("sound", AudioChunk, question)], handle)
    ended = [*["sound"] * 4, "pictures", "end of pictures", "sound", "end of sound"]
    assert handle.said == ["pictures", *ended]


def test_nobody_need_read_what_it_says(question: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("typer.echo", broken)
    handle = Taking()
    play([Played("sound", AudioChunk, question)], handle)
    assert handle.said == ["sound"] * 5 + ["end of sound"]


def test_whatever_breaks_the_playing_off_cancels_and_is_told(question: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Taking()
    monkeypatch.setattr(handle, "write", lambda name, packet: int("no number"))
    player = Player([Played("sound", AudioChunk, question)], handle, in_no_time(count()))
    with pytest.raises(ValueError, match="no number"), player.playing():
        player._thread.join()
        assert handle.cancelled
        raise OmniGraphError("cancelled: cancelled by the caller")


def test_an_interrupt_lets_a_write_go_that_waits_for_the_graph(question: Path) -> None:
    writing, let_go = threading.Event(), threading.Event()

    class Deaf(Taking):
        def write(self, name: str, packet: object) -> None:
            writing.set()
            assert let_go.wait(20), "nobody cancelled"

        def cancel(self) -> None:
            super().cancel()
            let_go.set()

    handle = Deaf()
    player = Player([Played("sound", AudioChunk, question)], handle, in_no_time(count()))
    with pytest.raises(KeyboardInterrupt), player.playing():
        assert writing.wait(20)
        raise KeyboardInterrupt
    assert let_go.is_set()
