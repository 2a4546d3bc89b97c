"""A slow wire between hosts: 50 ms +- 50 late, 1 MB/s, in pieces of one byte. Order, credit and completeness hold.

A worker that gets a packet past its limit or out of order ends the link, so an answer without a replay shows both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from omni_graph.frames import Links
from omni_graph.links.keys import Curve, KeyPair
from omni_graph.links.profile import BETWEEN_HOSTS, WAN, Heartbeat
from omni_graph.links.sockets import ZmqLinks
from omni_graph.plan import make_plan
from omni_graph.runtime.app import App
from omni_graph.runtime.deployment import Deployment
from omni_graph.runtime.processes import ProcessHandle, ProcessLauncher
from omni_graph.runtime.replica import Change, ReplicaSpec, State
from omni_graph.spec import DeploySpec
from omni_graph.testing import LINK_TYPES, link
from omni_graph.testing.link_bench import Bench
from tests.links.relay import GOOD, Relay, Wire
from tests.runtime.fault_matrix import Client, epilogue, speaking, whole_answer

SLOW = Wire(delay_s=0.05, jitter_s=0.05, slice_bytes=1, bytes_per_s=1e6)
WHOLE = replace(SLOW, slice_bytes=1 << 18)
DEADLINE_S = 20.0
FAST = (
    link.required_order_is_kept_in_both_directions,
    link.required_every_frame_arrives_equal,
    link.required_one_send_may_carry_many_frames,
    link.required_send_never_blocks,
    link.required_a_lost_link_is_not_resumed,
    link.required_a_goodbye_ends_one_link,
)
MEGABYTES = link.required_arrays_arrive_bit_for_bit


class Relays:
    """Makes Links that others reach through a slow relay."""

    def __init__(self, wire: Wire, heartbeat: Heartbeat) -> None:
        self._wire, self._heartbeat = wire, heartbeat
        self.of: dict[str, Relay] = {}

    def make(self, name: str, wiring: str) -> Links:
        curve = Curve(KeyPair())
        made = ZmqLinks(name, "tcp://127.0.0.1", LINK_TYPES, wiring, curve=curve, heartbeat=self._heartbeat)
        self.of[name] = Relay(made.address.endpoint, self._wire)
        made.address = replace(made.address, endpoint=self.of[name].endpoint)
        return made

    def cut(self, a: str, b: str) -> None:
        for name in (a, b):
            self.of[name].cut()

    def close(self) -> None:
        for relay in self.of.values():
            relay.close()


STALLED = r"(?s)waited [\d.]+ s for .*LinkLost\(reason='lost "  # this machine, for a second: a link is lost by that


def hold(rule: Callable[[Bench], None], wire: Wire, heartbeat: Heartbeat) -> None:
    relays = Relays(wire, heartbeat)
    try:
        with Bench(rule.__name__, relays.make, relays.cut, DEADLINE_S) as bench:
            rule(bench)
    finally:
        relays.close()


@pytest.mark.flaky(reruns=2, only_rerun=[STALLED])
@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, marks=() if rule in FAST else (pytest.mark.slow,), id=rule.__name__)
        for rule in link.RULES
        if rule is not MEGABYTES
    ],
)
def test_links_keep_every_rule_on_a_slow_wire(rule: Callable[[Bench], None]) -> None:
    """With the keys and the heartbeats of two hosts: none is called dead that only is late."""
    hold(rule, SLOW, BETWEEN_HOSTS)


def test_a_megabyte_arrives_where_silence_is_allowed_for_as_long_as_it_takes() -> None:
    """ZMQ counts whole messages as signs of life: one that is a second under way is one of silence."""
    hold(MEGABYTES, WHOLE, WAN)


class RelayedHandle(ProcessHandle):
    """A replica that others reach through a relay."""

    launcher: SlowLauncher

    def _become(self, state: State, detail: str = "") -> None:
        if self.address is not None and self.address.endpoint not in self.launcher.endpoints():
            self.address = replace(self.address, endpoint=self.launcher.relayed(self.address.endpoint))
        super()._become(state, detail)


class SlowLauncher(ProcessLauncher):
    """Processes joined over tcp, by slow wires only: among each other and with the Gateway."""

    name = "slow processes"

    def __init__(self) -> None:
        super().__init__("tcp")
        self.relays: list[Relay] = []
        self._handle = type("Handle", (RelayedHandle,), {"launcher": self})

    def endpoints(self) -> set[str]:
        return {relay.endpoint for relay in self.relays}

    def relayed(self, endpoint: str) -> str:
        self.relays.append(Relay(endpoint, SLOW))
        return self.relays[-1].endpoint

    def start(self, spec: ReplicaSpec, changed: Callable[[Change], None]) -> ProcessHandle:
        made: ProcessHandle = self._handle(spec, changed)
        return made

    def gateway_links(self, types: Mapping[int, type], wiring: str, run_folder: str) -> Links:
        made = ZmqLinks("gateway", self.bind(run_folder), types, wiring, heartbeat=BETWEEN_HOSTS)
        made.address = replace(made.address, endpoint=self.relayed(made.address.endpoint))
        return made


@pytest.fixture
def launcher() -> Iterator[SlowLauncher]:
    made = SlowLauncher()
    yield made
    for relay in made.relays:
        relay.close()


def test_answers_over_slow_wires_are_whole_and_need_no_replay(launcher: SlowLauncher) -> None:
    plan = make_plan(speaking(), DeploySpec.model_validate({}))
    with App(plan, Deployment(plan, launcher)) as app:
        company = Client.open(app)
        company.say("with ")
        whole_answer(app)
        company.finish(("you ",))
        assert company.retries() == 0
        assert len(launcher.relays) == 4 and all(relay.seen for relay in launcher.relays)
        for relay in launcher.relays:
            relay.wire = GOOD
        epilogue(app)
