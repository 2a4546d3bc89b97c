"""One link that we opened: a DEALER of its own, which connects once and never again. Knows no frame, only messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import zmq

from omni_graph.files import require_files
from omni_graph.frames import LinkId
from omni_graph.links import wire
from omni_graph.links.codec import Message
from omni_graph.links.keys import KeyPair
from omni_graph.links.parts import Buffer
from omni_graph.links.profile import Monitor, open_socket

ENDS: Mapping[int, str] = {
    zmq.EVENT_DISCONNECTED: "the connection ended",
    zmq.EVENT_CLOSED: "nobody answers there",
    zmq.EVENT_CONNECT_RETRIED: "nobody answers there",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the handshake failed: no ZMTP there",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the handshake failed: not authorised",
}


class Outgoing:
    """``greeted`` turns True when the peer's Hello has been accepted."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        link: LinkId,
        endpoint: str,
        routing_id: bytes,
        options: dict[int, int],
        keys: KeyPair | None = None,
        public_key: str = "",
    ) -> None:
        """Start to connect, to who holds ``public_key`` where one is given. zmq.ZMQError when ``endpoint`` cannot be one,
        that or OSError when there are no files left: libzmq would not tell of one that its own thread could not open."""
        self.link = link
        self.endpoint = endpoint
        self.greeted = False
        self.socket = open_socket(context, zmq.DEALER, options)
        self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        if keys and public_key:
            keys.call(self.socket, public_key)
        try:
            self.monitor = Monitor(context, self.socket, sum(ENDS))
        except zmq.ZMQError:
            self.socket.close(linger=0)
            raise
        try:
            require_files(1)
            self.socket.connect(endpoint)
        except (zmq.ZMQError, OSError):
            self.close(linger_ms=0)
            raise

    def send(self, message: Message) -> bool:
        """Queue a message; False when the connection is gone."""
        return wire.write(self.socket, message)

    def receive(self, most: int) -> Iterator[list[Buffer]]:
        """Up to ``most`` messages that have arrived."""
        for _, message in wire.read(self.socket, most):
            yield message

    def lost(self) -> str:
        """Why the connection has ended; empty while it has not."""
        reasons = [ENDS[event] for event in self.monitor.events() if event in ENDS]
        return f"lost {self.link.peer} at {self.endpoint}: {reasons[0]}" if reasons else ""

    def close(self, linger_ms: int) -> None:
        """Free it; what was sent has ``linger_ms`` to leave, in the background."""
        self.monitor.close()
        self.socket.close(linger_ms)
