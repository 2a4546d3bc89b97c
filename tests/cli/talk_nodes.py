"""A node for the tests of commands: text in; words and sound out, as many as the request asks for."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omni_graph.errors import Code, RequestError
from omni_graph.node import In, Inbox, Out, Outbox
from omni_graph.payload import Array, AudioChunk, TextDelta

RATE = 8_000


class Talk:
    """Says each word together with its sound, when both have room. ``loading``: a file to make, then never to be ready."""

    text = In(TextDelta)
    said = Out(TextDelta)
    sound = Out(AudioChunk)

    @dataclass(frozen=True, slots=True)
    class Params:
        """``words`` of ``letters`` letters with ``samples`` samples each; ``fail_at`` is the word to fail at."""

        words: int = 3
        letters: int = 4
        samples: int = 800
        fail_at: int = -1
        temperature: float = 1.0
        seed: int = 0

    def __init__(self, loading: str = "") -> None:
        if loading:
            Path(loading).touch()
            threading.Event().wait()
        self._params: dict[str, Talk.Params] = {}
        self._said: dict[str, int] = {}

    def open(self, request: str, params: Params) -> None:
        self._params[request], self._said[request] = params, 0

    def close(self, request: str) -> None:
        self._params.pop(request, None)
        self._said.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for request in inbox.ready(self.text):
            inbox.take(self.text, request)
        return any([self._say(request, outbox) for request in list(self._said)])

    def _say(self, request: str, outbox: Outbox) -> bool:
        params, number = self._params[request], self._said[request]
        if number == params.words:
            del self._said[request]
            outbox.end(request)
            return False
        if any(outbox.routed(port, request) and not outbox.room(port, request) for port in (self.said, self.sound)):
            return False
        if number == params.fail_at:
            raise RequestError(request, Code.NODE_FAILED, "told to fail")
        last = number + 1 == params.words
        word = f"{number:0{params.letters}d}" + ("" if last else " ")
        outbox.send(self.said, request, TextDelta(word, (number,), "stop" if last else "", (("completion.text", 1),)))
        tone = np.full(params.samples, params.temperature / 4, np.float32)
        outbox.send(self.sound, request, AudioChunk(Array.of(tone), RATE))
        self._said[request] += 1
        return True
