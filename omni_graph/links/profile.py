"""The one set of options that every ZMQ socket of ours has, and the monitor that tells when a connection ends.

A lost link stays lost (no reconnect), nothing waits (LINGER, SNDTIMEO 0), nothing is dropped in silence (HWM 0, mandatory
routing); credit bounds the queues. Rule: a monitored socket is never closed before its monitor is, or libzmq blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import zmq
from zmq.utils.monitor import parse_monitor_message

LEAST_LIBZMQ = (4, 3, 5)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """ZMTP heartbeats, in milliseconds: how often, and how long a silent peer is believed to live."""

    interval_ms: int
    timeout_ms: int


LAN = Heartbeat(100, 300)
TEST = Heartbeat(250, 1000)
WAN = Heartbeat(1000, 3000)
ONE_HOST = WAN  # deaths show at once there, and a busy or paused machine must not look like one
BETWEEN_HOSTS = TEST


def require_libzmq(version: tuple[int, int, int]) -> None:
    """ImportError when libzmq is older than the one whose holes are closed and whose behaviour was measured."""
    if version < LEAST_LIBZMQ:
        seen, least = (".".join(map(str, one)) for one in (version, LEAST_LIBZMQ))
        raise ImportError(f"libzmq {seen} is too old; {least} or newer is needed")


def socket_options(heartbeat: Heartbeat, max_part_bytes: int, endpoint: str) -> dict[int, int]:
    """Option -> value for every socket that carries frames."""
    options: dict[int, int] = {
        zmq.LINGER: 0,
        zmq.SNDTIMEO: 0,
        zmq.SNDHWM: 0,
        zmq.RCVHWM: 0,
        zmq.RECONNECT_IVL: -1,
        zmq.HANDSHAKE_IVL: 5000,
        zmq.BACKLOG: 128,
        zmq.IPV6: 0,
        zmq.MAXMSGSIZE: max_part_bytes,
        zmq.HEARTBEAT_IVL: heartbeat.interval_ms,
        zmq.HEARTBEAT_TIMEOUT: heartbeat.timeout_ms,
        zmq.HEARTBEAT_TTL: heartbeat.timeout_ms,
    }
    if endpoint.startswith("tcp://"):
        options[zmq.TCP_MAXRT] = 2 * heartbeat.timeout_ms
        options[zmq.CONNECT_TIMEOUT] = 2 * heartbeat.timeout_ms
    return options


def open_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, options: dict[int, int]) -> zmq.Socket[bytes]:
    """A socket with these options."""
    socket = context.socket(kind)
    set_options(socket, options)
    return socket


def set_options(socket: zmq.Socket[bytes], options: dict[int, int]) -> None:
    """Set them; what is bound or connected from now on has them."""
    for option, value in options.items():
        socket.setsockopt(option, value)


FAILED_HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Monitor:
    """The events of one socket, without a bound, so that libzmq's I/O thread never waits for us."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], watched: zmq.Socket[bytes], events: int) -> None:
        """zmq.ZMQError when there are no files left for it; ``watched`` can be closed then."""
        self._watched = watched
        endpoint = f"inproc://monitor-{uuid4().hex}"
        watched.monitor(endpoint, events)
        try:
            self.socket = open_socket(context, zmq.PAIR, {zmq.LINGER: 0, zmq.RCVHWM: 0})
        except zmq.ZMQError:
            watched.disable_monitor()
            raise
        self.socket.connect(endpoint)

    def events(self) -> list[int]:
        """What has happened since the last call."""
        seen: list[int] = []
        while True:
            try:
                seen.append(int(parse_monitor_message(self.socket.recv_multipart(zmq.NOBLOCK))["event"]))
            except zmq.Again:
                return seen

    def close(self) -> None:
        """Stop watching; before the watched socket is closed."""
        self._watched.disable_monitor()
        self.socket.close()
