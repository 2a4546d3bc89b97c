"""The gate of encrypted links: it cannot fail open, pile up callers, or outlive its links."""

from __future__ import annotations

import os
import threading

import pytest
import zmq

from omni_graph.errors import FlowControlError, LinkError
from omni_graph.links.gate import MOST_WAITING, ZAP_ENDPOINT
from omni_graph.links.keys import Curve, KeyPair
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES
from omni_graph.testing.link_bench import Peer
from tests.links.room import Context, Room, address_of


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
