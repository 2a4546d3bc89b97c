"""Two hosts for Links: network namespaces with two cables between them, and processes of ``far.py`` in them.

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
            assert time.monotonic() < give_up, f"not so within {DEADLINE_S} s: the cables come up"

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
