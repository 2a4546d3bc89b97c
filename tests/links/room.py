"""Encrypted Links over tcp on one bench, and strangers who knock at them."""

from __future__ import annotations

import contextlib

import zmq

from omni_graph.frames import (
    PROTOCOL_VERSION,
    Address,
    Credit,
    Hello,
    Side,
    Start,
)
from omni_graph.links.codec import Codec
from omni_graph.links.keys import Curve, KeyPair
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES
from omni_graph.testing.link_bench import Bench, Peer

CODEC = Codec(LINK_TYPES)
START, CREDIT = Start("request", 1, 0), Credit("request", 1, 0, 0, 8)
SOON_S = 0.01  # patience where a refusal is awaited
Context = zmq.Context[zmq.Socket[bytes]]


class Room(Bench):
    """Encrypted Links over tcp, polled together; and strangers, who are raw sockets."""

    def __init__(self) -> None:
        super().__init__("curve", lambda name, wiring: self._new(name), None, deadline_s=20.0)
        self.context: Context = zmq.Context()
        self.curve = Curve(KeyPair())
        self._strangers: list[zmq.Socket[bytes]] = []

    def _new(self, name: str) -> ZmqLinks:
        return ZmqLinks(name, "tcp://127.0.0.1", LINK_TYPES, curve=self.curve)

    def links(self, name: str, *introduced: Address, patience_s: float = 4.0, keys: KeyPair | None = None) -> Peer:
        """Encrypted Links of a key pair of their own."""
        self.curve = Curve(keys or KeyPair(), introduced, patience_s)
        return self.peer(name)

    def stranger(
        self, to: Peer, keys: KeyPair | None, says: str = "mallory", side: str = "writes"
    ) -> zmq.Socket[bytes]:
        """Connects with these keys, or with none, and says a proper Hello and Start."""
        dealer = self.context.socket(zmq.DEALER)
        dealer.linger = 0
        dealer.setsockopt(zmq.SNDTIMEO, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.setsockopt(zmq.MAXMSGSIZE, CODEC.max_part_bytes)
        dealer.setsockopt(zmq.ROUTING_ID, f"{side}|{len(self._strangers)}|{says}|{to.name}".encode())
        self._strangers.append(dealer)
        if keys is not None:
            keys.call(dealer, to.links.address.public_key)
        dealer.connect(to.links.address.endpoint)
        with contextlib.suppress(zmq.Again):  # it may be refused by now
            for message in CODEC.encode([Hello(PROTOCOL_VERSION, "", says)]) + CODEC.encode([START]):
                dealer.send_multipart(message)
        return dealer

    def refused(self, peer: Peer, number: int) -> None:
        """Poll until exactly this many callers of ``peer`` have been refused."""
        zmq_links = peer.links
        assert isinstance(zmq_links, ZmqLinks)
        self.until(lambda: zmq_links.counters().refused_callers >= number, f"{number} callers to be refused")
        assert zmq_links.counters().refused_callers == number

    def waiting(self, peer: Peer, number: int) -> None:
        """Poll until this many callers wait at the gate of ``peer``."""
        self.until(lambda: len(peer.links._gate._waiting) == number, f"{number} callers to wait")  # type: ignore[attr-defined]

    def talk(self, writer: Peer, reader: Peer, number: int = 1) -> None:
        """There and back on the link of ``writer``, whose ``number``-th words these are; nothing else was heard on it."""
        writer.send(reader, Side.WRITES, [START])
        self.expect(reader, writer, Side.READS, [START] * number)
        reader.send(writer, Side.READS, [CREDIT])
        self.expect(writer, reader, Side.WRITES, [CREDIT] * number)


def address_of(name: str, keys: KeyPair) -> Address:
    return Address(name, "ipc:///nowhere", keys.public)
