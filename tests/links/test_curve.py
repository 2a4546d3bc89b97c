"""Encrypted links: who may connect, from when on, as whom; whom we call; and that the secret stays where it was made."""

from __future__ import annotations

import copy
import logging
import pickle
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import zmq

from omni_graph.frames import (
    GATEWAY,
    Frame,
    LinkId,
    LinkLost,
    Open,
    Side,
    Start,
)
from omni_graph.links.keys import Curve, KeyPair
from omni_graph.links.profile import Heartbeat
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES
from omni_graph.testing.link_bench import Bench, Peer
from tests.links.relay import Relay
from tests.links.room import CODEC, SOON_S, START, Room, address_of

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
