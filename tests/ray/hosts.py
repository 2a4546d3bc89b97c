"""Two hosts for Ray: this network namespace, and another behind one cable, with processes and temporary files of its own.

Needs root, iproute2 and util-linux. Either has the head of the cluster, the other a second node; both ask for a token.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray._private import services

from omni_graph.graph import Graph
from omni_graph.plan import make_plan
from omni_graph.runtime.app import App
from omni_graph.runtime.deployment import Deployment
from omni_graph.runtime.ray_cluster import RayCluster
from omni_graph.runtime.ray_launcher import RayLauncher
from omni_graph.spec import DeploySpec
from tests.runtime.graphs import eventually

NETWORK = f"10.203.{16 + os.getpid() % 224}"  # so that two runs on one machine do not meet
HERE, THERE, BITS = f"{NETWORK}.1", f"{NETWORK}.2", 24
DEVICE = f"og{os.getpid()}"  # this end of the cable
ALL_PROTOCOLS, SO_RCVBUFFORCE = 3, 33  # packet(7), socket(7); Python does not name them
START_S, END_S = 60.0, 20.0
FIND_NODE = services.get_node_to_connect_for_driver
# a host has its own files, also at the same path; the token comes by hand
OWN_FOLDER = 'mount -t tmpfs -o mode=0700 none "$0" && umask 077 && cat > "$0/token" && exec "$@"'
START = ("start", "--block", "--num-cpus=2", f"--object-store-memory={80 << 20}", "--disable-usage-stats")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=END_S)


def obstacle() -> str:
    """Why no second host can be made here; empty when one can."""
    missing = [tool for tool in ("ip", "unshare", "mount", "ray") if _which(tool) is None]
    if missing or os.geteuid() != 0:
        return f"no {', '.join(missing)}" if missing else "not root"
    try:
        with cable(f"og-{os.getpid()}-probe"):
            isolated = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "true"]
            subprocess.run(isolated, capture_output=True, text=True, timeout=END_S, check=True)
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {error.stderr.strip()}"
    return ""


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@contextmanager
def cable(namespace: str) -> Iterator[None]:
    """A new network namespace, joined to this one by a veth pair; both go together."""
    with ExitStack() as stack:
        ip("netns", "add", namespace)
        stack.callback(ip, "netns", "del", namespace)
        ip("link", "add", DEVICE, "type", "veth", "peer", "name", "cable", "netns", namespace)
        stack.callback(ip, "link", "del", DEVICE)  # at once; with its namespace it would go some time later
        ip("address", "add", f"{HERE}/{BITS}", "dev", DEVICE)
        ip("-n", namespace, "address", "add", f"{THERE}/{BITS}", "dev", "cable")
        ip("link", "set", DEVICE, "up")
        for device in ("lo", "cable"):
            ip("-n", namespace, "link", "set", device, "up")
        yield


class TwoHosts:
    """A Ray cluster over both hosts; ``address`` of its head. Nodes have the label ``pool``: ``here`` or ``there``."""

    def __init__(self, folder: Path, namespace: str, head: str = HERE) -> None:
        self._folder, self._namespace, self._head = folder, namespace, head
        self._ray = str(_which("ray"))
        self._token = folder / "token"
        self._token.write_text(secrets.token_hex(32))
        self._token.chmod(0o600)
        with socket.socket() as probe:
            probe.bind((HERE, 0))
            self.address = f"{head}:{probe.getsockname()[1]}"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Both nodes, the head first; returns before they have joined."""
        first, second = (
            (self.start_here, self.start_there) if self._head == HERE else (self.start_there, self.start_here)
        )
        head = first()
        eventually(lambda: head.poll() is None and _answers(self.address), START_S)
        second()

    def start_here(self) -> subprocess.Popen[bytes]:
        """The node on this host."""
        return self._start("here", HERE, ())

    def start_there(self) -> subprocess.Popen[bytes]:
        """The node on the other host; its processes and its files are its own, and go with it."""
        network = ("ip", "netns", "exec", self._namespace)
        unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")
        return self._start("there", THERE, (*network, *unshare, "sh", "-c", OWN_FOLDER, str(self._folder)))

    def _start(self, pool: str, host: str, inside: tuple[str, ...]) -> subprocess.Popen[bytes]:
        port = self.address.partition(":")[2]
        head = ("--head", f"--port={port}", "--include-dashboard=false")
        options = (*(head if host == self._head else (f"--address={self.address}",)), f"--node-ip-address={host}")
        own = (f"--labels=pool={pool}", f"--temp-dir={self._folder}/ray")
        command = [*inside, self._ray, *START, *options, *own]
        made = self._nodes[pool] = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        assert made.stdin is not None
        with made.stdin:
            made.stdin.write(self._token.read_bytes())
        return made

    def crash_there(self) -> None:
        """Every process of the other host ends at once: with the first go all others, before unshare hears of it."""
        node = self._nodes.pop("there")
        unshare = psutil.Process(node.pid)
        for first in unshare.children() or [unshare]:
            first.kill()
        node.wait(END_S)

    def close(self) -> None:
        """Both nodes end, that here first: it asks the head, which may be there. What does not end in time is killed."""
        if "here" in self._nodes:
            here = self._nodes.pop("here")
            here.terminate()
            try:
                here.wait(END_S)
            except subprocess.TimeoutExpired:
                os.killpg(here.pid, signal.SIGKILL)
                here.wait(END_S)
        if "there" in self._nodes:
            self.crash_there()

    @property
    def token(self) -> str:
        """Where the token is, at the same path on both hosts."""
        return str(self._token)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """The cable is out at its far end in here. No connection is ended by that; packets get lost."""
        self._plug("down")
        try:
            yield
        finally:
            self._plug("up")

    @contextmanager
    def mute(self, host: str) -> Iterator[None]:
        """Nothing that a host, ``HERE`` or ``THERE``, sends to the other gets there in here; the other is still heard."""
        inside, deaf = ((), THERE) if host == HERE else (("-n", self._namespace), HERE)
        ip(*inside, "route", "add", "blackhole", f"{deaf}/32")
        try:
            yield
        finally:
            ip(*inside, "route", "del", "blackhole", f"{deaf}/32")

    def _plug(self, state: str) -> None:
        ip("-n", self._namespace, "link", "set", "cable", state)

    def process(self, replica: Mapping[str, Any]) -> psutil.Process:
        """Of a replica, as ``app.status()`` gives it: a pid means something on its host only."""
        if replica["host"] == HERE:
            return psutil.Process(replica["pid"])
        there = psutil.Process(self._first_there()).children(recursive=True)
        (found,) = [one for one in there if _own_pid(one) == replica["pid"]]
        return found

    @contextmanager
    def listening(self) -> Iterator[bytearray]:
        """What passes through the cable in here, both ways, byte for byte; complete when it ends."""
        heard = bytearray()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)) as ear:
            ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
            ear.setblocking(False)
            ear.bind((DEVICE, 0))
            yield heard
            with suppress(BlockingIOError):
                while True:
                    heard += ear.recv(1 << 16)

    def _first_there(self) -> int:
        (first,) = psutil.Process(self._nodes["there"].pid).children()
        return first.pid

    def files_there(self) -> list[str]:
        """What is in the folder of temporary files there, by name."""
        return sorted(path.name for path in Path(f"/proc/{self._first_there()}/root{self._folder}").iterdir())


def _own_pid(process: psutil.Process) -> int:
    """As its own namespace counts; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    (numbers,) = [line for line in lines if line.startswith("NSpid:")]
    return int(numbers.split()[-1])


def _answers(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), 1.0).close()
    except OSError:
        return False
    return True


def run_on(
    hosts: TwoHosts, graph: Graph, here: Iterable[str], there: Iterable[str], replicas: int = 1, **deploy: Any
) -> App:
    """A deployment whose stages are pinned, with so many replicas of each there."""
    pools: dict[str, Any] = {stage: {"labels": {"pool": "here"}} for stage in here}
    pools |= {stage: {"labels": {"pool": "there"}, "replicas": replicas} for stage in there}
    plan = make_plan(graph, DeploySpec.model_validate({"stages": pools, **deploy}))
    return App(plan, Deployment(plan, RayLauncher(hosts.address)))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    """Ray's head is here."""
    tmp_path_factory.getbasetemp()  # where both hosts see it: temporary files are each host's own from here on
    with two_hosts(HERE) as made:
        yield made


@pytest.fixture(scope="module")
def hosts_with_the_head_there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    """Ray's head is on the other host, and nothing else of ours has to be."""
    tmp_path_factory.getbasetemp()
    with two_hosts(THERE) as made:
        yield made


@contextmanager
def two_hosts(head: str) -> Iterator[TwoHosts]:
    """Both are up; afterwards nothing is left of them: no process, no file, no device. Skips where they cannot be."""
    reason = obstacle()
    if reason:
        pytest.skip(f"a second host cannot be made here: {reason}")
    at_sigterm = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="og-", dir="/tmp")))
        namespace = f"og-{os.getpid()}-there"
        stack.enter_context(cable(namespace))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(tempfile, "tempdir", str(folder))
        made = TwoHosts(folder, namespace, head)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", made.token)
        patch.delenv("RAY_AUTH_TOKEN", raising=False)
        patch.setattr(services, "get_node_to_connect_for_driver", _node_here)
        stack.callback(made.close)
        made.start()
        held = RayCluster(made.address)
        stack.callback(held.close)
        eventually(lambda: len(held.machines()) == 2, START_S)
        yield made
    assert not _left(str(folder))
    signal.signal(signal.SIGTERM, at_sigterm)


def _node_here(gcs: Any, node_ip_address: None, **wanted: Any) -> Any:
    """What this process connects to: Ray would take any node whose process it sees, and here it sees those there too."""
    return FIND_NODE(gcs, HERE, **wanted)


def _left(folder: str) -> list[int]:
    """Processes that still speak of the folder, after a while."""
    until = time.monotonic() + END_S
    while True:
        found = [one.pid for one in psutil.process_iter(["cmdline"]) if folder in " ".join(one.info["cmdline"] or ())]
        if not found or time.monotonic() > until:
            return found
