"""What ``hop`` is held against: two processes, a raw pyzmq PUSH/PULL over ipc, blocking, and nothing around it.

The same bytes, one group under way at a time, a one-byte answer back. No header, no check, no second socket to watch. The
group's number and its start stand in the first 16 bytes of every message; what is 64 KiB or larger is not copied.
"""

from __future__ import annotations

import json
import multiprocessing
import struct
import tempfile
import time
from array import array
from multiprocessing.connection import Connection
from types import TracebackType

import zmq

STAMP = struct.Struct("<qii")  # start of the group (ns); packets left in the group; groups left
NO_COPY_BYTES = 64 << 10


class RawHop:
    """The pair of processes; ``close`` ends them."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="omni-graph-bench-")
        context = multiprocessing.get_context("spawn")
        self._orders, orders = context.Pipe()
        self._times, times = context.Pipe()
        ends = [(_send, orders), (_receive, times)]
        self._processes = [
            context.Process(target=work, args=(self._folder.name, pipe), daemon=True) for work, pipe in ends
        ]
        for process in self._processes:
            process.start()
        orders.close()
        times.close()

    def __call__(self, size: int, groups: int, pieces: int = 1) -> list[float]:
        """One-way times in seconds of ``groups`` groups of ``size`` bytes in ``pieces`` messages."""
        self._orders.send_bytes(json.dumps([groups, pieces, size // pieces]).encode())
        seconds = array("d")
        seconds.frombytes(self._times.recv_bytes())
        return list(seconds)

    def __enter__(self) -> RawHop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _socket(kind: int) -> zmq.Socket[bytes]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    socket = context.socket(kind)
    socket.set_hwm(0)
    return socket


def _send(folder: str, orders: Connection) -> None:
    push, answers = _socket(zmq.PUSH), _socket(zmq.PULL)
    push.connect(f"ipc://{folder}/data")
    answers.bind(f"ipc://{folder}/answers")
    while True:
        groups, pieces, size = json.loads(orders.recv_bytes())
        bodies = [bytearray(size) for _ in range(pieces)]  # what is not copied must not change while it is on its way
        for group in reversed(range(groups)):
            began = time.monotonic_ns()
            for left in reversed(range(pieces)):
                message = bodies[left]
                STAMP.pack_into(message, 0, began, left, group)
                push.send(message, copy=size < NO_COPY_BYTES)
            answers.recv()


def _receive(folder: str, times: Connection) -> None:
    pull, answers = _socket(zmq.PULL), _socket(zmq.PUSH)
    pull.bind(f"ipc://{folder}/data")
    answers.connect(f"ipc://{folder}/answers")
    seconds = array("d")
    while True:
        message = pull.recv(copy=False).buffer
        now = time.monotonic_ns()
        began, pieces_left, groups_left = STAMP.unpack_from(message)
        if pieces_left:
            continue
        seconds.append((now - began) * 1e-9)
        answers.send(b"\0")
        if groups_left == 0:
            times.send_bytes(seconds.tobytes())
            seconds = array("d")
