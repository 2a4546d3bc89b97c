"""One message to and from a ZMQ socket: never blocks, copies neither way what is 64 KiB or larger."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import zmq
from zmq.utils.garbage import gc

from omni_graph.links.parts import MAX_PARTS, Buffer, byte_length

NO_COPY_BYTES = 64 << 10
KEPT_PARTS = MAX_PARTS + 3  # routing id, header, the raw parts, and one too many for the codec to refuse
PROBE: list[Buffer] = [b""]  # asks ROUTER whether a peer is there; says nothing to the peer


_starting = threading.Lock()


def start_collector() -> None:
    """pyzmq's own thread, which lets go of what was sent without a copy. It would start with the first such send, when two
    threads may send at once, or no files may be left: libzmq ends the process where it gets none for a new context."""
    with _starting:
        if not gc.is_alive():
            gc.start()
        _ = gc._push_socket  # made when it is first asked for


def write(socket: zmq.Socket[bytes], parts: Sequence[Buffer]) -> bool:
    """Queue one message; False when there is nobody to send it to."""
    try:
        for part in parts[:-1]:
            _write_part(socket, part, zmq.SNDMORE)
        _write_part(socket, parts[-1], 0)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            return False
        raise
    return True


def _write_part(socket: zmq.Socket[bytes], part: Buffer, more: int) -> None:
    socket.send(part, zmq.NOBLOCK | more, copy=byte_length(part) < NO_COPY_BYTES)


def read(socket: zmq.Socket[bytes], most: int) -> Iterator[tuple[zmq.Frame, list[Buffer]]]:
    """Up to ``most`` messages that have arrived, each with its first part, which knows the sender (``user_id``).

    A message of too many parts is cut, and still has too many.
    """
    for _ in range(most):
        try:
            first = frame = socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        parts = [_buffer(frame)]
        while frame.more:
            frame = socket.recv(copy=False)
            if len(parts) < KEPT_PARTS:
                parts.append(_buffer(frame))
        yield first, parts


def user_id(first: zmq.Frame) -> str:
    """Whose key the sender of a message proved (gate.py); empty where its connection is not encrypted."""
    try:
        return str(first.get("User-Id"))
    except zmq.ZMQError as error:
        if error.errno == zmq.EINVAL:  # libzmq's word for: no such property
            return ""
        raise


def _buffer(frame: zmq.Frame) -> Buffer:
    return frame.buffer if len(frame) >= NO_COPY_BYTES else frame.bytes


def message_bytes(message: Sequence[Buffer]) -> int:
    """Bytes of a message, all parts together."""
    return sum(byte_length(part) for part in message)
