"""The Gateway as a caller sees it: admission, one terminal event, slots given back, hostile replicas kept at bay."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from omni_graph.errors import Code, FlowControlError, Overloaded, RequestError
from omni_graph.frames import (
    Address,
    Choice,
    Close,
    Closed,
    Credit,
    Data,
    End,
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
from omni_graph.gateway_request import Ended, OutputPacket, Released
from omni_graph.payload import TextDelta
from omni_graph.wedge import PING_PERIOD_S
from tests.core.one_gateway import IN, MID, OUT, TALK, THINK, Client, word

# ---- admission


def test_past_the_queue_a_request_is_refused_with_the_fullest_stage_and_nothing_is_kept() -> None:
    client = Client(slots=1, queue=1)
    client.submit("a")
    client.submit("b")
    with pytest.raises(Overloaded) as refused:
        client.submit("c", now=1.0)
    assert (refused.value.stage, refused.value.retryable) == ("think", True)
    assert "1 running, 1 waiting (queue: 1); try again in 2 s" in str(refused.value)
    assert refused.value.retry_after_s == 2
    assert (client.gateway.running, client.gateway.waiting) == (1, 1)
    client.gateway.cancel("c", 0.0)
    client.collect()
    assert client.events == []


def test_a_name_is_used_once_at_a_time() -> None:
    client = Client()
    client.submit("a")
    with pytest.raises(FlowControlError, match="second request called a"):
        client.submit("a")


def test_without_a_live_replica_a_request_is_refused_by_name() -> None:
    client = Client(replicas=False)
    client.gateway.replica_up("think", Address(THINK, ""), 0.0)
    with pytest.raises(RequestError) as refused:
        client.submit("a")
    assert (refused.value.code, refused.value.stage) == (Code.UNAVAILABLE, "talk")


def test_when_the_last_replica_dies_everybody_who_waits_is_told_however_many_they_are() -> None:
    client = Client(slots=1, max_requests=10_000, queue=5000)
    for number in range(5000):
        client.submit(str(number))
    client.gateway.replica_down(THINK, Code.REPLICA_DIED, "killed", 1.0)
    client.close("0", TALK)
    assert client.terminal("0") is Code.REPLICA_DIED
    assert Counter(client.terminal(str(n)) for n in range(1, 5000)) == {Code.UNAVAILABLE: 4999}
    assert (client.gateway.running, client.gateway.waiting) == (0, 0)


def test_nobody_overtakes_and_a_slot_is_free_only_when_every_replica_has_said_closed() -> None:
    client = Client(slots=1)
    for name in "abc":
        client.submit(name)
    client.gateway.cancel("a", 0.0)
    client.collect()
    assert client.terminal("a") is Code.CANCELLED
    client.close("a", TALK)
    assert not client.released("a") and [f.request for _, f in client.said(Open)] == ["a", "a"]
    client.close("a", THINK)
    assert client.released("a") and {f.request for _, f in client.said(Open)} == {"a", "b"}


def test_a_death_counts_as_closed() -> None:
    client = Client(slots=1)
    client.submit("a")
    client.gateway.cancel("a", 0.0)
    client.close("a", TALK)
    client.gateway.replica_down(THINK, Code.REPLICA_DIED, "killed", 1.0)
    client.gateway.replica_down(THINK, Code.REPLICA_DIED, "killed", 1.0)
    client.collect()
    assert client.released("a") and client.gateway.running == 0


def test_closed_counts_only_for_its_attempt_and_once_for_its_replica() -> None:
    client = Client()
    client.submit("a")
    client.hear(THINK, Side.CONTROL, Closed("a", 1, "{}"))
    client.gateway.cancel("a", 0.0)
    client.hear(THINK, Side.CONTROL, Closed("a", 2, "{}"))
    client.close("a", TALK, TALK)
    assert not client.released("a")
    assert client.gateway.dropped["Closed"] == 3
    client.close("a", THINK)
    assert client.released("a")


# ---- deadlines and time


def test_a_deadline_ends_a_request_that_runs_and_one_that_waits() -> None:
    client = Client(slots=1)
    client.submit("a", deadline_s=5.0)
    client.submit("b", deadline_s=3.0)
    client.tick(2.9)
    assert not client.events
    client.tick(3.0)
    assert client.terminal("b") is Code.DEADLINE_EXCEEDED and client.released("b")
    client.tick(5.0)
    client.tick(6.0)
    assert client.terminal("a") is Code.DEADLINE_EXCEEDED
    assert [(peer, frame.code) for peer, frame in client.said(Reset)] == [
        (name, Code.DEADLINE_EXCEEDED) for name in sorted((THINK, TALK))
    ]


def test_the_loop_sleeps_until_there_is_something_to_do() -> None:
    client = Client()
    assert client.gateway.next_tick(0.0) is None
    client.submit("a", deadline_s=0.3)
    assert client.gateway.next_tick(0.0) == pytest.approx(0.3)
    client.tick(0.3)
    assert client.terminal("a") is Code.DEADLINE_EXCEEDED
    assert client.gateway.next_tick(9.0) is None, "a request that is only being closed needs no clock"


def test_a_stuck_request_is_watched_and_one_that_waits_for_its_caller_is_not() -> None:
    client = Client()
    client.submit("a")
    client.gateway.write("a", "text", [TextDelta("x")], 0.0)
    client.tick(PING_PERIOD_S)
    assert {peer for peer, _ in client.said(Ping)} == {THINK, TALK}
    client.frames.clear()
    client.hear(THINK, Side.CONTROL, Pong(PING_PERIOD_S))
    client.tick(2 * PING_PERIOD_S)
    assert client.said(Ping) == [], "a round begins when the last is complete"
    client.hear(TALK, Side.CONTROL, Pong(PING_PERIOD_S))
    client.hear(TALK, Side.READS, Start("a", 1, OUT), word(0))
    client.tick(3 * PING_PERIOD_S)
    assert client.said(Ping) == [], "the caller has something to read"
    client.gateway.read("a", "speech", len("word 0"), 1.0)
    client.tick(4 * PING_PERIOD_S)
    assert len(client.said(Ping)) == 2


# ---- a request's life


def test_a_request_from_open_to_released() -> None:
    client = Client()
    client.submit("a")
    client.gateway.write("a", "text", [TextDelta(x) for x in "xyz"], 0.0)
    client.gateway.end_input("a", "text", 0.0)
    assert client.said(Data) == [], "nothing before the first credit"
    client.hear(THINK, Side.WRITES, Credit("a", 1, IN, 0, 2))
    assert [f.seq for _, f in client.said(Data)] == [0, 1] and client.gateway.waiting_input("a", "text") == 1
    client.hear(THINK, Side.WRITES, Credit("a", 1, IN, 1, 3))
    assert [f.count for _, f in client.said(End)] == [3]
    client.hear(TALK, Side.READS, Start("a", 1, OUT), word(0), word(1), End("a", 1, OUT, 2))
    assert [e.packet.text for _, e in client.events if isinstance(e, OutputPacket)] == ["word 0", "word 1"]
    assert client.terminal("a") is None
    assert {peer for peer, _ in client.said(Close)} == {THINK, TALK}
    client.hear(THINK, Side.CONTROL, Closed("a", 1, json.dumps({"think": {"computing_s": 1.0}})))
    client.close("a", TALK)
    assert client.events[-1] == ("a", Released({"think": {"computing_s": 1.0}}))
    assert client.gateway.counts == {"completed": 1, "failed": 0, "cancelled": 0}


def test_an_input_that_nobody_reads_any_more_is_discarded() -> None:
    client = Client()
    client.submit("a")
    client.gateway.write("a", "text", [TextDelta("x")] * 5, 0.0)
    client.gateway.write("a", "unknown", [TextDelta("x")] * 5, 0.0)
    assert client.gateway.waiting_input("a", "unknown") == 0
    client.hear(THINK, Side.WRITES, Stop("a", 1, IN))
    assert client.gateway.waiting_input("a", "text") == 0
    client.gateway.write("a", "text", [TextDelta("x")], 0.0)
    client.gateway.end_input("a", "text", 0.0)
    client.collect()
    assert client.gateway.waiting_input("a", "text") == 0 and client.said(Data) == client.said(End) == []


def test_a_dropped_output_is_stopped_where_its_writer_is_known_and_when_it_comes() -> None:
    client = Client(slots=1)
    client.submit("a")
    client.hear(TALK, Side.READS, Start("a", 1, OUT), word(0))
    client.gateway.drop("a", "speech", 1.0)
    client.collect()
    assert client.said(Stop) == [(TALK, Stop("a", 1, OUT))]
    assert client.terminal("a") is None, "every output it asked for was dropped: it is complete"


def test_an_output_dropped_while_the_request_waits_is_never_read() -> None:
    client = Client(slots=1)
    client.submit("a")
    client.submit("b")
    client.gateway.drop("b", "speech", 0.0)
    client.gateway.cancel("a", 0.0)
    client.close("a")
    assert client.terminal("b") is None
    assert not any(isinstance(event, OutputPacket) for _, event in client.events)


def test_what_comes_after_the_end_is_dropped_and_counted() -> None:
    client = Client()
    client.submit("a")
    client.gateway.cancel("a", 0.0)
    client.hear(TALK, Side.READS, Start("a", 1, OUT), word(0))
    client.hear(TALK, Side.CONTROL, Report("a", 1, Code.NODE_FAILED))
    assert client.gateway.dropped == {"Start": 1, "Data": 1, "Report": 1}
    assert client.terminal("a") is Code.CANCELLED
    client.gateway.cancel("a", 0.0)
    client.gateway.read("a", "speech", 1, 0.0)
    client.gateway.drop("a", "speech", 0.0)
    client.gateway.write("a", "text", [TextDelta("x")], 0.0)
    client.gateway.end_input("a", "text", 0.0)
    client.collect()
    assert client.terminal("a") is Code.CANCELLED


# ---- losses and hostile replicas


def test_a_report_of_a_lost_link_names_both_ends() -> None:
    client = Client()
    client.submit("a")
    client.hear(TALK, Side.CONTROL, Report("a", 1, Code.LINK_LOST, "", "gone", THINK))
    assert {peer: frame.peer for peer, frame in client.said(Reset)} == {THINK: TALK, TALK: THINK}
    assert client.events == [], "the lost link may turn out to be a death"
    client.close("a")
    (ended,) = [event for _, event in client.events if isinstance(event, Ended)]
    assert ended.error is not None and ended.error.stage == "talk" and THINK in ended.error.message
    assert ended.error.retryable


def test_a_lost_edge_link_fails_those_who_used_it_and_nobody_else() -> None:
    client = Client()
    client.submit("a")
    client.submit("b")
    client.hear(TALK, Side.READS, Start("a", 1, OUT))
    client.gateway.lost(LinkId(TALK, Side.READS), "cut", 1.0)
    client.collect()
    client.close("a")
    assert client.terminal("a") is Code.LINK_LOST and client.released("a")
    assert client.gateway.running == 1 and not any(name == "b" for name, _ in client.events)


ILLEGAL_ON_EDGE = {
    "a gap": word(1),
    "past the limit": word(2),
    "an edge it does not write": word(0, MID),
    "an input": word(0, IN),
    "truncated": End("a", 1, OUT, 5),
    "a choice out of turn": Data("a", 1, OUT, 0, 0.0, (Choice("talk", 3, (1,)),), TextDelta("x")),
    "skipped above what the client has": Data("a", 1, OUT, 0, 0.0, (), None),
    "a report": Report("a", 1, Code.NODE_FAILED),
    "closed": Closed("a", 1, "{}"),
    "an open": Open("a", 1, (), "{}", 0, 0.0, 1.0),
    "credit for an output": Credit("a", 1, OUT, 0, 9),
}


@pytest.mark.parametrize("what", ILLEGAL_ON_EDGE)
def test_an_illegal_frame_ends_its_link_and_the_requests_on_it(what: str) -> None:
    client = Client()
    client.submit("a")
    client.submit("b")
    client.hear(TALK, Side.READS, Start("a", 1, OUT))
    client.hear(TALK, Side.READS, ILLEGAL_ON_EDGE[what])
    assert [link for link, _ in client.gateway.broken_links()] == [LinkId(TALK, Side.READS)]
    assert client.terminal("a") is Code.PROTOCOL
    assert client.gateway.running == 2 and not any(name == "b" for name, _ in client.events)


def test_data_from_a_replica_that_is_not_the_writer_hurts_only_that_replica() -> None:
    client = Client()
    client.submit("a")
    client.hear(TALK, Side.READS, Start("a", 1, OUT))
    client.hear(THINK, Side.READS, word(0))
    assert [link for link, _ in client.gateway.broken_links()] == [LinkId(THINK, Side.READS)]
    assert client.events == []


@pytest.mark.parametrize("timings", ["{", "[]", "3"])
def test_garbage_on_a_control_link_is_the_end_of_that_replica_only(timings: str) -> None:
    client = Client()
    client.submit("a")
    client.gateway.cancel("a", 0.0)
    client.hear(THINK, Side.CONTROL, Closed("a", 1, timings))
    assert [link for link, _ in client.gateway.broken_links()] == [LinkId(THINK, Side.CONTROL)]
    client.close("a", TALK)
    assert client.released("a")
    assert THINK not in client.gateway.load() and TALK in client.gateway.load()
