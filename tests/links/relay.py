"""A wire that can be cut, frozen or slow: forwards bytes between Unix or TCP sockets: real network faults to ZMQ."""

from __future__ import annotations

import math
import os
import random
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

CHUNK = 1 << 18
MOST_SEEN = 1 << 16


@dataclass(frozen=True)
class Wire:
    """How bytes cross, each way: so late (uniform, delay +- jitter; order is kept), in such pieces, at such a rate."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    slice_bytes: int = CHUNK
    bytes_per_s: float = math.inf

    @property
    def chunk(self) -> int:
        """Bytes that are read at once: what crosses in 10 ms."""
        return int(min(CHUNK, max(1, self.bytes_per_s / 100)))


GOOD = Wire()


@dataclass
class _Way:
    """One direction of a connection: what was read of it and is under way, with the moment when it arrives."""

    far: socket.socket
    under_way: deque[tuple[float, bytes]] = field(default_factory=deque)
    free_at: float = 0.0
    paused: bool = False

    def put(self, data: bytes, wire: Wire, late_s: float) -> None:
        before = self.under_way[-1][0] if self.under_way else 0.0
        self.under_way.append((max(before, time.monotonic() + late_s), data))
        self.paused = len(self.under_way) * wire.chunk > CHUNK

    def due(self) -> float:
        return max(self.under_way[0][0], self.free_at) if self.under_way else math.inf

    def send(self, wire: Wire) -> bool:
        """The next of what is due; False when that is the end."""
        due = self.due()
        _, data = self.under_way.popleft()
        for at in range(0, len(data), wire.slice_bytes):
            self.far.sendall(data[at : at + wire.slice_bytes])
        self.free_at = due + len(data) / wire.bytes_per_s
        return bool(data)


class Relay:
    """Listens beside ``target`` (a ZMQ endpoint) and forwards every connection to it. ``endpoint`` is where to connect.

    ``seen``: the first bytes that crossed it, both directions mixed, to be read when all is quiet. ``wire`` may be changed.
    """

    def __init__(self, target: str, wire: Wire = GOOD) -> None:
        self.wire = wire
        self._random = random.Random(0)
        self._target = target
        self.seen = bytearray()
        self._listener, self.endpoint = _listen(target)
        self._ways: dict[socket.socket, _Way] = {}
        self._orders: list[str] = []
        self._done = threading.Semaphore(0)
        self._ours, self._theirs = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for source in (self._listener, self._ours):
            self._selector.register(source, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """End every connection now; later ones are forwarded again."""
        self._order("cut")

    def freeze(self) -> None:
        """Forward nothing more and close nothing, as a host that lost its power does."""
        self._order("freeze")

    def close(self) -> None:
        """Free everything."""
        self._order("close")
        self._thread.join()
        for each in (self._listener, self._ours, self._theirs):
            each.close()
        self._selector.close()
        if self.endpoint.startswith("ipc://"):
            os.unlink(self.endpoint[6:])

    def _order(self, what: str) -> None:
        self._orders.append(what)
        self._theirs.send(b"!")
        assert self._done.acquire(timeout=10)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._until_due()):
                source = key.fileobj
                assert isinstance(source, socket.socket)
                if source is self._ours:
                    source.recv(1)
                    order = self._orders.pop(0)
                    self._obey(order)
                    self._done.release()
                    if order == "close":
                        return
                elif source is self._listener:
                    self._accept()
                elif source in self._ways:
                    self._read(source)
            for source in list(self._ways):
                self._send_due(source)

    def _until_due(self) -> float | None:
        due = min((way.due() for way in self._ways.values()), default=math.inf)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def _obey(self, order: str) -> None:
        for source, way in self._ways.items():
            way.under_way.clear()
            if source in self._selector.get_map():  # a frozen or paused one is not
                self._selector.unregister(source)
            if order != "freeze":
                source.close()
        if order != "freeze":
            self._ways.clear()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = _connect(self._target)
        except OSError:  # nobody there: the caller sees what it would see without us
            near.close()
            return
        self._ways |= {near: _Way(far), far: _Way(near)}
        for each in (near, far):
            if each.family == socket.AF_INET:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(each, selectors.EVENT_READ)

    def _read(self, source: socket.socket) -> None:
        wire, way = self.wire, self._ways[source]
        try:
            data = source.recv(wire.chunk)
        except OSError:
            data = b""
        self.seen += data[: MOST_SEEN - len(self.seen)]
        way.put(data, wire, wire.delay_s + self._random.uniform(-wire.jitter_s, wire.jitter_s))
        if way.paused or not data:
            self._selector.unregister(source)

    def _send_due(self, source: socket.socket) -> None:
        """One piece at most, so that none waits for another's."""
        way = self._ways.get(source)
        if way is None or way.due() > time.monotonic():
            return
        try:
            goes_on = way.send(self.wire)
        except OSError:  # nobody there; what comes from there is still under way
            way.under_way.clear()
            goes_on = bool(self._ways[way.far].under_way)
        if not goes_on:
            self._end(source)
        elif way.paused and not way.under_way:
            way.paused = False
            self._selector.register(source, selectors.EVENT_READ)

    def _end(self, source: socket.socket) -> None:
        for each in (source, self._ways[source].far):
            if each in self._selector.get_map():
                self._selector.unregister(each)
            each.close()
            del self._ways[each]


def _listen(target: str) -> tuple[socket.socket, str]:
    if target.startswith("ipc://"):
        path = Path(target[6:]).with_name(f"relay-{uuid4().hex[:8]}.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        return listener, f"ipc://{path}"
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def _connect(target: str) -> socket.socket:
    if target.startswith("ipc://"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(target[6:])
        return connection
    host, port = target[6:].split(":")
    return socket.create_connection((host, int(port)))
