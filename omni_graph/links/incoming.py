"""The ROUTER that peers connect to, and which of them are still there. Knows routing ids and messages, no frame.

libzmq tells that *a* connection ended, not whose. So after each such event every known peer is probed: routing to one
that is gone fails. The event may run ahead of the routing table, so the probe repeats, ever more rarely, until it finds
as many gone as connections ended, or gives up on strangers that never said who they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import zmq

from omni_graph.links import wire
from omni_graph.links.codec import Message
from omni_graph.links.parts import Buffer
from omni_graph.links.profile import Monitor, open_socket

FIRST_PROBE_S = 0.001
LAST_PROBE_S = 4.0


class Incoming:
    """``endpoint`` is where it is bound."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], bind: str, options: dict[int, int]) -> None:
        self.socket = open_socket(context, zmq.ROUTER, {**options, zmq.ROUTER_MANDATORY: 1, zmq.ROUTER_HANDOVER: 0})
        self.monitor = Monitor(context, self.socket, zmq.EVENT_DISCONNECTED)
        try:
            self.socket.bind(bind)
        except zmq.ZMQError:
            self.close(linger_ms=0)
            raise
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._unexplained = 0
        self._probe_at = 0.0
        self._probe_gap = FIRST_PROBE_S

    def send(self, routing_id: bytes, message: Message) -> bool:
        """Queue a message for one peer; False when it is gone."""
        return wire.write(self.socket, [routing_id, *message])

    def receive(self, most: int) -> Iterator[tuple[bytes, list[Buffer]]]:
        """(routing id, message) of up to ``most`` messages that have arrived."""
        for routing_id, *message in wire.read(self.socket, most):
            yield bytes(routing_id), message

    def note_ends(self, now: float) -> None:
        """Count the connections that have ended since the last call; a probe is then due at once."""
        ended = len(self.monitor.events())
        if ended:
            self._unexplained += ended
            self._probe_at = now
            self._probe_gap = FIRST_PROBE_S

    def until_probe(self, now: float) -> float | None:
        """Seconds until ``gone`` is worth calling, at least 0; None: not at all."""
        return max(0.0, self._probe_at - now) if self._unexplained else None

    def gone(self, routing_ids: Iterable[bytes], now: float) -> list[bytes]:
        """Those that are no longer connected. Plans the next probe when ended connections remain unexplained."""
        absent = [routing_id for routing_id in routing_ids if not self.send(routing_id, wire.PROBE)]
        self._unexplained = max(0, self._unexplained - len(absent))
        self._probe_at = now + self._probe_gap
        self._probe_gap *= 2
        if self._probe_gap > LAST_PROBE_S:
            self._unexplained = 0
        return absent

    def close(self, linger_ms: int) -> None:
        """Unbind; what was sent has ``linger_ms`` to leave, in the background."""
        self.monitor.close()
        self.socket.close(linger_ms)
