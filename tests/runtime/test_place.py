"""What a replica needs is judged from what is known of it, and from the time."""

from __future__ import annotations

from typing import Any

from omni_graph.runtime.place import FORGIVEN_S, FROZEN_S, Need, Replica
from omni_graph.runtime.replica import Beat, ReplicaSpec, State
from omni_graph.runtime.replicas import WATCH_S

SPEC = ReplicaSpec("a/0.0", (), (), "", "", "memory:", "", threads=1, max_step_s=1.0, streams=8)


class Running:
    """A started replica."""

    def __init__(self, in_step_s: float = 0.0) -> None:
        self.state, self.spec, self.beat, self.is_frozen = State.READY, SPEC, Beat(in_step_s=in_step_s), False

    def frozen(self) -> bool:
        return self.is_frozen


def replica(handle: Any, **known: Any) -> Replica:
    made = Replica("a", 0, SPEC, handle=handle, state=State.READY, life=0, ready_since=0.0)
    for name, value in known.items():
        setattr(made, name, value)
    return made


def needed(one: Replica, now: float) -> Need | None:
    found = one.need(now)
    return None if found is None else found[0]


def test_one_that_gets_on_needs_nothing() -> None:
    assert replica(Running()).need(1.0) is None and replica(None).need(1.0) is None


def test_a_dead_one_is_started_when_its_time_has_come() -> None:
    dead = replica(None, restart_at=5.0, state=State.FAILED)
    assert [needed(dead, now) for now in (4.9, 5.0)] == [None, Need.START]


def test_a_stopped_one_is_ended_once_it_was_stopped_for_long() -> None:
    handle = Running()
    one = replica(handle)
    assert needed(one, 1.0) is None
    handle.is_frozen = True
    assert [needed(one, 2.0 + after) for after in (0.0, FROZEN_S, FROZEN_S + 0.01)] == [None, None, Need.END_FROZEN]
    handle.is_frozen = False
    assert needed(one, 3.0) is None
    handle.is_frozen = True
    assert needed(one, 4.0) is None  # a new stop, with its own beginning


def test_a_stopped_one_is_ended_within_half_a_second() -> None:
    """At worst it stops right after a look, and its time is over right after another."""
    assert FROZEN_S + 2 * WATCH_S < 0.5


def test_one_that_stays_in_a_step_is_ended_and_the_time_said() -> None:
    assert replica(Running(in_step_s=0.9)).need(1.0) is None
    assert replica(Running(in_step_s=7.0)).need(1.0) == (Need.END_STUCK, "in one step for 7.0 s; max_step_s is 1")


def test_one_that_ran_out_of_memory_has_all_its_slots_again_after_a_long_life() -> None:
    small = replica(Running(), slots=6)
    assert [needed(small, now) for now in (FORGIVEN_S, FORGIVEN_S + 0.1)] == [None, Need.ALL_SLOTS]
    small.slots = SPEC.streams
    assert needed(small, FORGIVEN_S + 0.1) is None
