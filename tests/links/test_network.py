"""Two hosts, as two network namespaces with two cables between them: encryption, cuts, strangers, and what listens where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.links.network import HERE, HERE_TOO, THERE, THERE_TOO, Network
from tests.links.network import network as network  # a fixture

STRANGER = """
import contextlib, sys, zmq
from omni_graph.frames import PROTOCOL_VERSION, Hello
from omni_graph.links.codec import Codec
from omni_graph.links.keys import KeyPair
dealer = zmq.Context().socket(zmq.DEALER)
dealer.setsockopt(zmq.RECONNECT_IVL, -1)
dealer.setsockopt(zmq.SNDTIMEO, 0)
dealer.setsockopt(zmq.ROUTING_ID, b"writes|1|mallory|reader")
dealer.setsockopt(zmq.MAXMSGSIZE, 1 << 20)
if len(sys.argv) == 3:
    KeyPair().call(dealer, sys.argv[2])
monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
dealer.connect(sys.argv[1])
with contextlib.suppress(zmq.Again):  # refused already
    dealer.send_multipart(Codec({}).encode([Hello(PROTOCOL_VERSION, "", "mallory")])[0])
monitor.recv_multipart()
print("answered" if dealer.poll(0) else "refused")
dealer.disable_monitor()
dealer.close(0)
"""


def test_a_cut_cable_is_a_loss_at_both_ends_and_nothing_resumes(network: Network) -> None:
    """Silence alone tells, since a pulled cable ends no connection; what was said in vain never arrives later."""
    writer, reader = network.process(network.here, "writer"), network.process(network.there, "reader")
    writer.order("introduce", *reader.address)
    writer.order("send", "reader", "request-1")
    reader.order("introduce", *writer.address)
    assert reader.hears("Start", "writer", "reads") == ["request-1"]
    assert writer.hears("Credit", "reader", "writes") == ["request-1"]
    for turn in (2, 3):
        network.here.link("down")
        writer.order("send_on", "reader", "in vain")
        reader.hears("lost", "writer", "reads")
        writer.hears("lost", "reader", "writes")
        network.plug()
        writer.order("send", "reader", f"request-{turn}")
        assert reader.hears("Start", "writer", "reads") == [f"request-{turn}"]
        assert writer.hears("Credit", "reader", "writes") == [f"request-{turn}"]
    writer.close()
    assert "closing" in reader.hears("lost", "writer", "reads")[0]
    reader.close()


@pytest.mark.parametrize("mute", ["writer", "reader"])
def test_a_cut_in_one_direction_is_a_loss_at_both_ends_and_nothing_resumes(mute: str, network: Network) -> None:
    """The end that hears nothing more ends the link, and that still reaches the other, or its own silence tells."""
    writer, reader = network.process(network.here, "writer"), network.process(network.there, "reader")
    host, deaf = (network.here, THERE) if mute == "writer" else (network.there, HERE)
    writer.order("introduce", *reader.address)
    reader.order("introduce", *writer.address)
    for turn in (1, 2, 3):
        writer.order("send", "reader", f"request-{turn}")
        assert reader.hears("Start", "writer", "reads") == [f"request-{turn}"]
        assert writer.hears("Credit", "reader", "writes") == [f"request-{turn}"]
        host.mute(deaf)
        if mute == "writer":
            writer.order("send_on", "reader", "in vain")
        reader.hears("lost", "writer", "reads")
        writer.hears("lost", "reader", "writes")
        host.unmute(deaf)
    writer.close()
    reader.close()


def test_strangers_on_the_network_are_refused(network: Network) -> None:
    """Whoever can reach the port, and even knows our public key, is not heard."""
    reader = network.process(network.there, "reader", patience_s=0.01)
    for key in ([], [reader.address[2]]):
        assert network.here.python(STRANGER, reader.tcp, *key) == "refused"
    reader.order("count")
    assert reader.hears("counters") == ["2", "0"]
    reader.close()


def test_a_replica_listens_on_one_address_and_nothing_else(network: Network) -> None:
    """Read from the kernel: one tcp socket on one interface; no other, of any protocol, on any."""
    reader = network.process(network.there, "reader")
    host, port = reader.tcp.removeprefix("tcp://").split(":")
    assert host == THERE
    reversed_host = "".join(f"{int(part):02X}" for part in reversed(host.split(".")))
    found = {
        protocol: [
            line.split()[1]
            for line in Path(f"/proc/{reader.pid}/net/{protocol}").read_text().splitlines()[1:]
            if protocol[:3] != "tcp" or line.split()[3] == "0A"
        ]
        for protocol in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
    }
    assert found == {
        "tcp": [f"{reversed_host}:{int(port):04X}"], "tcp6": [], "udp": [], "udp6": [], "raw": [], "raw6": []
    }  # fmt: skip
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
    assert "Connection refused" in network.here.python(code, THERE_TOO, port)
    assert network.here.python(code, THERE, port) == ""
    reader.close()


def test_the_address_toward_a_peer_is_that_of_the_interface_in_use(network: Network) -> None:
    """With two cables, a launcher must bind to the one that the peer is on."""
    code = "import sys; from omni_graph.links.interfaces import address_toward as a; print(a(sys.argv[1]))"
    assert network.here.python(code, THERE) == HERE
    assert network.here.python(code, THERE_TOO) == HERE_TOO
    assert network.there.python(code, HERE_TOO) == THERE_TOO
    assert "no route from here to 192.0.2.1: Network is unreachable" in network.here.python(code, "192.0.2.1")
