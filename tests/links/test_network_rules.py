"""The conformance kit of links between two hosts: tcp with CURVE through a cable that is really pulled."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import cycle
from pathlib import Path

from omni_graph.links.keys import Curve, KeyPair
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES, check_link
from tests.links.network import HERE, THERE, Host, Network
from tests.links.network import network as network  # a fixture
from tests.links.test_check_link import ALL_RULES
from tests.runtime.graphs import eventually

CLONE_NEWNET = 0x40000000  # sched.h
ESTABLISHED = "01"  # net/tcp_states.h


def enter(host: Host) -> None:
    """The calling thread, and every thread that it starts, opens its sockets on this host from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{host.name}").open() as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {host.name}")


class Hosts:
    """Makes Links in turn on two hosts, and pulls the cable between them until every connection has ended."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._stack = ExitStack()
        self._threads = {
            address: self._stack.enter_context(ThreadPoolExecutor(1, initializer=enter, initargs=(host,)))
            for address, host in ((HERE, network.here), (THERE, network.there))
        }
        self._turns: Iterator[str] = cycle(self._threads)
        self.cuts = 0

    def make(self, name: str, wiring: str) -> ZmqLinks:
        """libzmq opens sockets in the thread that binds and in those that a new context starts: all are there."""
        address = next(self._turns)
        curve = Curve(KeyPair())
        made = self._threads[address].submit(ZmqLinks, name, f"tcp://{address}", LINK_TYPES, wiring, curve=curve)
        return made.result()

    def cut(self, a: str, b: str) -> None:
        """Both ends find out by themselves, from silence."""
        assert all(self._connections(address) for address in self._threads), f"{a} and {b} are not on two hosts"
        self._network.here.link("down")
        eventually(lambda: not any(self._connections(address) for address in self._threads))
        self._network.plug()
        self.cuts += 1

    def _connections(self, address: str) -> int:
        """Established ones with the other host, as the kernel of this one has them."""
        table = self._threads[address].submit(Path("/proc/thread-self/net/tcp").read_text).result()
        rows = [line.split() for line in table.splitlines()[1:]]
        return sum(row[3] == ESTABLISHED and row[1][:8] != row[2][:8] for row in rows)

    def close(self) -> None:
        self._stack.close()


def test_links_between_two_hosts_keep_every_rule(network: Network) -> None:
    """A rule that broke here would lose or double a user's packets between machines."""
    before = os.readlink("/proc/thread-self/ns/net")
    with closing(Hosts(network)) as hosts:
        assert check_link(hosts.make, cut=hosts.cut).passed == ALL_RULES
        assert hosts.cuts == 3
    assert os.readlink("/proc/thread-self/ns/net") == before
