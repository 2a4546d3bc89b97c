"""The wedge watch: it names the edges of a request that nothing can move, and accuses no request that something can."""

from __future__ import annotations

from omni_graph.frames import EdgeCounts, RequestState
from omni_graph.streams import OVER
from omni_graph.wedge import WedgeWatch

MEMBERS = {"front/0", "join/0"}
FULL = (EdgeCounts(1, 4, -1, -1, 4), EdgeCounts(1, -1, 4, 3, 4))
OWN = (EdgeCounts(0, 2, -1, -1, OVER),)
OWN_READ = EdgeCounts(0, -1, 2, 2, OVER)


def look(
    watch: WedgeWatch,
    clock: float,
    front: tuple[EdgeCounts, ...] = (OWN_READ, FULL[0]),
    join: tuple[EdgeCounts, ...] = (FULL[1],),
    *,
    idle: bool = True,
    attempt: int = 1,
    answers: tuple[str, ...] = ("front/0", "join/0"),
) -> tuple[int, ...] | None:
    """One round: Pings, the Pongs, the verdict."""
    watch.new_round(clock, {"r"}, MEMBERS)
    for name, edges in (("front/0", front), ("join/0", join)):
        if name in answers:
            watch.heard(name, clock, [RequestState("r", attempt, idle, edges)])
    return watch.verdict("r", 1, MEMBERS, OWN)


def test_two_equal_looks_at_a_settled_idle_request_are_a_wedge_and_name_the_full_edge() -> None:
    watch = WedgeWatch()
    assert look(watch, 1.0) is None
    assert look(watch, 2.0) == (1,)


def test_something_moved_between_the_looks() -> None:
    watch = WedgeWatch()
    look(watch, 1.0)
    moved = (EdgeCounts(1, 5, -1, -1, 5), EdgeCounts(1, -1, 5, 4, 5))
    assert look(watch, 2.0, (OWN_READ, moved[0]), (moved[1],)) is None
    assert look(watch, 3.0, (OWN_READ, moved[0]), (moved[1],)) == (1,)


def test_a_busy_replica_a_missing_answer_or_another_attempt_is_no_wedge() -> None:
    for different in ({"idle": False}, {"answers": ("front/0",)}, {"attempt": 2}):
        watch = WedgeWatch()
        look(watch, 1.0)
        assert look(watch, 2.0, **different) is None  # type: ignore[arg-type]
        assert look(watch, 3.0) is None, "and the looks begin anew"


def test_what_is_under_way_is_no_wedge() -> None:
    under_way = {
        "a packet": (EdgeCounts(1, 5, -1, -1, 5), EdgeCounts(1, -1, 4, 3, 5)),
        "a credit": (EdgeCounts(1, 4, -1, -1, 4), EdgeCounts(1, -1, 4, 4, 5)),
        "the first credit": (EdgeCounts(1, 0, -1, -1, -1), EdgeCounts(1, -1, 0, 0, 4)),
        "an end": (EdgeCounts(1, 4, -1, -1, OVER), EdgeCounts(1, -1, 4, 4, 5)),
        "a stop": (EdgeCounts(1, 4, -1, -1, 4), EdgeCounts(1, -1, 4, 3, OVER)),
        "an open": (EdgeCounts(1, 4, -1, -1, 4),),
    }
    for what, edges in under_way.items():
        watch = WedgeWatch()
        assert [look(watch, clock, (OWN_READ, edges[0]), edges[1:]) for clock in (1.0, 2.0, 3.0)] == [None] * 3, what


def test_an_answer_to_an_old_ping_is_not_a_look() -> None:
    watch = WedgeWatch()
    watch.new_round(1.0, {"r"}, MEMBERS)
    watch.heard("front/0", 1.0, [])
    assert not watch.round_complete
    watch.new_round(2.0, {"r"}, MEMBERS)
    watch.heard("front/0", 1.0, [])
    watch.heard("join/0", 2.0, [])
    assert not watch.round_complete
    watch.heard("front/0", 2.0, [])
    assert watch.round_complete


def test_a_dead_replica_is_not_waited_for() -> None:
    watch = WedgeWatch()
    watch.new_round(1.0, {"r"}, MEMBERS)
    watch.heard("join/0", 1.0, [])
    watch.forget_replica("front/0")
    assert watch.round_complete


def test_a_request_that_has_ended_is_forgotten() -> None:
    watch = WedgeWatch()
    look(watch, 1.0)
    watch.forget("r")
    assert look(watch, 2.0) is None
