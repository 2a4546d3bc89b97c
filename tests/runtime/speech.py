"""A toy that speaks: an encoder without state, a generator that draws and remembers, a vocoder that streams; and its oracle.

Tokens are drawn from the system's randomness, as a batch's float noise would draw them: an answer that was interrupted is
whole only where the draws of before are forced. Each node gets into the trouble that its ``Params`` ask for, once for
every file in the folder ``arms``, just before it takes a packet (``queued``) or between taking and sending (``computing``).
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import resource
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from omni_graph import In, Inbox, Out, Outbox
from omni_graph.errors import Code, RequestError
from omni_graph.payload import Array, AudioChunk, TextDelta

TOKENS_A_WORD = 3
VOCABULARY = 97
CHUNK = 8
RATE = 8000
SPARE_BYTES = 256 << 20
SWOLLEN_BYTES = 1 << 30


@dataclass(frozen=True)
class Embedding:
    """``values`` float32 (4,) of one word; ``score`` is finite."""

    values: Array
    score: float = 0.0


@dataclass(frozen=True)
class Spoken:
    """One token with what the generator knew when it drew it: ``values`` float32 (2,)."""

    values: Array


# ---- the mathematics, which the oracle shares


def embed(word: str) -> np.ndarray:
    """float32 (4,)."""
    return np.array([len(word), sum(map(ord, word)), ord(word[0]), ord(word[-1])], np.float32)


@dataclass
class Kv:
    """The generator's memory: the sum of all it has read and said, so nothing may be left out or come twice."""

    total: float = 0.0

    def read(self, embedding: np.ndarray) -> None:
        self.total = (self.total * 3 + float(embedding.sum())) % 1009

    def say(self, token: int) -> np.ndarray:
        """float32 (2,), the packet that goes with ``token``."""
        self.total = (self.total * 7 + token) % 1009
        return np.array([token, self.total], np.float32)


@dataclass
class Voice:
    """The vocoder's memory: a phase."""

    phase: float = 0.0

    def speak(self, spoken: np.ndarray) -> np.ndarray:
        """float32 (CHUNK,)."""
        self.phase = (self.phase + float(spoken[0]) * 0.01 + float(spoken[1]) * 0.001) % 6.0
        return np.cos(self.phase + np.arange(CHUNK) * 0.1).astype(np.float32)

    def tail(self) -> np.ndarray:
        """float32 (CHUNK / 2,), after the last token."""
        return np.sin(self.phase + np.arange(CHUNK // 2) * 0.1).astype(np.float32)


def speech_of(words: Sequence[str], tokens: Sequence[int]) -> np.ndarray:
    """The one sound, float32 (samples,), that goes with these words and the tokens that were drawn for them."""
    kv, voice, chunks = Kv(), Voice(), []
    draws = iter(tokens)
    for word in words:
        kv.read(embed(word))
        chunks += [voice.speak(kv.say(next(draws))) for _ in range(TOKENS_A_WORD)]
    return np.concatenate([*chunks, voice.tail()])


# ---- trouble


@dataclass(frozen=True)
class Trouble:
    """What a request asks a node to suffer."""

    fault: str = ""
    moment: str = "computing"
    arms: str = ""

    def strikes(self, moment: str) -> str:
        """The fault, where it is due now and another arm lies ready; else empty."""
        if self.fault and self.moment == moment:
            for arm in self._arms():
                arm.unlink()
                return self.fault
        return ""

    def _arms(self) -> list[Path]:
        """Those that lie ready, as far as this process can still look."""
        try:
            return list(Path(self.arms).iterdir())
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            return []


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(9)


def freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def spin() -> None:
    while True:
        pass


def lock_up() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def hold_the_interpreter() -> None:
    """A call into C that never gives the interpreter lock back: no thread of the process runs again."""
    ctypes.PyDLL(None).sleep(600)


def fail() -> None:
    raise ValueError("told to fail")


def add_unequal_shapes() -> None:
    np.ones(3) + np.ones(4)


def lose_number() -> None:
    raise RequestError("", Code.NUMERIC, "the logits are not finite numbers")


def shut_connections(mine: bool, theirs: bool) -> None:
    """As a wire that is cut: connections that we opened, or that others opened to us; the pipe to the parent stays."""
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as found:
                accepted, opened = (str(end).endswith(".sock") for end in (found.getsockname(), found.getpeername()))
                if (opened and mine) or (accepted and theirs):
                    found.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


def wait_for(gate: Path) -> None:
    """Until the file is there."""
    while not gate.exists():
        threading.Event().wait(0.01)


def use_up_files() -> None:
    """From here on the process gets no new file, pipe or socket."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            os.open(os.devnull, os.O_RDONLY)
    except OSError:  # the gaps below are filled too
        return


def use_up_memory() -> None:
    """More than the process may have from here on: the allocation fails, as on a device that is full."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    np.ones(2 * SPARE_BYTES, np.uint8)


def use_up_memory_beside_a_thread() -> None:
    """A thread that Python waits for, so that the process does not end when it wants to."""
    threading.Thread(target=threading.Event().wait).start()
    raise MemoryError("told to have none")


def swell() -> None:
    """Until the kernel ends the process; MemoryError where it does not."""
    np.ones(SWOLLEN_BYTES, np.uint8)
    raise MemoryError(f"still alive with {SWOLLEN_BYTES} bytes more")


FAULTS: dict[str, Callable[[], None]] = {
    "sigkill": kill,
    "exit": leave,
    "sigstop": freeze,
    "spin": spin,
    "deadlock": lock_up,
    "gil": hold_the_interpreter,
    "raise": fail,
    "shape": add_unequal_shapes,
    "numeric": lose_number,
    "cut out": lambda: shut_connections(True, False),
    "cut off": lambda: shut_connections(True, True),
    "files": use_up_files,
    "memory": use_up_memory,
    "memory beside a thread": use_up_memory_beside_a_thread,
    "swell": swell,
}


# ---- nodes


class Encoder:
    """A word in, its embedding out."""

    text = In(TextDelta)
    out = Out(Embedding)
    Params = Trouble

    def __init__(self) -> None:
        self.open_now: dict[str, Trouble] = {}

    def open(self, request: str, params: Trouble) -> None:
        self.open_now[request] = params

    def close(self, request: str) -> None:
        self.open_now.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        did = False
        for request in inbox.ready(self.text):
            if outbox.room(self.out, request) > 0:
                outbox.working(request)
                suffer(self.open_now[request], "queued", request)
                word = inbox.take(self.text, request).text
                fault = suffer(self.open_now[request], "computing", request)
                outbox.send(self.out, request, spoilt(Embedding(Array.of(embed(word))), fault))
                did = True
        for request in inbox.drained(self.text):
            outbox.end(request)
        return did


def suffer(trouble: Trouble, moment: str, request: str) -> str:
    """The trouble that is due; the name of one that shows in what is sent, else empty."""
    fault = trouble.strikes(moment)
    if fault.startswith("wait "):
        wait_for(Path(fault.removeprefix("wait ")))
    try:
        FAULTS.get(fault, str)()
    except RequestError as error:
        raise RequestError(request, error.code, error.message) from None
    return fault


def spoilt(packet: Embedding | Spoken | AudioChunk, fault: str) -> Embedding | Spoken | AudioChunk:
    """A packet that its port must not send: a number that is none, a field of the wrong type, another payload."""
    if fault == "nan field" and isinstance(packet, Embedding):
        return Embedding(packet.values, float("nan"))
    if fault == "ill field":
        name = "samples" if isinstance(packet, AudioChunk) else "values"
        return replace(packet, **{name: "not an array"})  # type: ignore[arg-type]
    if fault == "wrong payload":
        return TextDelta("instead")  # type: ignore[return-value]
    return packet


@dataclass
class Sentence:
    """The generator's state of one request."""

    trouble: Trouble
    kv: Kv = field(default_factory=Kv)
    forced: list[int] = field(default_factory=list)
    said: int = 0
    due: int = 0


class Generator:
    """Embeddings in, three drawn tokens a word out, one a step: as text, and with what the memory was for the vocoder."""

    words = In(Embedding)
    text = Out(TextDelta)
    codes = Out(Spoken)
    Params = Trouble

    def __init__(self) -> None:
        self.open_now: dict[str, Sentence] = {}
        self._chance = random.SystemRandom()

    def open(self, request: str, params: Trouble) -> None:
        self.open_now[request] = Sentence(params)

    def force(self, request: str, choices: Sequence[tuple[int, ...]]) -> None:
        self.open_now[request].forced = [token for (token,) in choices]

    def close(self, request: str) -> None:
        self.open_now.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        ready, drained = set(inbox.ready(self.words)), set(inbox.drained(self.words))
        more = False
        for request, one in list(self.open_now.items()):
            if not one.due and request in ready:
                outbox.working(request)
                suffer(one.trouble, "queued", request)
                one.kv.read(inbox.take(self.words, request).values.values)
                one.due = TOKENS_A_WORD
            if not one.due:
                if request in drained:
                    outbox.end(request)
            elif outbox.room(self.text, request) > 0 and outbox.room(self.codes, request) > 0:
                self._say(request, one, outbox)
                more = True
        return more

    def _say(self, request: str, one: Sentence, outbox: Outbox) -> None:
        token = one.forced[one.said] if one.said < len(one.forced) else self._chance.randrange(VOCABULARY)
        outbox.choose(request, (token,))
        spoken = Spoken(Array.of(one.kv.say(token)))
        one.said, one.due = one.said + 1, one.due - 1
        fault = suffer(one.trouble, "computing", request)
        outbox.send(self.text, request, TextDelta(f"{token} ", (token,)))
        outbox.send(self.codes, request, spoilt(spoken, fault))


class Vocoder:
    """Codes in, sound out, and a tail after the last; it does not speak again what the client has heard."""

    codes = In(Spoken)
    audio = Out(AudioChunk)
    Params = Trouble

    def __init__(self) -> None:
        self.open_now: dict[str, tuple[Trouble, Voice]] = {}

    def open(self, request: str, params: Trouble) -> None:
        self.open_now[request] = params, Voice()

    def close(self, request: str) -> None:
        self.open_now.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        did = False
        for request in inbox.ready(self.codes):
            if outbox.room(self.audio, request) > 0:
                self._speak(request, inbox, outbox)
                did = True
        for request in inbox.drained(self.codes):
            if outbox.room(self.audio, request) > 0:
                self._send(request, self.open_now[request][1].tail(), "", outbox)
                outbox.end(request)
        return did

    def _speak(self, request: str, inbox: Inbox, outbox: Outbox) -> None:
        trouble, voice = self.open_now[request]
        outbox.working(request)
        suffer(trouble, "queued", request)
        samples = voice.speak(inbox.take(self.codes, request).values.values)
        self._send(request, samples, suffer(trouble, "computing", request), outbox)

    def _send(self, request: str, samples: np.ndarray, fault: str, outbox: Outbox) -> None:
        if outbox.skippable(self.audio, request):
            outbox.skip(self.audio, request)
        else:
            outbox.send(self.audio, request, spoilt(AudioChunk(Array.of(samples), RATE), fault))
