"""The conformance kit over every kind of links, on wires that are really cut; and the kit itself against planted faults."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from omni_graph.links.keys import Curve, KeyPair
from omni_graph.links.memory import MemoryHub, MemoryLinks
from omni_graph.links.profile import ONE_HOST
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES, check_link
from omni_graph.testing.link import RULES
from tests.links.broken import FAULTS, Broken
from tests.links.relay import Relay

ALL_RULES = tuple(rule.__name__ for rule in RULES)


class RelayedLinks(ZmqLinks):
    """ZmqLinks that others reach through relays, one for each endpoint."""

    def __init__(self, name: str, binds: Sequence[str], wiring: str, curve: Curve | None) -> None:
        # a relay waits for the interpreter, which may be busy for longer than a host is silent
        super().__init__(name, binds, LINK_TYPES, wiring, curve=curve, heartbeat=ONE_HOST)
        words = self.address.endpoint.split(" ")
        self.relays = [Relay(endpoint) for endpoint in words[:2]]
        relayed = " ".join([*(relay.endpoint for relay in self.relays), *words[2:]])
        self.address = replace(self.address, endpoint=relayed)

    @property
    def schemes(self) -> set[str]:
        """Those of the links that were opened from here and are still open."""
        return {outgoing.endpoint[:3] for outgoing in self._outgoing.values()}


class Wires:
    """Makes Links behind relays, and cuts the relays of two of them."""

    def __init__(self, binds: Sequence[str], *, encrypted: bool) -> None:
        self._binds = binds
        self._encrypted = encrypted
        self._made: dict[str, RelayedLinks] = {}
        self.schemes: set[str] = set()

    def make(self, name: str, wiring: str) -> RelayedLinks:
        curve = Curve(KeyPair()) if self._encrypted else None
        self._made[name] = RelayedLinks(name, self._binds, wiring, curve)
        return self._made[name]

    def cut(self, a: str, b: str) -> None:
        for name in (a, b):
            self.schemes |= self._made[name].schemes
            for relay in self._made[name].relays:
                relay.cut()

    def close(self) -> None:
        for links in self._made.values():
            links.close(0)
            for relay in links.relays:
                relay.close()


@pytest.mark.parametrize(
    ("kind", "scheme"), [("ipc", "ipc"), ("tcp", "tcp"), ("tcp with CURVE", "tcp"), ("ipc and tcp with CURVE", "ipc")]
)
def test_zmq_links_keep_every_rule(kind: str, scheme: str, short_dir: Path) -> None:
    """A rule that broke here would lose or double a user's packets."""
    binds = [bind for bind in (f"ipc://{short_dir}", "tcp://127.0.0.1") if bind[:3] in kind]
    with closing(Wires(binds, encrypted="CURVE" in kind)) as wires:
        assert check_link(wires.make, cut=wires.cut).passed == ALL_RULES
        assert wires.schemes == {scheme}


def test_memory_links_keep_every_rule() -> None:
    hub = MemoryHub()
    assert check_link(lambda name, wiring: MemoryLinks(hub, name, wiring), cut=hub.cut).passed == ALL_RULES


def test_without_a_cut_the_rules_about_losses_are_reported_untested() -> None:
    """A kit that silently skips would call an implementation safe that was never tried."""
    hub = MemoryHub()
    report = check_link(lambda name, wiring: MemoryLinks(hub, name, wiring))
    assert [name.replace("untested", "required") for name in report.untested[1:]] == [
        name for name in ALL_RULES if name not in report.passed
    ]
    assert len(report.passed) == len(ALL_RULES) - 3


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_kit_finds_a_planted_fault(fault: type[Broken]) -> None:
    """Every fault breaks the rule that is about it: a kit that passes broken links is worth nothing."""
    hub = MemoryHub()
    with pytest.raises(AssertionError, match=f"^({fault.breaks}): "):  # type: ignore[attr-defined]
        check_link(lambda name, wiring: fault(hub, name, wiring), cut=hub.cut, deadline_s=0.25)


def test_every_rule_has_a_fault_that_breaks_it() -> None:
    broken = {rule for fault in FAULTS for rule in fault.breaks.split("|")}  # type: ignore[attr-defined]
    assert broken == set(ALL_RULES)
