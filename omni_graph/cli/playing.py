"""``run --live-audio``: plays files in real time into the graph, as a microphone and a camera would, and tells the times.

A chunk of 100 ms of sound is written when its last sample has been said, a picture when it is shown, and an input ends with
its file. The answer's times count from the end of the last.
"""

from __future__ import annotations

import heapq
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from omni_graph.cli.recordings import pictures_of, sound_of
from omni_graph.cli.sources import Running
from omni_graph.errors import OmniGraphError
from omni_graph.payload import AudioChunk, TextDelta


@dataclass(frozen=True, slots=True)
class Played:
    """A file of which the sound (``kind`` AudioChunk) or the pictures (VideoFrame) are played into the input ``name``."""

    name: str
    kind: type
    path: Path

    def packets(self) -> Iterator[tuple[float, Any]]:
        """(seconds from the start, packet), in order. Raises OmniGraphError where it cannot be decoded."""
        return sound_of(self.path) if self.kind is AudioChunk else pictures_of(self.path)


class Player:
    """Plays ``files`` into ``handle`` from a thread of its own, and hears when the answer begins."""

    def __init__(self, files: Sequence[Played], handle: Running, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._handle = handle
        self._clock = clock
        self._stopped = threading.Event()
        self._failure: Exception | None = None
        self._speech_s = 0.0
        self._ended_at: float | None = None
        self._first: dict[type, float] = {}
        self._thread = threading.Thread(target=self._run, name="player", daemon=True)

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Plays until the files or the block end; a write that waits then is let go. Raises what broke the playing off."""
        self._thread.start()
        try:
            yield
        except OmniGraphError as error:
            raise self._failure or error from None
        finally:
            self._stopped.set()
            self._handle.cancel()
            self._thread.join()

    def heard(self, packet: Any) -> None:
        """A packet of the answer has come."""
        self._first.setdefault(type(packet), self._clock())

    def timing(self) -> Mapping[str, float | None]:
        """In seconds: how long was spoken, and how long after its end the first text and the first sound came."""
        return {
            "speech_s": round(self._speech_s, 6),
            "first_text_after_s": self._after(TextDelta),
            "first_audio_after_s": self._after(AudioChunk),
        }

    def summary(self) -> str:
        """The same as a line."""
        said = [f"{self._speech_s:.1f} s of live input"]
        for name, kind in (("first text", TextDelta), ("first audio", AudioChunk)):
            if (after := self._after(kind)) is not None:
                said.append(f"{name} {after * 1000:.0f} ms after its end")
        return ", ".join(said)

    def _after(self, kind: type) -> float | None:
        if kind not in self._first or self._ended_at is None:
            return None
        return round(self._first[kind] - self._ended_at, 6)

    # ---- in the thread

    def _run(self) -> None:
        try:
            self._play()
        except Exception as error:
            self._failure = error
            self._handle.cancel()

    def _play(self) -> None:
        began = self._clock()
        for due, number, packet in _by_time(self._files):
            if self._stopped.wait(max(0.0, began + due - self._clock())):
                return
            name = self._files[number].name
            if packet is None:
                self._ended_at = self._clock()
                self._handle.end(name)
                continue
            self._handle.write(name, packet)
            _say_listening(self._speech_s, due)
            self._speech_s = due
        _say_listened(self._speech_s)


def _by_time(files: Sequence[Played]) -> Iterator[tuple[float, int, Any]]:
    """(seconds, number of the file, packet) of all files, in the order of time; after a file's last packet None."""

    def numbered(number: int) -> Iterator[tuple[float, int, Any]]:
        due = 0.0
        for due, packet in files[number].packets():
            yield due, number, packet
        yield due, number, None

    return heapq.merge(*map(numbered, range(len(files))), key=lambda one: one[:2])


def _say_listening(before: float, seconds: float) -> None:
    """In place on a terminal; elsewhere a line a second."""
    if sys.stderr.isatty():
        _say(f"\rlistening {seconds:.1f} s", nl=False)
    elif int(seconds) > int(before):
        _say(f"listening {seconds:.1f} s")


def _say_listened(seconds: float) -> None:
    _say(("\r" if sys.stderr.isatty() else "") + f"listened {seconds:.1f} s")


def _say(words: str, *, nl: bool = True) -> None:
    try:
        typer.echo(words, nl=nl, err=True)
    except OSError:  # nobody reads stderr
        pass
