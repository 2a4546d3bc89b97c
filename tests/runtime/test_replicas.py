"""A launcher that cannot start a replica: what went wrong is told, in full, and nobody is held up by who hears of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from omni_graph.errors import LaunchError
from omni_graph.frames import Address
from omni_graph.runtime.place import FORGIVEN_S
from omni_graph.runtime.replica import Beat, Change, ReplicaSpec, State
from omni_graph.runtime.replicas import Replicas
from tests.runtime.graphs import eventually

SPEC = ReplicaSpec("a/0.0", (), (), "", "", "memory:", "", threads=1, max_step_s=1.0)


class BrokenLauncher:
    """Whose code is wrong."""

    def start(self, spec: ReplicaSpec, changed: Callable[[Change], None]) -> Any:
        raise AttributeError("no such thing")


class DeafGateway:
    def post(self, command: object) -> None: ...

    def replica_down(self, *_: object) -> None: ...


class StuckLauncher:
    """Its replica is seen in a step once, and has done it by the next look."""

    name, state, pid, address, spec = "stuck", State.READY, 0, None, SPEC

    def __init__(self) -> None:
        self._steps = iter((Beat(in_step_s=7.0),))

    def start(self, spec: ReplicaSpec, changed: Callable[[Change], None]) -> Any:
        changed(Change(spec.name, State.READY))
        return self

    @property
    def beat(self) -> Beat:
        return next(self._steps, Beat())

    def frozen(self) -> bool:
        return False

    def kill(self) -> None: ...

    def stop(self, grace_s: float) -> None: ...


def test_a_step_that_is_too_long_is_told_with_the_time_that_was_too_long() -> None:
    heard: list[Change] = []
    replicas = Replicas(StuckLauncher(), DeafGateway(), heard.append)  # type: ignore[arg-type]
    replicas.add(SPEC, 1)
    eventually(lambda: State.STUCK in {change.state for change in heard})
    replicas.close(0)
    assert [one.detail for one in heard if one.state is State.STUCK] == ["in one step for 7.0 s; max_step_s is 1"]


def test_a_replica_that_cannot_be_started_says_where_the_fault_is(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Change] = []
    free: list[bool] = []

    def hear(change: Change) -> None:
        heard.append(change)
        other = threading.Thread(target=replicas.of, args=("a",))
        other.start()
        other.join(5)
        free.append(not other.is_alive())

    replicas = Replicas(BrokenLauncher(), DeafGateway(), hear)  # type: ignore[arg-type]
    made = replicas.add(SPEC, 2)
    with pytest.raises(LaunchError, match=r"a/0\.0 could not start: AttributeError: no such thing"):
        replicas.wait_ready(made, 20)
    replicas.close(0)
    assert [(change.name, change.state) for change in heard] == [("a/0.0", State.FAILED), ("a/1.0", State.FAILED)]
    assert free == [True, True]  # to look at the replicas, for other threads
    assert caplog.text.count('raise AttributeError("no such thing")') == 2


class Started:
    """A replica that is what it is told to be."""

    pid, address = 0, Address("a/0.0", "memory:")

    def __init__(self, spec: ReplicaSpec, requests: int) -> None:
        self.spec, self.state, self.beat, self.killed = spec, State.READY, Beat(requests=requests), False

    def frozen(self) -> bool:
        return False

    def kill(self) -> None:
        self.killed = True

    def stop(self, grace_s: float) -> None: ...


class StartingLauncher:
    """Starts what it is told to, with so many requests aboard."""

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self.changed: Callable[[Change], None] = print

    def start(self, spec: ReplicaSpec, changed: Callable[[Change], None]) -> Any:
        self.changed = changed
        handle = Started(spec, self._requests)
        changed(Change(spec.name, State.READY, address=handle.address))
        return handle


class ListeningGateway(DeafGateway):
    """Keeps the slots of each replica that came up."""

    def __init__(self) -> None:
        self.slots: list[int] = []

    def replica_up(self, host: str, address: Address, revision: int, slots: int) -> None:
        self.slots.append(slots)


def test_a_replica_that_ran_out_of_memory_comes_back_with_fewer_slots_and_has_them_again_later() -> None:
    launcher, gateway = StartingLauncher(requests=8), ListeningGateway()
    replicas = Replicas(launcher, gateway, None)  # type: ignore[arg-type]
    (one,) = replicas.add(replace(SPEC, streams=8), 1)
    launcher.changed(Change("a/0.0", State.OOM, "too much"))
    assert one.last_end == "oom too much"
    eventually(lambda: gateway.slots == [8, 6])
    one.ready_since = -FORGIVEN_S
    eventually(lambda: one.slots == 8)
    replicas.close(0)


@pytest.mark.parametrize("state", [State.FAILED, State.OOM])
def test_what_we_ended_ourselves_is_told_with_our_reason(state: State) -> None:
    """Also where the kernel ended a neighbour in the same second."""
    launcher, gateway = StartingLauncher(requests=8), ListeningGateway()
    replicas = Replicas(launcher, gateway, None)  # type: ignore[arg-type]
    (one,) = replicas.add(replace(SPEC, streams=8), 1)
    replicas.lost("a/0.0", "silent for too long")
    eventually(lambda: one.handle is not None and one.handle.killed)  # type: ignore[attr-defined]
    launcher.changed(Change("a/0.0", state, "killed by SIGKILL"))
    assert one.last_end == "ended by us: silent for too long"
    eventually(lambda: gateway.slots == [8, 8])
    replicas.close(0)


class Unkillable(Started):
    """Frozen; it has ended when it is to be killed, and nobody has heard of it yet."""

    def frozen(self) -> bool:
        return True

    def kill(self) -> None:
        super().kill()
        raise ProcessLookupError("no such process")


def test_a_watch_that_fails_at_one_replica_goes_on_with_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(globals(), "Started", Unkillable)
    replicas = Replicas(StartingLauncher(requests=0), ListeningGateway(), None)  # type: ignore[arg-type]
    made = replicas.add(SPEC, 2)
    eventually(lambda: all(one.handle.killed for one in made))  # type: ignore[union-attr]
    replicas.close(0)
    assert "the watch over the replicas failed" in caplog.text and "no such process" in caplog.text
