"""A live ZmqLinks and strangers with raw sockets: hundreds of bad messages end their own links and nothing else."""

from __future__ import annotations

import contextlib
import pickle
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from omni_graph.frames import PROTOCOL_VERSION, Address, Credit, Frame, Hello, LinkId, LinkLost, Side, Start
from omni_graph.links.codec import Codec
from omni_graph.links.keys import Curve, KeyPair
from omni_graph.links.parts import MAX_HEADER_BYTES, MAX_PARTS
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES
from omni_graph.testing.link_samples import CONTROL_FRAMES, EDGE_FRAMES

DEADLINE_S = 20.0
VERY_MANY = 200_000
GROWN_BYTES = 16 << 20  # what hostile messages may leave behind
CODEC = Codec(LINK_TYPES)
LEGAL = [[bytes(part) for part in message] for f in [*EDGE_FRAMES, *CONTROL_FRAMES] for message in CODEC.encode([f])]
HELLO = [bytes(part) for part in CODEC.encode([Hello(PROTOCOL_VERSION, "", "mallory")])[0]]
Heard = dict[LinkId, list[Frame | LinkLost]]


class Scene:
    """A victim, an honest peer that keeps talking to it, and strangers. With ``keys`` mallory is one who was introduced."""

    def __init__(self, bind: str, keys: KeyPair | None) -> None:
        self.keys = keys
        self.victim = self._links("victim", bind)
        self.honest = self._links("honest", bind)
        self.honest.introduce(self.victim.address)
        self.victim.introduce(self.honest.address)
        if keys is not None:
            self.victim.introduce(Address("mallory", "ipc:///nowhere", keys.public))
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.heard: Heard = {}
        self._turn = 0

    def _links(self, name: str, bind: str) -> ZmqLinks:
        return ZmqLinks(name, bind, LINK_TYPES, curve=Curve(KeyPair()) if self.keys else None)

    def stranger(self, routing_id: bytes | None = None) -> zmq.Socket[bytes]:
        dealer = self.context.socket(zmq.DEALER)
        dealer.linger = 0
        dealer.setsockopt(zmq.SNDTIMEO, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        if routing_id is not None:
            dealer.setsockopt(zmq.ROUTING_ID, routing_id)
        if self.keys is not None:
            dealer.setsockopt(zmq.MAXMSGSIZE, CODEC.max_part_bytes)
            self.keys.call(dealer, self.victim.address.public_key)
        dealer.connect(self.victim.address.endpoint)
        return dealer

    def mallory(self, number: int) -> zmq.Socket[bytes]:
        """A stranger who has said a proper Hello."""
        dealer = self.stranger(f"writes|{number}|mallory|victim".encode())
        dealer.send_multipart(HELLO)
        return dealer

    def until(self, holds: Callable[[], bool]) -> None:
        give_up = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < give_up, f"heard {self.heard}"
            for link, events in self.victim.poll(0.01):
                self.heard.setdefault(link, []).extend(events)

    def honest_link_works(self) -> None:
        """There and back, and never a loss."""
        self._turn += 1
        there, back = Start(f"turn-{self._turn}", 1, 0), Credit(f"turn-{self._turn}", 1, 0, 0, 1)
        self.honest.send(LinkId("victim", Side.WRITES), [there])
        mine = LinkId("honest", Side.READS)
        self.until(lambda: len(self.heard.get(mine, ())) == self._turn)
        assert self.heard[mine][-1] == there
        self.victim.send(mine, [back])
        assert self._honest_hears() == [(LinkId("victim", Side.WRITES), [back])]

    def _honest_hears(self) -> list[tuple[LinkId, list[Frame | LinkLost]]]:
        give_up = time.monotonic() + DEADLINE_S
        while time.monotonic() < give_up:
            if arrived := self.honest.poll(0.01):
                return [(link, list(events)) for link, events in arrived]
        raise AssertionError("the honest peer was not answered")

    def close(self) -> None:
        self.honest.close(0)
        self.victim.close(0)
        self.context.destroy(linger=0)


@pytest.fixture(params=["ipc", "tcp with CURVE"])
def scene(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Scene]:
    made = Scene(f"ipc://{short_dir}", None) if request.param == "ipc" else Scene("tcp://127.0.0.1", KeyPair())
    yield made
    made.close()


def bad_message(chance: random.Random) -> list[bytes]:
    """One message that the codec refuses."""
    header, *parts = chance.choice(LEGAL)
    place = chance.randrange(1, len(header))
    return chance.choice(
        [
            [chance.randbytes(chance.randint(1, 60))],
            [header[:place], *parts],
            [header, *parts, b"one part too many"],
            [pickle.dumps({"a": [1, 2]}, chance.randint(0, pickle.HIGHEST_PROTOCOL))],
            [header + b"\xc0", *parts],
            [msgpack.packb([[chance.randint(15, 99), "r", 1, 0]])],
            [b"\xdd\x00\x00\xff\x00" + b"\x80" * 65_280],
            [b"\x91" * (MAX_HEADER_BYTES + chance.randint(1, 9))],
            [header, *[b""] * (MAX_PARTS + chance.randint(1, 300))],
            HELLO,
        ]
    )


def raw_connection(endpoint: str) -> socket.socket:
    if endpoint.startswith("tcp://"):
        host, port = endpoint.removeprefix("tcp://").split(":")
        return socket.create_connection((host, int(port)))
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(endpoint.removeprefix("ipc://"))
    return raw


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_bad_messages_end_the_links_of_who_sent_them(scene: Scene) -> None:
    """600 strangers: each link ends once, with an error that names the peer; the honest link goes on; memory stays."""
    chance = random.Random(11)
    mine = LinkId("mallory", Side.READS)
    scene.honest_link_works()
    before = resident_bytes()
    for number in range(600):
        dealer = scene.mallory(number)
        dealer.send_multipart(bad_message(chance))
        dealer.send_multipart(chance.choice(LEGAL))  # what follows a bad message is not heard
        scene.until(lambda number=number: len(scene.heard.get(mine, ())) > number)  # type: ignore[misc]
        dealer.close()
        if number % 100 == 0:
            scene.honest_link_works()
    losses = scene.heard[mine]
    assert len(losses) == 600
    assert all(isinstance(loss, LinkLost) and "mallory" in loss.reason and not loss.announced for loss in losses)
    assert scene.victim.counters().bad_messages == 600
    assert resident_bytes() - before < GROWN_BYTES
    scene.honest_link_works()
    assert set(scene.heard) == {mine, LinkId("honest", Side.READS)}


def test_a_message_of_very_many_parts_costs_its_link_and_leaves_nothing(scene: Scene) -> None:
    """Whoever sends it is refused; the honest link goes on. Its sender's memory is ours here, so what is left is counted,
    but for what the first message leaves in the allocator: four more leave nothing."""
    mine = LinkId("mallory", Side.READS)
    scene.honest_link_works()
    before = 0
    for number in range(5):
        dealer = scene.mallory(number)
        dealer.send_multipart([LEGAL[0][0], *[b""] * VERY_MANY])
        scene.until(lambda number=number: len(scene.heard.get(mine, ())) > number)  # type: ignore[misc]
        dealer.close()
        scene.honest_link_works()
        before = before or resident_bytes()
    assert all(f"parts; allowed: 1 to {MAX_PARTS + 1}" in str(loss) for loss in scene.heard[mine])
    assert scene.victim.counters().bad_messages == 5
    scene.until(lambda: resident_bytes() - before < GROWN_BYTES)  # libzmq frees it in threads of its own


def test_a_stranger_is_told_why(scene: Scene) -> None:
    """Its own logs must say what was wrong with what it sent."""
    dealer = scene.mallory(0)
    dealer.send_multipart([b"nonsense"])
    scene.until(lambda: bool(scene.heard))
    (greeting,) = CODEC.decode(dealer.recv_multipart())
    assert greeting == Hello(PROTOCOL_VERSION, "", "victim")
    assert "refused mallory: a header that is not msgpack" in str(CODEC.decode(dealer.recv_multipart()))


@pytest.mark.parametrize(
    ("routing_id", "message", "reason"),
    [
        (None, HELLO, "routing id"),
        (b"nonsense", HELLO, "routing id"),
        (b"reads|1|mallory|victim", HELLO, "may not open a link as reads"),
        (b"control|1|mallory|victim", HELLO, "may not open a link as control"),
        (b"writes|1|honest|victim", HELLO, "may not open a link as writes of honest"),
        (b"writes|1|mallory|other", HELLO, "other expected, victim found"),
        (b"writes|1|mallory|victim", LEGAL[0], "Start before Hello"),
        (b"writes|1|mallory|victim", [b"nonsense"], "not msgpack"),
        (b"writes|1|mallory|victim", CODEC.encode([Hello(9, "", "mallory")])[0], "version 1 at victim, 9 at mallory"),
        (
            b"writes|1|mallory|victim",
            CODEC.encode([Hello(1, "x", "mallory")])[0],
            "wiring '' at victim, 'x' at mallory",
        ),
    ],
)
def test_who_may_not_come_in_is_never_heard(
    scene: Scene, routing_id: bytes | None, message: list[bytes], reason: str
) -> None:
    """No link is made, so there is none to lose: a stranger cannot end an honest peer's link by taking its name."""
    scene.honest_link_works()
    dealer = scene.stranger(routing_id)
    dealer.send_multipart(message)
    dealer.send_multipart(LEGAL[0])
    scene.until(lambda: scene.victim.counters().dropped == 1)
    assert reason in str(CODEC.decode(dealer.recv_multipart()))
    assert set(scene.heard) == {LinkId("honest", Side.READS)}
    assert scene.victim.counters().bad_messages == 1
    scene.honest_link_works()


def test_a_part_over_the_limit_never_reaches_us(scene: Scene) -> None:
    """libzmq ends the connection before it allocates; to us it is a lost link."""
    dealer = scene.mallory(0)
    dealer.send_multipart([b"", b"x" * (CODEC.max_part_bytes + 1)])
    scene.until(lambda: LinkId("mallory", Side.READS) in scene.heard)
    assert "mallory" in str(scene.heard[LinkId("mallory", Side.READS)])
    scene.honest_link_works()


@pytest.mark.parametrize("scene", ["tcp with CURVE"], indirect=True)
def test_no_message_of_a_stranger_passes_encryption(scene: Scene) -> None:
    """Well-formed ZMTP, well-formed frames, no key: what a plain socket would hear, a guarded one never does."""
    scene.honest_link_works()
    received = scene.victim.counters().messages_received
    scene.keys = None
    for number in range(200):
        dealer = scene.stranger(f"writes|{number}|mallory|victim".encode())
        with contextlib.suppress(zmq.Again):  # it may be refused by now
            dealer.send_multipart(HELLO)
            dealer.send_multipart(LEGAL[number % len(LEGAL)])
        scene.until(lambda number=number: scene.victim.counters().refused_callers > number)  # type: ignore[misc]
        dealer.close()
    assert scene.victim.counters().messages_received == received
    assert scene.victim.counters().refused_callers == 200
    scene.honest_link_works()


def test_bytes_that_are_no_zmq_are_not_heard(scene: Scene) -> None:
    """500 raw connections full of noise, left in the middle: nothing is heard, nobody honest is lost."""
    chance = random.Random(13)
    for number in range(500):
        with raw_connection(scene.victim.address.endpoint) as raw:
            raw.send(chance.randbytes(chance.randint(1, 200)))
        if number % 50 == 0:
            scene.honest_link_works()
    scene.honest_link_works()
    assert set(scene.heard) == {LinkId("honest", Side.READS)}


def test_a_peer_that_answers_nonsense_is_lost(scene: Scene) -> None:
    """The other direction: whom we call is trusted no more than who calls."""
    for number, answer in enumerate(([b"nonsense"], LEGAL[0], HELLO)):
        router = scene.context.socket(zmq.ROUTER)
        router.bind("tcp://127.0.0.1:*")
        link = LinkId(f"fake-{number}", Side.WRITES)
        scene.victim.introduce(Address(link.peer, router.getsockopt_string(zmq.LAST_ENDPOINT)))
        scene.victim.send(link, [Start("r", 1, 0)])
        routing_id, *_ = router.recv_multipart()
        router.send_multipart([routing_id, *answer])
        scene.until(lambda link=link: link in scene.heard)  # type: ignore[misc]
        (loss,) = scene.heard[link]
        assert isinstance(loss, LinkLost)
        assert link.peer in loss.reason
    assert scene.victim.counters().bad_messages == 3
    scene.honest_link_works()


def test_a_peer_that_calls_anew_replaces_its_older_link(scene: Scene) -> None:
    """A restart that is seen before the old connection's end: the old link is lost first, and never speaks again."""
    old, new = scene.mallory(1), None
    old.send_multipart(LEGAL[0])
    mine = LinkId("mallory", Side.READS)
    scene.until(lambda: len(scene.heard.get(mine, ())) == 1)
    new = scene.mallory(2)
    scene.until(lambda: len(scene.heard[mine]) == 2)
    old.send_multipart(LEGAL[1])
    scene.until(lambda: scene.victim.counters().dropped == 1)
    new.send_multipart(LEGAL[0])
    scene.until(lambda: len(scene.heard[mine]) == 3)
    assert scene.heard[mine] == [EDGE_FRAMES[0], LinkLost("mallory opened the link anew"), EDGE_FRAMES[0]]
