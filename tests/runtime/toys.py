"""Nodes that do on command what real ones do by accident: fail, die, hang, flood, and say what they hold."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from omni_graph import In, Inbox, Out, Outbox
from omni_graph.payload import Array, Blob, TextDelta


class Echo:
    """Sends on what it takes, in capitals. ``boom`` raises, ``die`` ends the process, ``hang`` never returns from a step,
    ``open?`` is answered with the number of open requests, ``pid?`` with the process,
    ``nice?`` with the priority that it computes at."""

    text = In(TextDelta)
    out = Out(TextDelta)

    @dataclass(frozen=True)
    class Params:
        suffix: str = ""
        seed: int = 0

    def __init__(self, fail_to_start: bool = False) -> None:
        if fail_to_start:
            raise RuntimeError("told not to start")
        self.requests: dict[str, Echo.Params] = {}

    def open(self, request: str, params: Params) -> None:
        self.requests[request] = params

    def close(self, request: str) -> None:
        self.requests.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        did = False
        for request in inbox.ready(self.text):
            if outbox.room(self.out, request) > 0:
                packet = inbox.take(self.text, request)
                outbox.send(self.out, request, TextDelta(self._answer(request, packet.text)))
                did = True
        for request in inbox.drained(self.text):
            outbox.end(request)
        return did

    def _answer(self, request: str, text: str) -> str:
        if text == "boom":
            raise ValueError("boom was said")
        if text == "die":
            os._exit(9)
        if text == "hang":
            threading.Event().wait(600)
        answers = {
            "open?": str(len(self.requests)),
            "pid?": str(os.getpid()),
            "nice?": str(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())),
            "seed?": str(self.requests[request].seed),
        }
        return answers.get(text, text.upper()) + self.requests[request].suffix


class Counting(Echo):
    """Counts the packets it answered."""

    def __init__(self) -> None:
        super().__init__()
        self._answers = 0

    def counters(self) -> dict[str, int]:
        return {"answers": self._answers}

    def _answer(self, request: str, text: str) -> str:
        self._answers += 1
        return super()._answer(request, text)


class Tagged(Echo):
    """Answers ``who?`` with its tag and which instance it is; where the file ``refuse_if`` is, it cannot start."""

    def __init__(self, tag: str = "", refuse_if: str = "") -> None:
        if refuse_if and Path(refuse_if).exists():
            raise RuntimeError("there is no room for me")
        super().__init__()
        self._name = f"{tag}:{os.getpid()}:{id(self)}"

    def _answer(self, request: str, text: str) -> str:
        return self._name if text == "who?" else super()._answer(request, text)


class Weighted(Echo):
    """Answers ``who?`` with what its file of weights held when it was loaded."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        self._weights = Path(weights).read_text()

    def _answer(self, request: str, text: str) -> str:
        return self._weights if text == "who?" else super()._answer(request, text)


class Flood:
    """For every packet, ``count`` blobs of ``size`` bytes: more than any buffer holds."""

    text = In(TextDelta)
    blobs = Out(Blob)

    def __init__(self, count: int = 400, size: int = 65536) -> None:
        self._count, self._data = count, bytes(size)
        self.sent: dict[str, int] = {}

    def open(self, request: str, params: object) -> None:
        self.sent[request] = 0

    def close(self, request: str) -> None:
        self.sent.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        more = False
        for request in list(self.sent):
            if self.sent[request] < self._count and outbox.room(self.blobs, request) > 0:
                outbox.send(self.blobs, request, Blob(self._data))
                self.sent[request] += 1
                more = True
        for request in inbox.drained(self.text):
            if self.sent.get(request) == self._count:
                outbox.end(request)
        for request in inbox.ready(self.text):
            inbox.take(self.text, request)
        return more


class Join:
    """Reads one packet of each input in turn and joins their texts: a fork-join with Echo on both arms."""

    left = In(TextDelta)
    right = In(TextDelta, optional=True)
    out = Out(TextDelta)

    def open(self, request: str, params: object) -> None:
        pass

    def close(self, request: str) -> None:
        pass

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        rights = set(inbox.ready(self.right))
        alone = set(inbox.drained(self.right))
        for request in inbox.ready(self.left):
            if outbox.room(self.out, request) > 0 and request in rights | alone:
                text = inbox.take(self.left, request).text
                if request in rights:
                    text += inbox.take(self.right, request).text
                outbox.send(self.out, request, TextDelta(text))
        for request in inbox.drained(self.left):
            outbox.end(request)
        return bool(set(inbox.ready(self.left)) & set(inbox.ready(self.right)))


@dataclass(frozen=True)
class Numbers:
    """A payload of our own: float32 (n,)."""

    values: Array


class Double:
    """Arrays through a worker: twice the values."""

    values = In(Numbers)
    out = Out(Numbers)

    def open(self, request: str, params: object) -> None:
        pass

    def close(self, request: str) -> None:
        pass

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        did = False
        for request in inbox.ready(self.values):
            if outbox.room(self.out, request) > 0:
                outbox.send(self.out, request, Numbers(Array.of(inbox.take(self.values, request).values.values * 2)))
                did = True
        for request in inbox.drained(self.values):
            outbox.end(request)
        return did
