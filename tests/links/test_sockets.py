"""ZmqLinks beyond the common contract: its sockets' options, where it may bind, real deaths, frozen wires, counters."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import zmq

from omni_graph.errors import FlowControlError, GraphError, LinkError
from omni_graph.frames import GATEWAY, Address, Credit, Frame, LinkId, LinkLost, Side, Start
from omni_graph.links.counters import LinkCounters
from omni_graph.links.endpoints import bind_endpoints, connect_endpoint
from omni_graph.links.profile import LAN, WAN, Heartbeat, require_libzmq
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES
from tests.links.relay import Relay

DEADLINE_S = 20.0
NEVER = Heartbeat(600_000, 600_000)  # a loss that is seen all the same was told by the connection's end
CHILD = """
import sys
from omni_graph.frames import Address, LinkId, Side, Start, Credit
from omni_graph.links.profile import Heartbeat
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES
links = ZmqLinks("child", sys.argv[1], LINK_TYPES, heartbeat=Heartbeat(600_000, 600_000))
links.introduce(Address("parent", sys.argv[2]))
links.send(LinkId("parent", Side.WRITES), [Start("from the child", 1, 0)])
print(links.address.endpoint, flush=True)
while True:
    for link, frames in links.poll(60):
        if link.side is Side.READS:
            links.send(link, [Credit("from the child", 1, 0, 0, 8)])
"""
MakeLinks = Callable[..., ZmqLinks]


@pytest.fixture(params=["ipc", "tcp"])
def bind(request: pytest.FixtureRequest, short_dir: Path) -> str:
    return f"ipc://{short_dir}" if request.param == "ipc" else "tcp://127.0.0.1"


@pytest.fixture
def make(bind: str) -> Iterator[MakeLinks]:
    """``make(name, **options)``: Links that are closed at the end."""
    made: list[ZmqLinks] = []

    def one(name: str, heartbeat: Heartbeat = NEVER) -> ZmqLinks:
        made.append(ZmqLinks(name, bind, LINK_TYPES, heartbeat=heartbeat))
        return made[-1]

    yield one
    for links in made:
        links.close(0)


def hear(links: ZmqLinks, number: int, *others: ZmqLinks) -> list[tuple[LinkId, Frame | LinkLost]]:
    """Poll until ``number`` events have come; AssertionError at the deadline."""
    heard: list[tuple[LinkId, Frame | LinkLost]] = []
    give_up = time.monotonic() + DEADLINE_S
    while len(heard) < number:
        assert time.monotonic() < give_up, f"not so within {DEADLINE_S} s: heard only {heard}"
        heard += [(link, event) for link, events in links.poll(0.01) for event in events]
        for other in others:
            other.poll(0)
    return heard


def start(number: int = 1) -> Sequence[Frame]:
    return [Start(f"request-{number}", 1, 0)]


# ---- options


def test_the_options_of_every_socket_are_those_of_the_profile(make: MakeLinks, bind: str) -> None:
    """Read back from libzmq: one option left at its default loses messages in silence, or waits for ever."""
    writer, reader = make("writer", WAN), make("reader", LAN)
    writer.introduce(reader.address)
    link = LinkId("reader", Side.WRITES)
    writer.send(link, start())
    for socket, interval, timeout in (
        (reader._incoming.socket, 100, 300),
        (writer._incoming.socket, 1000, 3000),
        (writer._outgoing[link].socket, 1000, 3000),
    ):
        expected = {
            zmq.LINGER: 0,
            zmq.SNDTIMEO: 0,
            zmq.SNDHWM: 0,
            zmq.RCVHWM: 0,
            zmq.RECONNECT_IVL: -1,
            zmq.HANDSHAKE_IVL: 5000,
            zmq.BACKLOG: 128,
            zmq.IPV6: 0,
            zmq.MAXMSGSIZE: 8 << 20,
            zmq.HEARTBEAT_IVL: interval,
            zmq.HEARTBEAT_TIMEOUT: timeout,
            zmq.HEARTBEAT_TTL: timeout,
            **({zmq.TCP_MAXRT: 2 * timeout, zmq.CONNECT_TIMEOUT: 2 * timeout} if bind.startswith("tcp") else {}),
        }
        assert {option: socket.getsockopt(option) for option in expected} == expected


def test_a_router_tells_of_peers_that_are_not_there(make: MakeLinks) -> None:
    """ROUTER_MANDATORY cannot be read back; without it a send to nobody would succeed and vanish."""
    links = make("reader")
    with pytest.raises(zmq.ZMQError, match="Host unreachable"):
        links._incoming.socket.send_multipart([b"nobody", b""])


def test_routing_ids_are_never_used_twice(make: MakeLinks) -> None:
    """Two connections under one id lose every message of the second."""
    writer, reader = make("writer"), make("reader")
    writer.introduce(reader.address)
    link, seen = LinkId("reader", Side.WRITES), set()
    for _ in range(3):
        writer.send(link, start())
        seen.add(writer._outgoing[link].socket.getsockopt(zmq.ROUTING_ID))
        writer.drop(link)
    assert len(seen) == 3


def test_an_old_libzmq_is_refused() -> None:
    """Below 4.3.5 a stranger's bytes can write into our memory."""
    require_libzmq((4, 3, 5))
    with pytest.raises(ImportError, match=r"libzmq 4\.3\.4 is too old; 4\.3\.5"):
        require_libzmq((4, 3, 4))


# ---- where


@pytest.mark.parametrize(
    ("bind", "reason"),
    [
        ("tcp://*", "wildcard"),
        ("tcp://*:5555", "wildcard"),
        ("tcp://0.0.0.0", "a wildcard"),
        ("tcp://224.0.0.1", "a group"),
        ("tcp://255.255.255.255", "a group"),
        ("tcp://10.1.2.3:5555", "beyond loopback"),
        ("tcp://localhost", "no IPv4 address"),
        ("tcp://eth0", "no IPv4 address"),
        ("tcp://[::1]", "expected ipc"),
        ("tcp://127.0.0.1:http", "expected ipc"),
        ("inproc://here", "expected ipc"),
        ("ipc://relative", "absolute directory"),
        ("ipc://@abstract", "absolute directory"),
        ("", "expected ipc"),
        ([], "expected one ipc"),
        (["tcp://127.0.0.1", "tcp://127.0.0.2"], "expected one ipc"),
        (["tcp://127.0.0.1", "tcp://10.1.2.3"], "expected one ipc"),
    ],
)
def test_an_unsafe_address_is_refused(bind: str | list[str], reason: str) -> None:
    """The bug of this field: sockets that take orders, bound to every interface."""
    with pytest.raises(GraphError, match=reason):
        ZmqLinks("reader", bind, LINK_TYPES)


def test_an_ipc_directory_is_made_private_and_must_be(short_dir: Path) -> None:
    """Whoever may enter the directory may send us frames."""
    made = short_dir / "made"
    (endpoint,) = bind_endpoints(f"ipc://{made}")
    assert made.stat().st_mode & 0o777 == 0o700
    assert Path(endpoint.removeprefix("ipc://")).parent == made
    made.chmod(0o750)
    with pytest.raises(GraphError, match="mode 0750; it must be 0700"):
        bind_endpoints(f"ipc://{made}")
    made.chmod(0o700)
    (short_dir / "link").symlink_to(made)
    with pytest.raises(GraphError, match="not a directory of its own"):
        bind_endpoints(f"ipc://{short_dir / 'link'}")
    with pytest.raises(GraphError, match="longer than the 107 bytes"):
        bind_endpoints(f"ipc://{short_dir / ('x' * 100)}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_an_ipc_directory_of_another_user_is_refused(short_dir: Path) -> None:
    (short_dir / "theirs").mkdir(mode=0o700)
    os.chown(short_dir / "theirs", 12345, -1)
    with pytest.raises(GraphError, match="belongs to user 12345"):
        bind_endpoints(f"ipc://{short_dir / 'theirs'}")


def test_tcp_listens_on_exactly_the_address_given() -> None:
    """Read from the kernel, not from ourselves."""
    links = ZmqLinks("reader", "tcp://127.0.0.5", LINK_TYPES)
    port = int(links.address.endpoint.rsplit(":", 1)[1])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
    assert [local for local in listening if int(local.split(":")[1], 16) == port] == [f"0500007F:{port:04X}"]
    links.close(0)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (Address("far", "tcp://10.1.2.3:5555"), "beyond loopback"),
        (Address("far", "tcp://127.0.0.1:5555", "key"), "a public key of 3 characters"),
        (Address("far", "tcp://127.0.0.1:5555", "k" * 40), "asks for CURVE, and these links have no key pair"),
        (Address("far", "tcp://0.0.0.0:5555", "k" * 40), "a wildcard"),
        (Address("far", "ipc:///gone/a.sock tcp://10.1.2.3:5555 host:0123456789abcdef"), "beyond loopback"),
        (Address("far", "ipc://relative"), "no absolute path"),
        (Address("far", "udp://127.0.0.1:1"), "expected ipc"),
    ],
)
def test_no_link_is_opened_to_an_unsafe_address(address: Address, reason: str, short_dir: Path) -> None:
    """A loss with the reason; never a link in the clear."""
    with pytest.raises(LinkError, match=re.escape(reason)):
        connect_endpoint(address)
    links = ZmqLinks("writer", f"ipc://{short_dir}", LINK_TYPES)
    links.introduce(address)
    links.send(LinkId("far", Side.WRITES), start())
    ((_, (loss,)),) = links.poll(0)
    assert isinstance(loss, LinkLost)
    assert reason in loss.reason
    links.close(0)


def test_two_cannot_bind_one_address(short_dir: Path) -> None:
    first = ZmqLinks("first", "tcp://127.0.0.1", LINK_TYPES)
    with pytest.raises(LinkError, match="second cannot bind tcp"):
        ZmqLinks("second", first.address.endpoint, LINK_TYPES)
    first.close(0)


def test_names_that_cannot_be_told_apart_on_the_wire_are_refused(short_dir: Path) -> None:
    for name in ("", "a|b", "x" * 101):
        with pytest.raises(FlowControlError, match="a link name of"):
            ZmqLinks(name, f"ipc://{short_dir}", LINK_TYPES)


# ---- ends


@pytest.mark.parametrize("round_", range(3))
def test_a_killed_process_is_lost_on_every_link(make: MakeLinks, bind: str, round_: int) -> None:
    """SIGKILL, no heartbeat: the end of the connection alone tells both the link it opened and the link we opened."""
    parent = make("parent")
    command = [sys.executable, "-c", CHILD, bind, parent.address.endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            told = select.select([child.stdout], [], [], DEADLINE_S)[0]
            assert told, f"not so within {DEADLINE_S} s: the child starts"
            parent.introduce(Address("child", child.stdout.readline().strip()))
            parent.send(LinkId("child", Side.WRITES), start())
            heard = {link: event for link, event in hear(parent, 2)}
            assert heard == {
                LinkId("child", Side.READS): Start("from the child", 1, 0),
                LinkId("child", Side.WRITES): Credit("from the child", 1, 0, 0, 8),
            }
        finally:
            child.send_signal(signal.SIGKILL)
    losses = hear(parent, 2)
    assert {link for link, _ in losses} == set(heard)
    assert all(isinstance(loss, LinkLost) and not loss.announced and "child" in loss.reason for _, loss in losses)


def test_a_frozen_wire_is_lost_by_heartbeat(make: MakeLinks) -> None:
    """No end of the connection is seen when a host loses its power; only silence tells."""
    writer, reader = make("writer", LAN), make("reader", LAN)
    relay = Relay(reader.address.endpoint)
    writer.introduce(Address("reader", relay.endpoint))
    writer.send(LinkId("reader", Side.WRITES), start())
    assert hear(reader, 1, writer) == [(LinkId("writer", Side.READS), start()[0])]
    relay.freeze()
    ((_, at_reader),) = hear(reader, 1)
    ((_, at_writer),) = hear(writer, 1)
    assert isinstance(at_reader, LinkLost)
    assert isinstance(at_writer, LinkLost)
    writer.close(0)
    relay.close()


def test_close_is_bounded_when_the_peer_is_frozen(make: MakeLinks) -> None:
    """A drain waits for a peer that reads, never for one that does not."""
    writer, reader = make("writer"), make("reader")
    relay = Relay(reader.address.endpoint)
    writer.introduce(Address("reader", relay.endpoint))
    writer.send(LinkId("reader", Side.WRITES), start())
    hear(reader, 1, writer)
    relay.freeze()
    writer.close(0.05)
    reader.close(0.05)
    relay.close()


def test_the_ipc_file_is_gone_after_close(short_dir: Path) -> None:
    links = ZmqLinks("reader", f"ipc://{short_dir}", LINK_TYPES)
    assert len(list(short_dir.iterdir())) == 1
    links.close(0)
    links.close(0)
    assert not list(short_dir.iterdir())


def test_nothing_is_left_open_after_close(make: MakeLinks) -> None:
    """A worker that comes and goes for months must not run out of descriptors."""

    def live_and_die() -> int:
        writer, reader = make("writer"), make("reader")
        writer.introduce(reader.address)
        for _ in range(3):
            writer.send(LinkId("reader", Side.WRITES), start())
            hear(reader, 1, writer)
            writer.drop(LinkId("reader", Side.WRITES))
            hear(reader, 1)
        writer.close(0)
        reader.close(0)
        return len(os.listdir("/proc/self/fd"))

    first = live_and_die()
    assert [live_and_die() for _ in range(3)] == [first] * 3


def test_a_shared_context_outlives_the_links_in_it(short_dir: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    ZmqLinks("reader", f"ipc://{short_dir}", LINK_TYPES, context=context).close(0)
    assert not context.closed
    context.term()


def test_sending_after_close_is_our_callers_error(make: MakeLinks) -> None:
    links = make("writer")
    links.close(0)
    assert links.poll(60) == []
    links.wake()
    with pytest.raises(FlowControlError, match="closed"):
        links.send(LinkId("reader", Side.WRITES), start())


def test_an_illegal_frame_is_refused_at_the_sender_and_costs_no_link(make: MakeLinks) -> None:
    writer, reader = make("writer"), make("reader")
    writer.introduce(reader.address)
    with pytest.raises(FlowControlError, match="edge int 99"):
        writer.send(LinkId("reader", Side.WRITES), [*start(), Start("r", 1, 99)])
    writer.send(LinkId("reader", Side.WRITES), start(2))
    assert hear(reader, 1, writer) == [(LinkId("writer", Side.READS), start(2)[0])]


def test_only_the_gateway_opens_control_links(make: MakeLinks) -> None:
    """A replica whose control link is gone must not make one to the Gateway: it comes back as a new life."""
    gateway, replica = make(GATEWAY), make("replica")
    gateway.introduce(replica.address)
    replica.introduce(gateway.address)
    replica.send(LinkId(GATEWAY, Side.CONTROL), start())
    assert replica.counters() == LinkCounters(dropped=1)
    gateway.send(LinkId("replica", Side.CONTROL), start())
    assert hear(replica, 1, gateway) == [(LinkId(GATEWAY, Side.CONTROL), start()[0])]


def test_the_counters_count(make: MakeLinks) -> None:
    writer, reader = make("writer"), make("reader")
    writer.introduce(reader.address)
    writer.send(LinkId("reader", Side.WRITES), [*start(1), *start(2)])
    hear(reader, 2, writer)
    sent, received = writer.counters(), reader.counters()
    assert (sent.messages_sent, sent.frames_sent) == (2, 2)  # a Hello, and both frames in one message
    assert (received.messages_received, received.frames_received) == (2, 2)
    assert sent.bytes_sent == received.bytes_received > 0
    assert (sent.dropped, sent.bad_messages) == (0, 0)
