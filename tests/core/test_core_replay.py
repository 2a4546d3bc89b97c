"""One replica in a replay: it repeats what was chosen, skips what the client has, and begins again on new links."""

from __future__ import annotations

import pytest

from omni_graph.core import CONTROL, WorkerCore
from omni_graph.errors import Code, FlowControlError, NodeError
from omni_graph.frames import (
    GATEWAY,
    Address,
    Choice,
    Closed,
    Credit,
    Data,
    EdgeEnds,
    End,
    LinkId,
    Open,
    Report,
    Reset,
    Side,
    Start,
    Stop,
)
from omni_graph.payload import TextDelta
from omni_graph.testing.silent import SilentObserver
from omni_graph.wiring import Edge
from tests.core.one_replica import ASIDE, DOWN, FROM_UP, SAID, TEXT, TO_DOWN, UP, Echo, Replica, one_replica

TO_UP = LinkId(UP.name, Side.WRITES)
ME, CLIENT = Address("me/0.0", ""), Address(GATEWAY, "")
TO_CLIENT = LinkId(GATEWAY, Side.WRITES)


@pytest.fixture
def replica() -> Replica:
    return one_replica()


class Repeating(Echo):
    """An Echo that can be told what it chose."""

    def force(self, request: str, choices: tuple[tuple[int, ...], ...]) -> None:
        self.log.append(f"force {request} {choices}")


def serving_the_client(node: Echo) -> Replica:
    """``said`` goes to the Gateway."""
    edges = [
        Edge(TEXT, "up", "o", "me", "text", TextDelta, 4),
        Edge(SAID, "me", "said", GATEWAY, "said", TextDelta, 4),
    ]
    core = WorkerCore("me/0.0", {"me": node}, edges, clock=lambda: 5.0, observer=SilentObserver())
    return Replica(node, core)


def reopen(replica: Replica, *forced: Choice, accepted: int = 0) -> None:
    ends = (EdgeEnds(TEXT, UP, ME), EdgeEnds(SAID, ME, CLIENT))
    replica.core.receive(CONTROL, Open("a", 1, ends, "{}", 0, 0.0, 60.0, forced=forced, accepted=((SAID, accepted),)))
    replica.core.receive(TO_CLIENT, Credit("a", 1, SAID, 0, accepted + 4))


# ---- choices


def test_a_node_is_told_its_own_choices_right_after_it_opens() -> None:
    replica = serving_the_client(Repeating())
    reopen(replica, Choice("up", 0, (3,)), Choice("me", 0, (7,)), Choice("me", 1, (9,)))
    assert replica.node.log == ["open a", "force a ((7,), (9,))"]


def test_a_node_without_choices_of_its_own_needs_no_force() -> None:
    replica = serving_the_client(Echo())
    reopen(replica, Choice("up", 0, (3,)))
    assert replica.core.open_requests == ("a",)


def test_a_node_that_has_chosen_and_cannot_repeat_it_fails_the_request() -> None:
    replica = serving_the_client(Echo())
    reopen(replica, Choice("me", 0, (7,)))
    assert replica.reports() == [("a", Code.NODE_FAILED)]
    assert replica.core.open_requests == () and replica.node.requests == set()


@pytest.mark.parametrize("value", [7, 8])
def test_a_replayed_choice_must_be_the_one_that_was_made(value: int) -> None:
    replica = serving_the_client(Repeating())
    reopen(replica, Choice("me", 0, (value,)))
    replica.feed("choose")  # it chooses (7,)
    replica.run()
    if value == 7:
        (data,) = [frame for frame in replica.said()[TO_CLIENT] if isinstance(frame, Data)]
        assert data.choices == (Choice("me", 0, (7,)),)
    else:
        (report,) = [frame for frame in replica.said()[CONTROL] if isinstance(frame, Report)]
        assert report.code is Code.NODE_FAILED and "chose (7,) where the replay forces (8,)" in report.message


# ---- what the client has


def test_below_what_the_client_has_a_packet_may_be_skipped_and_counts_all_the_same() -> None:
    replica = serving_the_client(Repeating())
    reopen(replica, accepted=1)
    hosted = replica.core._nodes["me"]
    assert hosted.skippable(Echo.said, "a") and hosted.room(Echo.said, "a") == 5
    hosted.choose("a", (7,))
    hosted.skip(Echo.said, "a")
    assert not hosted.skippable(Echo.said, "a")
    with pytest.raises(FlowControlError, match="not one to skip"):
        hosted.skip(Echo.said, "a")
    hosted.send(Echo.said, "a", TextDelta("x"))
    hosted.end("a", Echo.said)
    _, skipped, sent, end = replica.said()[TO_CLIENT]
    assert skipped == Data("a", 1, SAID, 0, 5.0, (Choice("me", 0, (7,)),), None)
    assert sent == Data("a", 1, SAID, 1, 5.0, (), TextDelta("x")) and end == End("a", 1, SAID, 2)


def test_a_slice_that_only_skipped_is_to_blame_for_what_it_raises() -> None:
    replica = serving_the_client(Repeating())
    reopen(replica, accepted=1)
    hosted = replica.core._nodes["me"]
    hosted._worked.clear()
    hosted.skip(Echo.said, "a")
    assert tuple(hosted._worked) == ("a",)


def test_nothing_is_skipped_past_the_room_nor_where_another_node_reads_it_too(replica: Replica) -> None:
    replica.open(edges=(TEXT, SAID, ASIDE), accepted=((ASIDE, 2),))
    hosted = replica.core._nodes["me"]
    assert not hosted.skippable(Echo.said, "a"), "down has nothing from before"
    assert hosted.skippable(Echo.aside, "a")
    with pytest.raises(FlowControlError, match="past its room"):
        hosted.skip(Echo.aside, "a")


# ---- links


def both_ways() -> WorkerCore:
    """Reads from ``up`` and writes to it: two stages of it stand around this one."""
    edges = [
        Edge(TEXT, "up", "o", "me", "text", TextDelta, 4),
        Edge(SAID, "me", "said", "up", "i", TextDelta, 4),
        Edge(ASIDE, "me", "aside", "down", "i", TextDelta, 4),
    ]
    core = WorkerCore("me/0.0", {"me": Echo()}, edges, clock=lambda: 5.0, observer=SilentObserver())
    for request, numbers in {"a": (TEXT, SAID), "b": (SAID,), "c": (ASIDE,)}.items():
        ends = {TEXT: EdgeEnds(TEXT, UP, ME), SAID: EdgeEnds(SAID, ME, UP), ASIDE: EdgeEnds(ASIDE, ME, DOWN)}
        core.receive(CONTROL, Open(request, 1, tuple(ends[n] for n in numbers), "{}", 0, 0.0, 60.0))
    core.receive(FROM_UP, Start("a", 1, TEXT))
    core.outgoing()
    return core


def reported(core: WorkerCore) -> list[tuple[str, str]]:
    frames = dict(core.outgoing()).get(CONTROL, [])
    return [(frame.request, frame.peer) for frame in frames if isinstance(frame, Report)]


def test_with_a_lost_link_goes_the_other_that_its_requests_had_with_that_peer() -> None:
    core = both_ways()
    core.lost(FROM_UP, "cut")
    assert reported(core) == [("a", UP.name), ("b", UP.name)], "b used the other"
    assert core.old_links() == [TO_UP] and core.old_links() == []
    assert core.open_requests == ("c",)


def test_what_the_other_end_lost_is_dropped_here_before_anything_new_is_opened() -> None:
    core = both_ways()
    core.receive(CONTROL, Reset("a", 1, Code.LINK_LOST, peer=UP.name))
    assert core.old_links() == [FROM_UP, TO_UP]
    frames = dict(core.outgoing())[CONTROL]
    assert [type(frame) for frame in frames] == [Report, Closed] and frames[0].request == "b"


def test_a_link_that_is_newer_than_the_loss_is_kept() -> None:
    core = both_ways()
    core.lost(FROM_UP, "cut")
    core.old_links()
    core.receive(CONTROL, Open("new", 1, (EdgeEnds(SAID, ME, UP),), "{}", 0, 0.0, 60.0))
    core.receive(CONTROL, Reset("a", 1, Code.LINK_LOST, peer=UP.name))
    core.receive(CONTROL, Reset("b", 1, Code.LINK_LOST, peer=UP.name))
    assert core.old_links() == [] and core.open_requests == ("c", "new")


def test_after_a_loss_nothing_is_granted_before_the_writer_comes_again(replica: Replica) -> None:
    replica.core.receive(FROM_UP, Start("old", 1, TEXT))
    replica.open("a", edges=(TEXT, SAID, ASIDE))
    assert replica.said()[FROM_UP] == [Credit("a", 1, TEXT, 0, 4)]
    replica.core.lost(FROM_UP, "cut")
    replica.open("b")
    replica.core.receive(TO_DOWN, Stop("a", 1, SAID))
    replica.core.receive(TO_DOWN, Stop("a", 1, ASIDE))
    assert FROM_UP not in replica.said()
    assert replica.reports() == []


def test_a_reset_for_another_reason_drops_no_link(replica: Replica) -> None:
    replica.open()
    replica.core.receive(CONTROL, Reset("a", 1, Code.CANCELLED))
    replica.core.lost(TO_DOWN, "cut")
    assert replica.core.old_links() == [] and replica.reports() == []


def test_a_forced_choice_that_the_node_refuses_fails_that_request_alone() -> None:
    class Refusing(Repeating):
        def force(self, request: str, choices: tuple[tuple[int, ...], ...]) -> None:
            raise NodeError("no such token")

    replica = serving_the_client(Refusing())
    reopen(replica, Choice("me", 0, (7,)))
    assert replica.reports() == [("a", Code.NODE_FAILED)]
    assert replica.node.log == ["open a", "close a"]
