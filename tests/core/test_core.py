"""One replica by itself: what it opens, forgets, answers, fails and refuses, frame by frame."""

from __future__ import annotations

import pytest

from omni_graph.core import CONTROL, WorkerCore
from omni_graph.errors import Code, FatalNodeError, NodeError
from omni_graph.frames import (
    Choice,
    Close,
    Closed,
    Credit,
    Data,
    EdgeEnds,
    End,
    Frame,
    Goaway,
    Hello,
    Leaving,
    LinkId,
    Open,
    Ping,
    Pong,
    Report,
    Reset,
    Side,
    Start,
    Stop,
)
from omni_graph.payload import TextDelta
from omni_graph.testing.silent import SilentObserver
from omni_graph.wiring import Edge
from tests.core.one_replica import (
    ASIDE,
    DOWN,
    FROM_UP,
    HINT,
    INNER,
    ME,
    SAID,
    TEXT,
    TO_DOWN,
    UP,
    Echo,
    Replica,
    one_replica,
    texts,
)


@pytest.fixture
def replica() -> Replica:
    return one_replica()


# ---- a stream begins


def test_a_writer_says_start_and_a_reader_answers_it(replica: Replica) -> None:
    replica.open()
    assert replica.said() == {TO_DOWN: [Start("a", 1, SAID)]}, "no link from the writer yet: nothing to grant over"
    replica.core.receive(FROM_UP, Start("a", 1, TEXT))
    assert replica.said() == {FROM_UP: [Credit("a", 1, TEXT, 0, 4)]}


def test_whoever_is_second_starts_the_stream(replica: Replica) -> None:
    replica.core.receive(FROM_UP, Start("a", 1, TEXT))
    assert replica.core.dropped == {"Start": 1} and replica.said() == {}, "only Open creates state"
    replica.open()
    assert replica.said() == {TO_DOWN: [Start("a", 1, SAID)], FROM_UP: [Credit("a", 1, TEXT, 0, 4)]}


def test_nothing_leaves_before_the_first_credit_not_even_an_end(replica: Replica) -> None:
    replica.open()
    replica.core.receive(FROM_UP, End("a", 1, TEXT, 0))
    replica.run()
    assert replica.said()[TO_DOWN] == [Start("a", 1, SAID)]
    replica.grant()
    assert replica.said() == {TO_DOWN: [End("a", 1, SAID, 0)]}


def test_credit_returns_on_take_and_not_on_arrival(replica: Replica) -> None:
    replica.open()
    replica.feed("x", "y", "z")
    replica.run()
    assert FROM_UP not in replica.said()
    replica.grant(limit=2)
    replica.run()
    frames = replica.said()
    assert frames[FROM_UP] == [Credit("a", 1, TEXT, 1, 5), Credit("a", 1, TEXT, 2, 6)]
    assert texts(frames[TO_DOWN]) == ["x", "y"]


def test_an_input_that_the_graph_leaves_unwired_reads_as_ended(replica: Replica) -> None:
    replica.open()
    replica.grant()
    replica.core.receive(FROM_UP, End("a", 1, TEXT, 0))
    replica.run()
    assert End("a", 1, SAID, 0) in replica.said()[TO_DOWN]


def test_a_wired_input_is_waited_for(replica: Replica) -> None:
    replica.open(edges=(TEXT, HINT, SAID))
    replica.grant()
    replica.core.receive(FROM_UP, End("a", 1, TEXT, 0))
    replica.run()
    assert End("a", 1, SAID, 0) not in replica.said()[TO_DOWN]
    replica.core.receive(FROM_UP, End("a", 1, HINT, 0))
    replica.run()
    assert replica.said() == {TO_DOWN: [End("a", 1, SAID, 0)]}


# ---- a stream ends


def test_a_node_that_ended_stops_its_writer_drops_what_comes_and_says_so_again(replica: Replica) -> None:
    replica.open()
    replica.grant()
    replica.feed("enough", "x")
    replica.run()
    frames = replica.said()
    assert frames[TO_DOWN][-1] == End("a", 1, SAID, 1) and frames[FROM_UP][-1] == Stop("a", 1, TEXT)
    assert replica.node.log == ["open a", "close a"]
    replica.feed("y", start=2)
    assert replica.core.dropped == {"Data": 1}
    replica.core.receive(FROM_UP, Start("a", 1, TEXT))
    assert replica.said() == {FROM_UP: [Stop("a", 1, TEXT)]}
    replica.core.receive(FROM_UP, End("a", 1, TEXT, 3, (Choice("up", 0, (1,)),)))
    assert replica.core.broken_links() == []


def test_a_stop_is_not_sent_over_a_link_that_is_not_there(replica: Replica) -> None:
    replica.open(edges=(TEXT, HINT, SAID))
    replica.core.receive(TO_DOWN, Stop("a", 1, SAID))
    assert FROM_UP not in replica.said()
    replica.core.receive(FROM_UP, Start("a", 1, HINT))
    assert replica.said() == {FROM_UP: [Stop("a", 1, HINT)]}


def test_a_node_whose_last_reader_stops_is_ended(replica: Replica) -> None:
    replica.open(edges=(TEXT, SAID, ASIDE))
    replica.grant()
    replica.core.receive(TO_DOWN, Stop("a", 1, SAID))
    replica.feed("x")
    replica.run()
    assert replica.node.log == ["open a"], "one reader is left"
    replica.core.receive(TO_DOWN, Stop("a", 1, ASIDE))
    assert replica.node.log == ["open a", "close a"]
    assert replica.said()[FROM_UP][-1] == Stop("a", 1, TEXT)


@pytest.mark.parametrize("aside", ["nobody reads it", "its reader has stopped"])
def test_a_node_that_loses_its_last_reader_by_its_own_end_may_finish_the_slice(replica: Replica, aside: str) -> None:
    replica.open(edges=(TEXT, SAID) if aside == "nobody reads it" else (TEXT, SAID, ASIDE))
    replica.grant()
    if aside != "nobody reads it":
        replica.core.receive(TO_DOWN, Stop("a", 1, ASIDE))
    replica.feed("end said, then look at aside")
    replica.run()
    assert replica.reports() == []
    assert replica.node.log == ["open a", "a still has room True", "close a"]


def test_a_choice_rides_on_what_follows_and_on_the_end(replica: Replica) -> None:
    replica.open()
    replica.grant()
    taken = Choice("up", 0, (1,))
    replica.core.receive(FROM_UP, Data("a", 1, TEXT, 0, 0.0, (taken,), TextDelta("choose")))
    replica.run()
    replica.core.receive(FROM_UP, End("a", 1, TEXT, 1, (Choice("up", 1, (2,)),)))
    replica.run()
    _, data, end = replica.said()[TO_DOWN]
    assert isinstance(data, Data) and data.choices == (taken, Choice("me", 0, (7,)))
    assert isinstance(end, End) and end.choices == (Choice("up", 1, (2,)),)


# ---- attempts, and requests that are gone


def test_frames_of_another_attempt_or_request_are_dropped_and_counted(replica: Replica) -> None:
    replica.open(attempt=2)
    replica.said()
    for attempt, request in ((1, "a"), (3, "a"), (2, "b")):
        replica.core.receive(FROM_UP, Data(request, attempt, TEXT, 0, 0.0, (), TextDelta("x")))
        replica.core.receive(TO_DOWN, Credit(request, attempt, SAID, 0, 8))
    assert replica.core.dropped == {"Data": 3, "Credit": 3}
    assert replica.said() == {} and replica.core.broken_links() == []


@pytest.mark.parametrize("word", [Close("a", 1), Reset("a", 1, Code.CANCELLED)])
def test_a_closed_request_is_forgotten_at_once_and_the_gateway_is_told(replica: Replica, word: Frame) -> None:
    replica.open()
    replica.feed("x")
    replica.said()
    replica.core.receive(CONTROL, word)
    assert replica.said() == {CONTROL: [Closed("a", 1, "{}")]}
    assert replica.core.open_requests == () and replica.node.log == ["open a", "close a"]
    replica.core.receive(CONTROL, word)
    assert replica.said() == {CONTROL: [Closed("a", 1, "{}")]}, "harmless when repeated"
    replica.open(attempt=2)
    assert replica.core.open_requests == ("a",)


def test_a_close_of_another_attempt_does_not_touch_this_one(replica: Replica) -> None:
    replica.open(attempt=2)
    replica.core.receive(CONTROL, Reset("a", 1, Code.CANCELLED))
    assert replica.core.open_requests == ("a",)


# ---- illegal frames

ILLEGAL = {
    "a gap": (FROM_UP, Data("a", 1, TEXT, 1, 0.0, (), TextDelta("x"))),
    "a truncated stream": (FROM_UP, End("a", 1, TEXT, 4)),
    "an unknown edge": (FROM_UP, Start("a", 1, 77)),
    "an edge it writes": (FROM_UP, Data("a", 1, SAID, 0, 0.0, (), TextDelta("x"))),
    "a skipped packet": (FROM_UP, Data("a", 1, TEXT, 0, 0.0, (), None)),
    "a choice out of turn": (FROM_UP, Data("a", 1, TEXT, 0, 0.0, (Choice("up", 2, (1,)),), TextDelta("x"))),
    "more taken than was sent": (TO_DOWN, Credit("a", 1, SAID, 5, 9)),
    "a negative limit": (TO_DOWN, Credit("a", 1, SAID, 0, -1)),
    "credit for an input": (TO_DOWN, Credit("a", 1, TEXT, 0, 9)),
    "data on the wrong link": (LinkId("other/0.0", Side.READS), Data("a", 1, TEXT, 0, 0.0, (), TextDelta("x"))),
    "credit on the wrong link": (LinkId("other/0.0", Side.WRITES), Credit("a", 1, SAID, 0, 9)),
    "an open from a peer": (FROM_UP, Open("z", 1, (), "{}", 0, 0.0, 1.0)),
    "a reset from a peer": (FROM_UP, Reset("a", 1, Code.CANCELLED)),
    "a report": (CONTROL, Report("a", 1, Code.NODE_FAILED)),
    "a hello": (CONTROL, Hello(1, "x", "y")),
    "a second open": (CONTROL, Open("a", 1, (), "{}", 0, 0.0, 1.0)),
    "an open of a foreign edge": (CONTROL, Open("z", 1, (EdgeEnds(77, UP, ME),), "{}", 0, 0.0, 1.0)),
    "params that are no JSON": (CONTROL, Open("z", 1, (), "{", 0, 0.0, 1.0)),
    "params that are no object": (CONTROL, Open("z", 1, (), '{"me": 3}', 0, 0.0, 1.0)),
}


@pytest.mark.parametrize("what", ILLEGAL)
def test_an_illegal_frame_ends_its_link_and_only_what_is_on_it(replica: Replica, what: str) -> None:
    link, frame = ILLEGAL[what]
    replica.open("a")
    replica.open("other", edges=())
    replica.core.receive(FROM_UP, Start("a", 1, TEXT))
    replica.said()
    replica.core.receive(link, frame)
    assert [broken for broken, _ in replica.core.broken_links()] == [link]
    hit = link in (FROM_UP, TO_DOWN)
    assert replica.reports() == ([("a", Code.PROTOCOL)] if hit else [])
    assert replica.core.open_requests == (("other",) if hit else ("a", "other"))
    assert replica.core.broken_links() == []


def test_announcements_are_no_faults(replica: Replica) -> None:
    for link in (CONTROL, FROM_UP):
        replica.core.receive(link, Goaway(Leaving.DRAINING))
        replica.core.receive(link, Pong(1.0))
    assert replica.core.broken_links() == [] and replica.said() == {}


# ---- losses


def test_a_lost_link_drops_the_requests_that_had_started_on_it(replica: Replica) -> None:
    replica.open("a")
    replica.open("b")
    replica.core.receive(FROM_UP, Start("a", 1, TEXT))
    replica.said()
    replica.core.lost(FROM_UP, "cut")
    assert replica.said() == {CONTROL: [Report("a", 1, Code.LINK_LOST, "", "cut", UP.name)]}
    assert replica.core.open_requests == ("b",) and replica.node.requests == {"b"}
    replica.core.receive(CONTROL, Reset("a", 1, Code.LINK_LOST))
    assert replica.said() == {CONTROL: [Closed("a", 1, "{}")]}
    replica.core.lost(TO_DOWN, "cut")
    assert replica.reports() == [("b", Code.LINK_LOST)], "a writer has started as soon as it has opened"


def test_without_the_gateway_everything_is_dropped(replica: Replica) -> None:
    replica.open("a")
    replica.open("b")
    replica.said()
    replica.core.lost(CONTROL, "cut")
    assert replica.core.open_requests == () and replica.node.requests == set() and replica.said() == {}


# ---- errors of nodes


def test_a_bug_fails_the_requests_of_that_slice_and_the_others_go_on(replica: Replica) -> None:
    for request in "abc":
        replica.open(request)
        replica.grant(request)
    replica.feed("bug", request="b")
    replica.run()
    (report,) = [frame for frame in replica.said()[CONTROL] if isinstance(frame, Report)]
    assert (report.request, report.code, report.stage) == ("b", Code.NODE_FAILED, "me")
    assert "a bug" in report.message
    replica.feed("x", request="c")
    replica.run()
    assert texts(replica.said()[TO_DOWN]) == ["x"]
    assert replica.core.open_requests == ("a", "c") and replica.node.requests == {"a", "c"}


def test_a_request_error_fails_the_request_it_names(replica: Replica) -> None:
    for request in "ab":
        replica.open(request)
        replica.grant(request)
    replica.feed("x", request="a")
    replica.feed("mine", request="b")
    replica.run()
    assert replica.reports() == [("b", Code.NUMERIC)]
    assert replica.core.open_requests == ("a",)


def test_a_request_error_that_names_nobody_here_fails_the_slice(replica: Replica) -> None:
    replica.open()
    replica.grant()
    replica.feed("elsewhere")
    replica.run()
    assert replica.reports() == [("a", Code.NUMERIC)]


def test_a_request_that_cannot_open_is_reported_and_leaves_nothing(replica: Replica) -> None:
    replica.open("unwelcome")
    assert replica.reports() == [("unwelcome", Code.INVALID_INPUT)]
    replica.open("a", params='{"me": {"voice": "loud"}}')
    assert replica.reports() == [("a", Code.NODE_FAILED)]
    assert replica.core.open_requests == () and replica.node.requests == set()
    replica.core.receive(CONTROL, Reset("unwelcome", 1, Code.INVALID_INPUT))
    assert replica.said() == {CONTROL: [Closed("unwelcome", 1, "{}")]}


@pytest.mark.parametrize("word", ["fatal", "memory", "cuda", "device memory"])
def test_what_a_process_does_not_survive_ends_the_replica(replica: Replica, word: str) -> None:
    replica.open()
    replica.grant()
    replica.feed(word)
    with pytest.raises((FatalNodeError, MemoryError)):
        replica.run()


def test_a_node_that_cannot_close_is_not_trusted_any_more(replica: Replica) -> None:
    replica.open()
    replica.node.close_fails = True
    with pytest.raises(FatalNodeError, match="cannot close"):
        replica.core.receive(CONTROL, Close("a", 1))


# ---- what the Gateway may ask, and two nodes in one worker


def test_a_pong_tells_of_every_request_on_control_and_of_none_elsewhere(replica: Replica) -> None:
    replica.open()
    replica.feed("x")
    replica.said()
    replica.core.receive(CONTROL, Ping(3.0))
    (pong,) = replica.said()[CONTROL]
    assert isinstance(pong, Pong) and pong.clock == 3.0
    (state,) = pong.requests
    assert (state.request, state.attempt, state.idle) == ("a", 1, False)
    assert {one.edge: tuple(one)[1:] for one in state.edges} == {TEXT: (-1, 1, 0, 4), SAID: (0, -1, -1, -1)}
    replica.run()
    replica.core.receive(CONTROL, Ping(4.0))
    (pong,) = replica.said()[CONTROL]
    assert isinstance(pong, Pong) and pong.requests[0].idle
    replica.core.receive(FROM_UP, Ping(5.0))
    assert replica.said() == {FROM_UP: [Pong(5.0)]}


def test_two_nodes_of_one_worker_speak_the_same_protocol_without_a_link() -> None:
    edges = [
        Edge(TEXT, "up", "o", "first", "text", TextDelta, 4),
        Edge(INNER, "first", "said", "second", "text", TextDelta, 2),
        Edge(SAID, "second", "said", "down", "i", TextDelta, 4),
    ]
    nodes = {"first": Echo(), "second": Echo()}
    core = WorkerCore("me/0.0", nodes, edges, clock=lambda: 0.0, observer=SilentObserver())
    ends = (EdgeEnds(TEXT, UP, ME), EdgeEnds(INNER, ME, ME), EdgeEnds(SAID, ME, DOWN))
    core.receive(CONTROL, Open("a", 1, ends, "{}", 0, 0.0, 60.0))
    replica = Replica(nodes["second"], core)
    replica.feed("x", "y", "z")
    replica.run()
    assert texts(replica.said()[TO_DOWN]) == []
    replica.grant(limit=8)
    core.receive(FROM_UP, End("a", 1, TEXT, 3))
    replica.run()
    frames = replica.said()[TO_DOWN]
    assert texts(frames) == ["x", "y", "z"] and isinstance(frames[-1], End)
    assert [node.log for node in nodes.values()] == [["open a", "close a"]] * 2


def test_a_packet_of_the_wrong_type_or_size_is_the_nodes_error(replica: Replica) -> None:
    hosted = replica.core._nodes["me"]
    replica.open()
    replica.grant()
    with pytest.raises(NodeError, match="sends TextDelta, got str"):
        hosted.send(Echo.said, "a", "x")
    with pytest.raises(NodeError, match="cut it by rows"):
        hosted.send(Echo.said, "a", TextDelta("x" * (1 << 20)))


class Counted(Echo):
    """Counts whatever it is told to."""

    def __init__(self, counted: dict) -> None:
        super().__init__()
        self.counted = counted

    def counters(self) -> dict:
        return self.counted


def core_of(**nodes: Echo) -> WorkerCore:
    return WorkerCore("me/0.0", nodes, [], clock=lambda: 0.0, observer=SilentObserver())


def test_counters_stand_under_the_name_of_their_node() -> None:
    core = core_of(a=Counted({"hits": 3, "asked": 4}), b=Echo(), c=Counted({"hits": 1}))
    assert core.counters() == {"a.hits": 3, "a.asked": 4, "c.hits": 1}


@pytest.mark.parametrize("counted", [{"hits": 0.5}, {3: 1}, {str(i): i for i in range(33)}])
def test_what_is_no_counter_is_told_with_the_name_of_its_node(counted: dict) -> None:
    with pytest.raises(FatalNodeError, match=r"a\.counters\(\) gives .*; allowed: 32 names with an int each"):
        core_of(a=Counted(counted)).counters()
