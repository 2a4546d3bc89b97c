"""Encrypted links: who may connect, from when on, as whom; what never gets in; and that the gate cannot fail open."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import zmq

from omni_graph.errors import FlowControlError, LinkError
from omni_graph.frames import (
    GATEWAY,
    PROTOCOL_VERSION,
    Address,
    Credit,
    Frame,
    Hello,
    LinkId,
    LinkLost,
    Open,
    Side,
    Start,
)
from omni_graph.links.codec import Codec
from omni_graph.links.gate import MOST_WAITING, ZAP_ENDPOINT
from omni_graph.links.keys import Curve, KeyPair
from omni_graph.links.profile import Heartbeat
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES
from omni_graph.testing.link_bench import Bench, Peer
from tests.links.relay import Relay

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


@pytest.fixture
def room() -> Iterator[Room]:
    with Room() as made:
        yield made
        made.context.destroy(linger=0)


def address_of(name: str, keys: KeyPair) -> Address:
    return Address(name, "ipc:///nowhere", keys.public)


# ---- who comes in


def test_nothing_readable_crosses_the_wire() -> None:
    """What a user said must not be read off the network; without keys the same test sees it."""
    assert _words_seen_on_the_wire(Curve(KeyPair()), Curve(KeyPair())) == b""
    assert _words_seen_on_the_wire(None, None) == b"a user's own words"


def _words_seen_on_the_wire(writers: Curve | None, readers: Curve | None) -> bytes:
    words = b"a user's own words"
    with Bench("wire", lambda name, _: ZmqLinks(name, "tcp://127.0.0.1", LINK_TYPES, curve=writers), None, 20) as bench:
        writer = bench.peer("writer")
        reader = Peer(ZmqLinks("reader", "tcp://127.0.0.1", LINK_TYPES, curve=readers))
        relay = Relay(reader.links.address.endpoint)
        reader.links.introduce(writer.links.address)
        writer.links.introduce(replace(reader.links.address, endpoint=relay.endpoint))
        writer.send(reader, Side.WRITES, [Start(words.decode(), 1, 0)])
        bench.until(lambda: bool(reader.heard), "the words", [writer, reader])
        assert reader.heard == {LinkId("writer", Side.READS): [Start(words.decode(), 1, 0)]}
        reader.links.close(0)
        seen = bytes(relay.seen)
        relay.close()
    return words if words in seen else b""


def test_a_writer_that_comes_before_its_reader_knows_it_is_let_in(room: Room) -> None:
    """The two Opens of a request arrive in any order: being early must not cost the request its link.

    The reader's patience is beyond libzmq's own, so that only the introduction itself can end the wait well.
    """
    writer, reader = room.links("writer"), room.links("reader", patience_s=60.0)
    writer.links.introduce(reader.links.address)
    writer.send(reader, Side.WRITES, [START])
    room.waiting(reader, 1)
    assert not reader.heard
    reader.links.introduce(writer.links.address)
    room.expect(reader, writer, Side.READS, [START])
    assert not writer.losses


def test_who_waits_is_not_lost_by_heartbeat(room: Room) -> None:
    """A reader may be busy for longer than a heartbeat's patience before it reads its Open."""
    reader = room.links("reader")
    writer = ZmqLinks("writer", "tcp://127.0.0.1", LINK_TYPES, curve=Curve(KeyPair()), heartbeat=Heartbeat(10, 30))
    writer.introduce(reader.links.address)
    writer.send(LinkId("reader", Side.WRITES), [START])
    room.waiting(reader, 1)
    assert writer.poll(0.1) == []
    room.waiting(reader, 1)
    writer.close(0)


def test_in_any_order_of_opens_every_link_comes_up(room: Room) -> None:
    """Twelve writers, each introduced to the reader at a random moment before or after it connects; none is lost."""
    chance = random.Random(5)
    reader = room.links("reader")
    writers = [room.links(f"writer-{number}") for number in range(12)]
    moves: list[Callable[[], object]] = []
    for writer in writers:
        writer.links.introduce(reader.links.address)
        moves.append(lambda writer=writer: writer.send(reader, Side.WRITES, [START]))  # type: ignore[misc]
        moves.append(lambda writer=writer: reader.links.introduce(writer.links.address))  # type: ignore[misc]
        moves += [lambda: reader.poll(0.003)] * 2
    chance.shuffle(moves)
    for move in moves:
        move()
    for writer in writers:
        room.expect(reader, writer, Side.READS, [START])
        assert not writer.losses


def test_whom_nobody_introduces_never_comes_in(room: Room) -> None:
    """It learns that it is not authorised; the reader hears nothing of it, and counts it."""
    writer, reader = room.links("writer"), room.links("reader", patience_s=SOON_S)
    writer.links.introduce(reader.links.address)
    writer.send(reader, Side.WRITES, [START])
    loss = room.expect_loss_of(writer, LinkId("reader", Side.WRITES))
    assert "not authorised" in loss.reason
    assert not reader.heard
    room.refused(reader, 1)
    reader.links.introduce(writer.links.address)
    writer.heard.clear()
    room.talk(writer, reader)


def test_the_gateway_is_known_from_the_start(room: Room) -> None:
    """A replica can only be told about others over its control link: the first caller must be known before any Open."""
    gateway = room.links(GATEWAY)
    replica = room.links("replica", gateway.links.address, patience_s=SOON_S)
    gateway.links.introduce(replica.links.address)
    gateway.send(replica, Side.CONTROL, [START])
    room.expect(replica, gateway, Side.CONTROL, [START])
    replica.send(gateway, Side.WRITES, [START])
    gateway.links.introduce(replica.links.address)
    room.expect(gateway, replica, Side.READS, [START])


@pytest.mark.parametrize("keys", [None, KeyPair()], ids=["no key", "unknown key"])
def test_a_stranger_is_refused_and_counted(room: Room, keys: KeyPair | None) -> None:
    """Even one who knows our public key: CURVE without an allowlist would admit it."""
    victim, honest = room.links("victim", patience_s=SOON_S), room.links("honest")
    room.introduce(victim, honest)
    room.talk(honest, victim)
    for number in range(5):
        dealer = room.stranger(victim, keys)
        room.refused(victim, number + 1)
        dealer.close()
    room.talk(honest, victim, 2)
    assert set(victim.heard) == {LinkId("honest", Side.READS)}
    assert victim.links.counters().bad_messages == 0  # type: ignore[attr-defined]


def test_a_known_key_comes_in_only_by_its_own_name(room: Room) -> None:
    """A replica that was taken over must not speak as another one, nor as the Gateway."""
    mallory, honest = KeyPair(), KeyPair()
    victim = room.links("victim", address_of("mallory", mallory), address_of("honest", honest))
    for says, side in (("honest", "writes"), (GATEWAY, "control")):
        dealer = room.stranger(victim, mallory, says, side)
        room.until(lambda dealer=dealer: dealer.poll(0), "an answer")  # type: ignore[misc]
        assert f"the key of mallory was used by {says}" in str(CODEC.decode(dealer.recv_multipart()))
    assert not victim.heard
    room.stranger(victim, honest, "honest")
    room.until(lambda: victim.heard == {LinkId("honest", Side.READS): [START]}, "the honest one")


# ---- whom we call


def test_an_impostor_is_not_talked_to(room: Room) -> None:
    """Who took over an address does not have its key: nothing that we say can be read by it."""
    writer, impostor = room.links("writer"), room.links("reader")
    room.introduce(writer, impostor)
    writer.links.introduce(replace(impostor.links.address, public_key=KeyPair().public))
    writer.send(impostor, Side.WRITES, [START])
    loss = room.expect_loss_of(writer, LinkId("reader", Side.WRITES))
    assert not loss.announced
    assert not impostor.heard


def test_neither_end_can_be_talked_out_of_encryption(room: Room) -> None:
    """An Address without its key does not open a guarded socket; a plain socket does not satisfy an Address with a key."""
    writer, reader = room.links("writer"), room.links("reader")
    room.introduce(writer, reader)
    plain = Peer(ZmqLinks("plain", "tcp://127.0.0.1", LINK_TYPES))
    for address in (
        replace(reader.links.address, public_key=""),
        replace(plain.links.address, public_key=reader.links.address.public_key),
    ):
        link = LinkId(address.name, Side.WRITES)
        writer.links.introduce(address)
        writer.links.send(link, [START])
        room.until(lambda link=link: link in writer.heard, "a loss", [writer, plain])  # type: ignore[misc]
        (loss,) = writer.heard[link]
        assert isinstance(loss, LinkLost)
    plain.poll(0)
    assert not plain.heard
    assert not reader.heard
    plain.links.close(0)


# ---- the gate


def test_a_dead_gate_is_an_error_and_a_shut_door(room: Room) -> None:
    """A replica that can no longer tell friend from stranger must end, and let nobody in meanwhile."""
    keys = KeyPair()
    context: Context = zmq.Context()
    curve = Curve(KeyPair(), (address_of("mallory", keys),))
    victim = Peer(ZmqLinks("victim", "tcp://127.0.0.1", LINK_TYPES, curve=curve, context=context))
    breaker = context.socket(zmq.DEALER)
    breaker.connect(ZAP_ENDPOINT)
    breaker.send_multipart([b"", b"no ZAP"])
    with pytest.raises(LinkError, match=r"the gate of encrypted links failed: a ZAP request of 3 parts"):
        room.until(lambda: False, "the failure of the gate", [victim])
    breaker.close(0)
    room.stranger(victim, keys)

    def refused() -> bool:
        with pytest.raises(LinkError, match="the gate of encrypted links failed"):
            victim.poll(0.01)
        return victim.links.counters().refused_callers > 0  # type: ignore[attr-defined,no-any-return]

    room.until(refused, "one whose key is known to be refused all the same", [room.links("other")])
    assert not victim.heard
    victim.links.close(0)
    context.term()


def test_too_many_who_wait_push_out_the_oldest(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    """Callers that nobody knows must not pile up; those who came last are the likelier to be introduced."""
    victim = room.links("victim", patience_s=60.0)
    keys = KeyPair()
    for _ in range(MOST_WAITING):
        room.stranger(victim, keys)
    room.waiting(victim, MOST_WAITING)
    room.stranger(victim, keys)
    room.refused(victim, 1)
    room.waiting(victim, MOST_WAITING)
    assert caplog.text.count("nobody introduced its key") == 1


def test_closing_does_not_wait_for_those_at_the_gate(room: Room) -> None:
    victim = room.links("victim")
    room.stranger(victim, KeyPair())
    room.waiting(victim, 1)
    room.in_thread(lambda: victim.links.close(0), "close")
    assert "gate" not in {thread.name for thread in threading.enumerate()}


def test_one_context_has_one_gate(room: Room) -> None:
    """Two would answer for each other's callers; the second is told, and leaves nothing behind."""
    context: Context = zmq.Context()
    first = ZmqLinks("first", "tcp://127.0.0.1", LINK_TYPES, curve=Curve(KeyPair()), context=context)

    def census() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = census()
    with pytest.raises(LinkError, match="second cannot bind tcp"):
        ZmqLinks("second", "tcp://127.0.0.1", LINK_TYPES, curve=Curve(KeyPair()), context=context)
    room.until(lambda: census() == before, "what the second had opened to be freed")
    first.close(0)
    ZmqLinks("third", "tcp://127.0.0.1", LINK_TYPES, curve=Curve(KeyPair()), context=context).close(0)
    context.term()


def test_who_is_introduced_must_have_a_name(room: Room) -> None:
    """A key without a name could come in by any."""
    with pytest.raises(FlowControlError, match="a link name of 0 bytes"):
        room.links("victim").links.introduce(address_of("", KeyPair()))


def test_nothing_is_left_open_after_close() -> None:
    """A worker that comes and goes for months must not run out of descriptors or threads."""

    def live_and_die() -> tuple[int, int]:
        with Room() as room:
            writer, reader = room.links("writer"), room.links("reader")
            room.introduce(writer, reader)
            room.talk(writer, reader)
            room.context.destroy(linger=0)
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    first = live_and_die()
    assert [live_and_die() for _ in range(2)] == [first] * 2


# ---- the sockets and the secret


def test_the_options_of_encrypted_sockets(room: Room) -> None:
    """Read back from libzmq. Without an enforced domain, a missing gate would let anybody in."""
    writer, reader = room.links("writer"), room.links("reader")
    room.introduce(writer, reader)
    room.talk(writer, reader)
    bound = reader.links._incoming.socket  # type: ignore[attr-defined]
    opened = writer.links._outgoing[LinkId("reader", Side.WRITES)].socket  # type: ignore[attr-defined]
    assert bound.getsockopt(zmq.MECHANISM) == opened.getsockopt(zmq.MECHANISM) == zmq.CURVE
    assert bound.getsockopt(zmq.CURVE_SERVER) == 1
    assert bound.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
    assert bound.getsockopt_string(zmq.ZAP_DOMAIN).rstrip("\0") == "omni_graph"
    assert bound.getsockopt(zmq.MAXMSGSIZE) == opened.getsockopt(zmq.MAXMSGSIZE) == CODEC.max_part_bytes + 33


def test_the_largest_part_passes(room: Room) -> None:
    """Encryption makes a part larger; at the limit it must not cost the link."""
    gateway = room.links(GATEWAY)
    replica = room.links("replica", gateway.links.address)
    gateway.links.introduce(replica.links.address)
    largest: Frame = Open("request", 1, (), "p" * CODEC.max_part_bytes, 0, 0.0, 1.0)
    gateway.send(replica, Side.CONTROL, [largest])
    room.expect(replica, gateway, Side.CONTROL, [largest])


def test_the_secret_stays_where_it_was_made(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    """In no repr, log or Address; a key pair that is pickled or copied is an error, not a leak."""
    caplog.set_level(logging.DEBUG)
    keys = KeyPair()
    secret = keys._secret.decode()
    victim = room.links("victim", patience_s=SOON_S, keys=keys)
    room.stranger(victim, KeyPair())
    room.refused(victim, 1)
    shown = f"{keys!r} {Curve(keys)!r} {victim.links.address!r} {victim.links!r} {caplog.text}"
    assert keys.public in shown
    assert "nobody introduced its key" in shown
    assert secret not in shown
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="stays in the process"):
            leave(keys)
