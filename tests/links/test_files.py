"""A process that runs out of files: a link that cannot be opened is told as lost, and nothing else happens."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from omni_graph.errors import LinkError
from omni_graph.files import require_files
from omni_graph.frames import Address, Credit, LinkId, LinkLost, Side, Start
from omni_graph.links import incoming
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES
from tests.files import few_files
from tests.runtime.graphs import HERE, eventually

PEER = """
import sys
from omni_graph.frames import Credit
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES
links = ZmqLinks("peer", sys.argv[1], LINK_TYPES)
print(links.address.endpoint, flush=True)
while True:
    for link, frames in links.poll(60):
        if type(frames[0]).__name__ == "Start":
            links.send(link, [Credit("r", 1, 0, 0, 8)])
"""


@pytest.fixture
def peer(short_dir: Path) -> Iterator[Address]:
    """Links in another process, which has files; they answer a Start."""
    command = [sys.executable, "-c", PEER, f"ipc://{short_dir}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Address("peer", process.stdout.readline().strip())
        process.kill()


def test_as_many_files_as_asked_for_can_be_opened_or_it_is_said() -> None:
    with few_files(3):
        require_files(3)
        with pytest.raises(OSError, match="Too many open files"):
            require_files(4)
        require_files(3)


@pytest.mark.parametrize("spare", range(7))
def test_a_link_is_opened_or_told_as_lost_whatever_is_left(spare: int, short_dir: Path, peer: Address) -> None:
    """libzmq opens several files for it, one of them in a thread of its own, which tells nobody when it cannot."""
    ours, link = ZmqLinks("ours", f"ipc://{short_dir}", LINK_TYPES), LinkId("peer", Side.WRITES)
    try:
        ours.introduce(peer)
        before = len(os.listdir("/proc/self/fd"))
        with few_files(spare):
            ours.send(link, [Start("r", 1, 0)])
            ((heard_of, (told,)),) = ours.poll(20)
            assert heard_of == link
        if spare < 4:
            assert isinstance(told, LinkLost) and "Too many open files" in told.reason
            eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)  # libzmq closes them in its own time
            ours.send(link, [Start("r", 1, 0)])
            ((_, (told,)),) = ours.poll(20)
        assert told == Credit("r", 1, 0, 0, 8)
    finally:
        ours.close(0)


@pytest.mark.parametrize("spare", [0, 4, 8, 12])
def test_links_that_get_no_files_say_so_and_leave_nothing(spare: int, short_dir: Path) -> None:
    """libzmq would end the process, or wait for ever for a socket that nobody closes."""
    before = os.listdir("/proc/self/fd")
    with few_files(spare), pytest.raises(LinkError, match=r"ours cannot open its links: .*Too many open files"):
        ZmqLinks("ours", f"ipc://{short_dir}", LINK_TYPES)
    assert os.listdir("/proc/self/fd") == before


LARGE = """
import sys
import numpy as np
from omni_graph.frames import Address, Data, LinkId, Side, Start
from omni_graph.links.sockets import ZmqLinks
from omni_graph.payload import Array, AudioChunk
from omni_graph.testing import LINK_TYPES
from tests.files import few_files
links, link = ZmqLinks("large", sys.argv[1], LINK_TYPES), LinkId("peer", Side.WRITES)
links.introduce(Address("peer", sys.argv[2]))
sound = AudioChunk(Array.of(np.zeros(1 << 16, np.float32)), 24_000)
for turn in range(2):
    with few_files(0 if turn else 64):
        links.send(link, [Start("r", 1, 0), *[Data("r", 1, 1, 0, 0.0, (), sound)] * turn])
        print(*links.poll(20)[0][1])
"""


def test_the_first_large_packet_needs_no_file(short_dir: Path, peer: Address) -> None:
    """What is not copied, pyzmq looks after, with a context of its own: libzmq ends a process that has no files for it."""
    command = [sys.executable, "-c", LARGE, f"ipc://{short_dir}", peer.endpoint]
    sent = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, timeout=60, check=False)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert sent.stdout.splitlines() == [str(Credit("r", 1, 0, 0, 8))] * 2


def test_a_socket_that_cannot_be_watched_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[zmq.Socket[bytes]] = []

    def monitor(_: object, socket: zmq.Socket[bytes], events: int) -> None:
        watched.append(socket)
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr(incoming, "Monitor", monitor)
    with zmq.Context() as context:
        with pytest.raises(zmq.ZMQError):
            incoming.Incoming(context, ["tcp://127.0.0.1:*"], lambda _: {})
        assert [socket.closed for socket in watched] == [True]
        context.destroy(linger=0)
