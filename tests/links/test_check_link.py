"""The conformance kit over memory, ipc and tcp, on wires that are really cut; and the kit itself against planted faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_graph.frames import Address
from omni_graph.links.memory import MemoryHub, MemoryLinks
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES, check_link
from omni_graph.testing.link import RULES
from tests.links.broken import FAULTS, Broken
from tests.links.relay import Relay

ALL_RULES = tuple(rule.__name__ for rule in RULES)


class RelayedLinks(ZmqLinks):
    """ZmqLinks that others reach through a relay."""

    def __init__(self, name: str, bind: str, wiring: str) -> None:
        super().__init__(name, bind, LINK_TYPES, wiring)
        self.relay = Relay(self.address.endpoint)
        self.bound, self.address = self.address, Address(name, self.relay.endpoint)


class Wires:
    """Makes Links behind relays, and cuts the relays of two of them."""

    def __init__(self, bind: str) -> None:
        self._bind = bind
        self._made: dict[str, RelayedLinks] = {}

    def make(self, name: str, wiring: str) -> RelayedLinks:
        self._made[name] = RelayedLinks(name, self._bind, wiring)
        return self._made[name]

    def cut(self, a: str, b: str) -> None:
        for name in (a, b):
            self._made[name].relay.cut()

    def close(self) -> None:
        for links in self._made.values():
            links.close(0)
            links.relay.close()


@pytest.fixture(params=["ipc", "tcp"])
def wires(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Wires]:
    made = Wires("tcp://127.0.0.1" if request.param == "tcp" else f"ipc://{short_dir}")
    yield made
    made.close()


def test_zmq_links_keep_every_rule(wires: Wires) -> None:
    """A rule that broke here would lose or double a user's packets."""
    assert check_link(wires.make, cut=wires.cut).passed == ALL_RULES


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
