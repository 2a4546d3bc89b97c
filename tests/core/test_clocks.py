"""Monotonic clocks alone, and each machine by its own: what another machine's clock shows changes no answer, no figure."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from omni_graph.core import WorkerCore
from omni_graph.frames import GATEWAY, Address, EdgeEnds
from omni_graph.gateway import GatewayCore
from omni_graph.gateway_request import Ended, OutputPacket, Released
from omni_graph.node import Node
from omni_graph.observe.timing import Timings
from omni_graph.wiring import Edge
from tests.core.sim_client import Client
from tests.core.sim_setting import Setting, replaying
from tests.core.simulation import World

SOURCES = sorted((Path(__file__).parents[2] / "omni_graph").rglob("*.py"))
UPTIME_S = float(1 << 20)
FAR = "ipc:///run/a.sock tcp://10.0.0.{}:7000 host:0123456789abcdef"


# ---- machines


class Machines(World):
    """Stages live by turns on so many machines, whose clocks are ``ahead`` of the Gateway's, which is on the first."""

    def __init__(self, seed: int, setting: Setting, ahead: tuple[float, ...]) -> None:
        super().__init__(seed, setting)
        self.ahead = ahead
        self.gateway = GatewayCore(self.topology, Address(GATEWAY, FAR.format(0)))
        self.timings: dict[str, Mapping[str, Any]] = {}

    def machine_of(self, name: str) -> int:
        return list(self.shape.nodes).index(name.partition("/")[0]) % len(self.ahead)

    def core_of(self, name: str, nodes: dict[str, Node], edges: list[Edge]) -> WorkerCore:
        ahead = self.ahead[self.machine_of(name)]

        def clock() -> float:
            return self.now + ahead

        return WorkerCore(name, nodes, edges, clock=clock, observer=Timings(clock))

    def address_of(self, name: str) -> Address:
        return Address(name, FAR.format(self.machine_of(name)))

    def _on_event(self, client: Client, event: OutputPacket | Ended | Released) -> None:
        super()._on_event(client, event)
        if isinstance(event, Released):
            self.timings[client.name] = event.timings


def story(seed: int, setting: Setting, *ahead: float) -> dict[str, Any]:
    """All that the clients of a run got, and the timings of their stages."""
    world = Machines(seed, setting, ahead)
    world.run()
    return {one.name: (str(one.ended), one.got, world.timings.get(one.name)) for one in world.clients.values()}


def transits(told: dict[str, Any]) -> list[float | None]:
    return [stage["transit_s"] for _, _, timings in told.values() for stage in (timings or {}).values()]


def test_a_machine_of_another_uptime_changes_nothing() -> None:
    """Answers, ends and every figure; what cannot be told is not told."""
    seen: list[float | None] = []
    for setting in (Setting("omni"), replaying("omni")):
        for seed in range(25):
            same = story(seed, setting, 0.0, 0.0)
            assert story(seed, setting, 0.0, UPTIME_S) == same == story(seed, setting, 0.0, -UPTIME_S)
            seen += transits(same)
    known = [transit for transit in seen if transit is not None]
    assert 0 < len(known) < len(seen) and min(known) >= 0 and max(known) > 0


def test_on_one_machine_every_transit_is_told() -> None:
    known = [transit for seed in range(25) for transit in transits(story(seed, Setting("omni"), UPTIME_S))]
    assert known and None not in known


@pytest.mark.parametrize(
    ("writer", "reader", "one"),
    [
        ("memory:a", "memory:b", True),
        ("ipc:///run/a.sock", "ipc:///run/b.sock", True),
        ("tcp://127.0.0.1:7000", "tcp://127.0.0.1:7001", True),
        ("tcp://10.0.0.1:7000", "tcp://10.0.0.1:7001", True),
        ("tcp://10.0.0.1:7000", "tcp://10.0.0.2:7000", False),
        ("tcp://10.0.0.1:7000", "tcp://10.0.0.11:7000", False),
        (FAR.format(1), FAR.format(1), True),
        (FAR.format(1), FAR.format(2), False),
        (FAR.format(1), "tcp://10.0.0.1:7001", True),
    ],
)
def test_who_shares_a_clock_is_told_by_their_addresses(writer: str, reader: str, one: bool) -> None:
    assert EdgeEnds(0, Address("a/0.0", writer), Address("b/0.0", reader)).one_clock is one


# ---- the gate

WALL = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "clock_gettime", "CLOCK_REALTIME"},
    "datetime": {"now", "utcnow", "today", "fromtimestamp"},
    "date": {"today", "fromtimestamp"},
}  # fmt: skip


def wall_clocks(source: str) -> list[str]:
    """Every place in ``source`` that reads the time of day, or hides a clock behind another name."""
    tree = ast.parse(source)
    return [f"line {node.lineno}: {why}" for node in ast.walk(tree) if (why := _fault(node))]  # type: ignore[attr-defined]


def _fault(node: ast.AST) -> str:
    if isinstance(node, ast.Import):
        hidden = [one.name for one in node.names if one.name in WALL and one.asname not in (None, one.name)]
        return f"import {hidden[0]} under another name" if hidden else ""
    if isinstance(node, ast.ImportFrom) and node.module in WALL:
        named = [one for one in node.names if one.name in WALL[node.module] or one.asname not in (None, one.name)]
        return f"from {node.module} import {named[0].name}" if named else ""
    if isinstance(node, ast.Attribute):
        owner = ast.unparse(node.value).rpartition(".")[2]
        return f"{owner}.{node.attr}" if node.attr in WALL.get(owner, ()) else ""
    return ""


def test_the_package_never_asks_for_the_time_of_day() -> None:
    """It may be set back or forth while a request runs; deadlines, back-off and figures would follow it."""
    found = {path.name: faults for path in SOURCES if (faults := wall_clocks(path.read_text()))}
    assert len(SOURCES) > 100
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "time.time()",
        "clock = time.time",
        "time.time_ns()",
        "from time import time",
        "from time import monotonic as now",
        "import time as clocks",
        "time.clock_gettime(time.CLOCK_REALTIME)",
        "time.strftime('%H')",
        "datetime.now()",
        "datetime.datetime.now(UTC)",
        "from datetime import datetime as when",
        "datetime.utcnow()",
        "date.today()",
        "datetime.date.today()",
    ],
)
def test_the_gate_finds(source: str) -> None:
    """The gate itself: what it would not find, nobody would."""
    assert wall_clocks(source)


def test_the_gate_passes_monotonic_clocks() -> None:
    assert not wall_clocks("import time\ntime.monotonic()\ntime.perf_counter()\nfrom datetime import timedelta")
