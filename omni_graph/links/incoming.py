"""The ROUTER that peers connect to, whose link each connection is, and who is still there. Knows messages, no frame.

libzmq tells that *a* connection ended, not whose. So after each such event every known peer is probed: routing to one
that is gone fails. The event may run ahead of the routing table, so the probe repeats, ever more rarely, until it finds
as many gone as connections ended, or gives up on strangers that never said who they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import zmq

from omni_graph.frames import LinkId
from omni_graph.links import wire
from omni_graph.links.codec import Message
from omni_graph.links.endpoints import TCP
from omni_graph.links.keys import KeyPair
from omni_graph.links.parts import Buffer
from omni_graph.links.profile import FAILED_HANDSHAKES, Monitor, open_socket, set_options

FIRST_PROBE_S = 0.001
LAST_PROBE_S = 4.0


class Incoming:
    """``endpoints`` is where it is bound. A routing id is unknown, open (it has a LinkId), or over until it disconnects."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        binds: Sequence[str],
        options: Callable[[str], dict[int, int]],
        keys: KeyPair | None = None,
    ) -> None:
        """Bind to each, ipc before tcp, since ``keys`` guard tcp alone. zmq.ZMQError when one, or a file, cannot be had."""
        self.socket = open_socket(context, zmq.ROUTER, {zmq.ROUTER_MANDATORY: 1, zmq.ROUTER_HANDOVER: 0})
        try:
            self.monitor = Monitor(context, self.socket, zmq.EVENT_DISCONNECTED | FAILED_HANDSHAKES)
        except zmq.ZMQError:
            self.socket.close(linger=0)
            raise
        try:
            self.endpoints = tuple(self._bind(bind, options(bind), keys) for bind in binds)
        except zmq.ZMQError:
            self.close(linger_ms=0)
            raise
        self._open: dict[bytes, LinkId] = {}
        self._routes: dict[LinkId, bytes] = {}
        self._over: set[bytes] = set()
        self._unexplained = 0
        self._probe_at = 0.0
        self._probe_gap = FIRST_PROBE_S

    def _bind(self, bind: str, options: dict[int, int], keys: KeyPair | None) -> str:
        """libzmq gives a listener the options that its socket has when it is bound, and no later ones."""
        set_options(self.socket, options)
        if keys and bind.startswith(TCP):
            keys.guard(self.socket)
        self.socket.bind(bind)
        return self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    # ---- whose connection it is

    def __contains__(self, link: object) -> bool:
        return link in self._routes

    def links(self) -> list[LinkId]:
        """All that are open."""
        return list(self._routes)

    def link_of(self, routing_id: bytes) -> LinkId | None:
        """The open link of a connection."""
        return self._open.get(routing_id)

    def is_over(self, routing_id: bytes) -> bool:
        """Did we end this connection's link? What still comes on it is not to be heard."""
        return routing_id in self._over

    def accept(self, routing_id: bytes, link: LinkId) -> None:
        """This connection is that link from now on."""
        assert link not in self._routes, f"two connections for {link}"
        self._open[routing_id] = link
        self._routes[link] = routing_id

    def refuse(self, routing_id: bytes, message: Message) -> None:
        """This connection is no link and never will be; the message says why."""
        self._over.add(routing_id)
        self._write(routing_id, message)

    def end(self, link: LinkId) -> None:
        """Hear no more of this link. ROUTER cannot disconnect a peer: it must have been told."""
        routing_id = self._routes.pop(link)
        del self._open[routing_id]
        self._over.add(routing_id)

    # ---- messages

    def send(self, link: LinkId, message: Message) -> bool:
        """Queue a message; False when the peer is gone."""
        return self._write(self._routes[link], message)

    def receive(self, most: int) -> Iterator[tuple[bytes, str, list[Buffer]]]:
        """(routing id, known as, message) of up to ``most`` messages that have arrived.

        ``known as``: with the first message of an encrypted connection, the name its key was introduced for; else empty.
        """
        for first, (routing_id, *message) in wire.read(self.socket, most):
            route = bytes(routing_id)
            yield route, "" if route in self._open else wire.user_id(first), message

    def _write(self, routing_id: bytes, message: Message) -> bool:
        return wire.write(self.socket, [routing_id, *message])

    # ---- who is still there

    def note_ends(self, now: float) -> int:
        """Count the connections that have ended since the last call; a probe is then due at once.

        Returns how many of them, past or about to end, never got through the handshake.
        """
        events = self.monitor.events()
        ended = events.count(zmq.EVENT_DISCONNECTED)
        if ended:
            self._unexplained += ended
            self._probe_at = now
            self._probe_gap = FIRST_PROBE_S
        return len(events) - ended

    def until_probe(self, now: float) -> float | None:
        """Seconds until ``lost`` is worth calling, at least 0; None: not at all."""
        return max(0.0, self._probe_at - now) if self._unexplained else None

    def lost(self, now: float) -> list[LinkId]:
        """The links that are no longer connected, which it forgets. Plans the next probe when ended ones remain."""
        gone = [routing_id for routing_id in (*self._open, *self._over) if not self._write(routing_id, wire.PROBE)]
        self._unexplained = max(0, self._unexplained - len(gone))
        self._probe_at = now + self._probe_gap
        self._probe_gap *= 2
        if self._probe_gap > LAST_PROBE_S:
            self._unexplained = 0
        self._over.difference_update(gone)
        links = [self._open.pop(routing_id) for routing_id in gone if routing_id in self._open]
        for link in links:
            del self._routes[link]
        return links

    def close(self, linger_ms: int) -> None:
        """Unbind; what was sent has ``linger_ms`` to leave, in the background."""
        self.monitor.close()
        self.socket.close(linger_ms)
