"""A wire that can be cut or frozen: forwards bytes between Unix or TCP sockets, so that ZMQ sees real network faults."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from pathlib import Path
from uuid import uuid4

CHUNK = 1 << 18
MOST_SEEN = 1 << 16


class Relay:
    """Listens beside ``target`` (a ZMQ endpoint) and forwards every connection to it. ``endpoint`` is where to connect.

    ``seen``: the first bytes that crossed it, both directions mixed, to be read when all is quiet.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.seen = bytearray()
        self._listener, self.endpoint = _listen(target)
        self._pairs: dict[socket.socket, socket.socket] = {}
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
            for key, _ in self._selector.select():
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
                elif source in self._pairs:
                    self._forward(source)

    def _obey(self, order: str) -> None:
        for source in list(self._pairs):
            if source in self._selector.get_map():  # a frozen one is not
                self._selector.unregister(source)
            if order != "freeze":
                source.close()
        if order != "freeze":
            self._pairs.clear()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = _connect(self._target)
        except OSError:  # nobody there: the caller sees what it would see without us
            near.close()
            return
        self._pairs |= {near: far, far: near}
        for each in (near, far):
            self._selector.register(each, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        try:
            data = source.recv(CHUNK)
            self.seen += data[: MOST_SEEN - len(self.seen)]
            self._pairs[source].sendall(data)
        except OSError:
            data = b""
        if not data:
            for each in (source, self._pairs[source]):
                self._selector.unregister(each)
                each.close()
                del self._pairs[each]


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
