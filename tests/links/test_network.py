"""Two hosts, as two network namespaces with two cables between them: encryption, cuts, strangers, and what listens where.

Needs root, iproute2 and unshare; skipped, with the reason, where namespaces cannot be made.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE, THERE = "10.203.7.1", "10.203.7.2"
CABLES = ("first", "second")
HERE_TOO, THERE_TOO = "10.203.8.1", "10.203.8.2"
FAR = Path(__file__).with_name("far.py")
DEADLINE_S = 20.0
OWN_FOLDER = 'mount -t tmpfs -o mode=0700 none "$0" && exec "$@"'  # a host has its own files, also at the same path
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


class Host:
    """A network namespace, and commands in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")

    def inside(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    def python(self, code: str, *arguments: str) -> str:
        """What a Python program prints there."""
        command = self.inside(sys.executable, "-c", code, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        return (done.stdout + done.stderr).strip()

    def link(self, state: str) -> None:
        """Pull both cables out at this end, or plug them in."""
        for device in CABLES:
            ip("-n", self.name, "link", "set", device, state)

    def mute(self, address: str) -> None:
        """Nothing that this host sends to an address gets there any more; what comes from there still arrives."""
        ip("-n", self.name, "route", "add", "blackhole", f"{address}/32")

    def unmute(self, address: str) -> None:
        ip("-n", self.name, "route", "del", "blackhole", f"{address}/32")

    def is_up(self) -> bool:
        """Do both cables carry packets? The kernel says so some time after they were plugged in."""
        seen = {each["ifname"]: each["operstate"] for each in json.loads(ip("-n", self.name, "-j", "link", "show"))}
        return all(seen[device] == "UP" for device in CABLES)

    def close(self) -> None:
        ip("netns", "del", self.name)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Process:
    """``far.py`` on a host."""

    def __init__(self, host: Host, name: str, address: str, folder: Path, patience_s: float = 4.0) -> None:
        far = [sys.executable, str(FAR), name, str(patience_s), f"tcp://{address}", f"ipc://{folder}"]
        command = host.inside("unshare", "--mount", "sh", "-c", OWN_FOLDER, str(folder), *far)
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lines: queue.Queue[list[str]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.pid = self._child.pid
        self.heard: list[list[str]] = []
        self.name = name
        what, *self.address = self._lines.get(timeout=DEADLINE_S)
        assert what == "address"
        self.tcp = self.address[1].split(" ")[1]

    def order(self, *words: str) -> None:
        assert self._child.stdin is not None
        print(json.dumps(words), file=self._child.stdin, flush=True)

    def hears(self, *words: str) -> list[str]:
        """The next line it tells, which begins with these words."""
        line = self._lines.get(timeout=DEADLINE_S)
        assert line[: len(words)] == list(words)
        return line[len(words) :]

    def close(self) -> None:
        """It ends by itself once told to; its last lines must have been expected."""
        self.order("close")
        assert self._child.wait(DEADLINE_S) == 0
        self._reader.join(DEADLINE_S)
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.stdout.close()

    def kill(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._lines.put(json.loads(line))


class Network:
    """Two hosts, ``here`` and ``there``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[Process] = []
        self.here, self.there = Host(f"og-{os.getpid()}-here"), Host(f"og-{os.getpid()}-there")
        for device, ours, theirs in zip(CABLES, (HERE, HERE_TOO), (THERE, THERE_TOO)):
            ip("link", "add", device, "netns", self.here.name, "type", "veth", "peer", device, "netns", self.there.name)
            ip("-n", self.here.name, "address", "add", f"{ours}/24", "dev", device)
            ip("-n", self.there.name, "address", "add", f"{theirs}/24", "dev", device)
        self.there.link("up")
        self.plug()

    def plug(self) -> None:
        """Both cables, and wait until they carry packets."""
        self.here.link("up")
        give_up = time.monotonic() + DEADLINE_S
        while not (self.here.is_up() and self.there.is_up()):
            assert time.monotonic() < give_up, "the cables do not come up"

    def process(self, host: Host, name: str, patience_s: float = 4.0) -> Process:
        made = Process(host, name, HERE if host is self.here else THERE, self._folder, patience_s)
        self._processes.append(made)
        return made

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        self.here.close()
        self.there.close()


@pytest.fixture
def network(short_dir: Path) -> Iterator[Network]:
    reason = obstacle()
    if reason:
        pytest.skip(f"network namespaces cannot be made here: {reason}")
    made = Network(short_dir)
    yield made
    made.close()


def obstacle() -> str:
    missing = [tool for tool in ("ip", "unshare", "mount") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        return f"no {', '.join(missing)}" if missing else "not root"
    probe = f"og-{os.getpid()}-probe"
    cable = f"link add one netns {probe} type veth peer two netns {probe}"
    for command in (f"ip netns add {probe}", f"ip {cable}", "unshare --mount true", f"ip netns del {probe}"):
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{command}: {done.stderr.strip()}"
    return ""


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
