"""A running replica under attack: a thousand bad messages, and requests beside them get the right answers from it.

Strangers speak ZMQ to its ipc socket, as only a process of the same user can; none of them is the Gateway or a replica.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import psutil
import zmq

import omni_graph as og
from omni_graph.frames import PROTOCOL_VERSION, Credit, Data, End, Frame, Hello, Reset, Start, Stop
from omni_graph.links.codec import Codec
from omni_graph.links.handshake import Refusal
from omni_graph.links.parts import MAX_HEADER_BYTES, MAX_PARTS
from omni_graph.links.sockets import TOLD_SINGLY
from omni_graph.links.wire import PROBE
from omni_graph.payload import TextDelta
from tests.runtime.graphs import chain, launch, words

VICTIM = "a/0.0"
REFUSED, UNHEARD, INTRUDING = 1000, 20, 30
WAIT_MS = 20_000
Message = list[bytes]


@dataclass(frozen=True)
class Trap:
    """Unpickled, it makes a file."""

    path: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Strangers:
    """Raw DEALERs, one after the other, to one replica of a running app."""

    def __init__(self, app: og.App, context: zmq.Context[zmq.Socket[bytes]], trap: Path, victim: str = VICTIM) -> None:
        self.codec = Codec({edge.number: edge.type for edge in app.plan.edges})
        self.hello = self.encoded(Hello(PROTOCOL_VERSION, app.plan.wiring, "mallory"))
        address = app._deployment.handles[victim].address  # type: ignore[attr-defined]
        assert address is not None and address.endpoint.startswith("ipc:///")
        self._endpoint = address.endpoint
        self._edges = {edge.number: edge for edge in app.plan.edges}
        self._trap = trap
        self._context = context
        self._victim = victim
        self._count = 0

    def encoded(self, frame: Frame) -> Message:
        (message,) = self.codec.encode([frame])
        return [bytes(part) for part in message]

    def frames(self, request: str) -> list[Frame]:
        """Each kind that travels on the victim's edges, for ``request``, far from its turn."""
        into = next(n for n, edge in self._edges.items() if edge.reader == "a")
        out = next(n for n, edge in self._edges.items() if edge.writer == "a")
        data = Data(request, 1, into, 7, 0.0, (), TextDelta("mallory " * 300))
        return [
            data,
            Start(request, 1, into),
            End(request, 1, into, 3),
            Credit(request, 1, out, 9, 99),
            Stop(request, 1, out),
        ]

    def bad(self, chance: random.Random) -> list[Message]:
        """What a stranger says of which one message is refused, and why it must be."""
        header, *parts = self.encoded(chance.choice(self.frames("unknown")))
        long_header, text = self.encoded(self.frames("unknown")[0])
        pickled = pickle.dumps(Trap(self._trap), chance.randint(0, pickle.HIGHEST_PROTOCOL))
        malformed: Mapping[str, Message] = {
            "noise": [chance.randbytes(chance.randint(1, 60))],
            "truncated header": [header[: chance.randrange(1, len(header))], *parts],
            "truncated part": [long_header, text[: chance.randrange(len(text))]],
            "longer than it says": [header + b"\xc0", *parts],
            "one part too many": [header, *parts, b"more"],
            "parts in the wrong order": [text, long_header],
            "pickled": [pickled],
            "pickled part": [long_header, pickled],
            "an unknown frame": [msgpack.packb([[chance.randint(15, 99), "r", 1, 0]])],
            "a list that claims to be huge": [b"\xdd\x00\x00\xff\x00" + b"\x80" * 65_280],
            "a header over its limit": [b"\x91" * (MAX_HEADER_BYTES + chance.randint(1, 9))],
            "parts over their limit": [header, *[b""] * (MAX_PARTS + chance.randint(1, 300))],
            "a second Hello": self.hello,
        }
        spoken = [[self.hello, message] for message in malformed.values()]
        return chance.choice([*spoken, [[header, *parts], self.hello]])  # the last: a frame before Hello

    @contextmanager
    def stranger(self, said: list[Message]) -> Iterator[zmq.Socket[bytes]]:
        self._count += 1
        with self._context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.setsockopt(zmq.RECONNECT_IVL, -1)
            dealer.setsockopt(zmq.ROUTING_ID, f"writes|{self._count}|mallory|{self._victim}".encode())
            dealer.connect(self._endpoint)
            for message in said:
                dealer.send_multipart(message)
            yield dealer

    def refused(self, said: list[Message]) -> None:
        """Say it; we are told that the link is over."""
        with self.stranger(said) as dealer:
            while True:
                assert dealer.poll(WAIT_MS), f"no refusal of {str(said)[:300]}"
                answer = dealer.recv_multipart()
                if answer != PROBE and any(isinstance(frame, Refusal) for frame in self.codec.decode(answer)):
                    return

    def cut_off(self) -> None:
        """A part over the limit: the connection ends before a byte of it is stored."""
        with self.stranger([self.hello]) as dealer, dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as news:
            dealer.send_multipart([b"", b"x" * (self.codec.max_part_bytes + 1)])
            assert news.poll(WAIT_MS), "still connected"
            dealer.disable_monitor()


def exchange(app: og.App, handle: og.Handle, turn: int) -> None:
    """A request from start to end, and one more word through one that is open all the time."""
    assert app.run({"text": words(f"turn {turn}")}, outputs=["out"])["out"].text == f"TURN {turn}"
    (word,) = words(f"word {turn}")
    handle.write("text", word)
    event = handle.next(timeout=20)
    assert event is not None and event.packet.text == f"WORD {turn}"


def attacks(strangers: Strangers, live: str) -> list[Callable[[], None]]:
    """All, in a random order that is always the same. ``live``: a request whose streams strangers try to write to."""
    chance = random.Random(17)
    intruding = [*strangers.frames(live), Reset(live, 1, og.Code.CANCELLED, "", "")]
    made: list[Callable[[], None]] = [partial(strangers.refused, strangers.bad(chance)) for _ in range(REFUSED)]
    made += [strangers.cut_off] * UNHEARD
    for number in range(INTRUDING):
        frame = strangers.encoded(intruding[number % len(intruding)])
        made.append(partial(strangers.refused, [strangers.hello, frame]))
    chance.shuffle(made)
    return made


def test_a_live_replica_survives_a_thousand_bad_messages(tmp_path: Path) -> None:
    """Malformed, truncated, reordered, oversized, pickled, and for streams of others: the process stays, and is right."""
    trap = tmp_path / "unpickled"
    with launch(chain(), "processes", retries=0) as app, zmq.Context() as context:
        before = app.status()["stages"]["a"]["replicas"][0]
        handle = app.open(outputs=["out"])
        exchange(app, handle, 0)
        resident = psutil.Process(before["pid"]).memory_info().rss
        for turn, attack in enumerate(attacks(Strangers(app, context, trap), handle.request), start=1):
            attack()
            if turn % 50 == 0:
                exchange(app, handle, turn)
        exchange(app, handle, REFUSED + 1)
        handle.end("text")
        assert list(handle) == [] and handle.retries == 0
        after = app.status()["stages"]["a"]["replicas"][0]
        assert [after[key] for key in ("id", "pid", "restarts", "state")] == [VICTIM, before["pid"], 0, "ready"]
        assert psutil.Process(before["pid"]).memory_info().rss - resident < 32 << 20
        log = (Path(app._deployment.run_folder) / "logs" / "a-0.0.log").read_text()
        assert log.count(": bad message ") == TOLD_SINGLY + 1  # and the thousandth
    assert not trap.exists()
