"""The Gateway as a caller sees it: admission, one terminal event, slots given back, hostile replicas kept at bay."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from omni_graph.errors import Code, FlowControlError, Overloaded, RequestError
from omni_graph.frames import (
    GATEWAY,
    Address,
    Choice,
    Close,
    Closed,
    Credit,
    Data,
    End,
    Frame,
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
from omni_graph.gateway import GatewayCore
from omni_graph.gateway_request import Ended, OutputPacket, Released, Submission
from omni_graph.payload import TextDelta
from omni_graph.topology import Topology
from omni_graph.wedge import PING_PERIOD_S
from omni_graph.wiring import Edge

IN, MID, OUT = range(3)
EDGES = (
    Edge(IN, GATEWAY, "text", "think", "text", TextDelta, 2),
    Edge(MID, "think", "out", "talk", "text", TextDelta, 2),
    Edge(OUT, "talk", "out", GATEWAY, "speech", TextDelta, 2),
)
THINK, TALK = "think/0.0", "talk/0.0"


class Client:
    """A Gateway with simulated replicas that do only what a test says."""

    def __init__(
        self, *, slots: int = 4, max_requests: int = 4, queue: int = 2, replicas: bool = True, retries: int = 0
    ) -> None:
        hosts = {"think": "think", "talk": "talk"}
        topology = Topology(EDGES, hosts, {"think": slots, "talk": 9}, max_requests, queue, retries)
        self.gateway = GatewayCore(topology, Address(GATEWAY, "here"))
        self.frames: list[tuple[LinkId, Frame]] = []
        self.events: list[tuple[str, Any]] = []
        for name in (THINK, TALK) if replicas else ():
            self.gateway.replica_up(name.split("/")[0], Address(name, ""), 0.0)

    def submit(self, request: str, *, now: float = 0.0, deadline_s: float = 60.0) -> None:
        self.gateway.submit(Submission(request, ("think", "talk"), ("speech",), "{}", 0, deadline_s), now)
        self.collect()

    def collect(self) -> None:
        self.frames += [(link, frame) for link, frames in self.gateway.outgoing() for frame in frames]
        self.events += self.gateway.events()

    def tick(self, now: float) -> None:
        self.gateway.tick(now)
        self.collect()

    def hear(self, name: str, side: Side, *frames: Frame) -> None:
        for frame in frames:
            self.gateway.receive(LinkId(name, side), frame, 1.0)
        self.collect()

    def close(self, request: str, *names: str) -> None:
        for name in names or (THINK, TALK):
            self.hear(name, Side.CONTROL, Closed(request, 1, "{}"))

    def said(self, kind: type) -> list[tuple[str, Any]]:
        return [(link.peer, frame) for link, frame in self.frames if isinstance(frame, kind)]

    def terminal(self, request: str) -> Code | None:
        """The code of the one terminal event."""
        (ended,) = [event for name, event in self.events if name == request and isinstance(event, Ended)]
        return ended.error.code if ended.error else None

    def released(self, request: str) -> bool:
        return any(name == request and isinstance(event, Released) for name, event in self.events)


def word(seq: int, edge: int = OUT, request: str = "a") -> Data:
    return Data(request, 1, edge, seq, 0.0, (), TextDelta(f"word {seq}"))


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


# ---- any order of everything


class Everything(RuleBasedStateMachine):
    """Callers and replicas do what they may, in any order: one terminal event, then released, and every slot comes back."""

    @initialize(slots=st.integers(1, 2), most=st.integers(1, 3), queue=st.integers(0, 2))
    def start(self, slots: int, most: int, queue: int) -> None:
        self.client = Client(slots=slots, max_requests=most, queue=queue)
        self.slots, self.most, self.queue = slots, most, queue
        self.now, self.number, self.lives = 0.0, 0, 0
        self.names = ["nobody"]

    def pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.names))

    @rule(deadline=st.sampled_from([1.0, 1000.0]))
    def submit(self, deadline: float) -> None:
        self.number += 1
        name = f"r{self.number}"
        try:
            self.client.submit(name, now=self.now, deadline_s=deadline)
            self.names.append(name)
        except RequestError as error:
            assert error.code in (Code.OVERLOADED, Code.UNAVAILABLE)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.client.gateway.cancel(self.pick(data), self.now)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.client.gateway.drop(self.pick(data), "speech", self.now)

    @rule(data=st.data(), host=st.sampled_from(["think", "talk"]))
    def closed(self, data: st.DataObject, host: str) -> None:
        for name in list(self.client.gateway.load()):
            if name.startswith(host):
                self.client.gateway.receive(LinkId(name, Side.CONTROL), Closed(self.pick(data), 1, "{}"), self.now)

    @rule(data=st.data())
    def fails(self, data: st.DataObject) -> None:
        request = self.pick(data)
        for address in self.client.gateway.addresses(request):
            report = Report(request, 1, Code.NODE_FAILED, "think", "no")
            self.client.gateway.receive(LinkId(address.name, Side.CONTROL), report, self.now)

    @rule(data=st.data())
    def completes(self, data: st.DataObject) -> None:
        request = self.pick(data)
        for address in self.client.gateway.addresses(request):
            if address.name.startswith("talk"):
                end = End(request, 1, OUT, 0)
                self.client.gateway.receive(LinkId(address.name, Side.READS), end, self.now)
                self.client.gateway.broken_links()

    @rule(host=st.sampled_from(["think", "talk"]))
    def dies(self, host: str) -> None:
        for name in list(self.client.gateway.load()):
            if name.startswith(host):
                self.client.gateway.replica_down(name, Code.REPLICA_DIED, "killed", self.now)

    @rule(host=st.sampled_from(["think", "talk"]))
    def comes(self, host: str) -> None:
        self.lives += 1
        if not any(name.startswith(host) for name in self.client.gateway.load()):
            self.client.gateway.replica_up(host, Address(f"{host}/0.{self.lives}", ""), self.now)

    @rule(seconds=st.sampled_from([0.1, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.client.gateway.tick(self.now)

    @invariant()
    def one_terminal_event(self) -> None:
        if not hasattr(self, "client"):
            return
        client = self.client
        client.collect()
        assert client.gateway.running <= self.most and client.gateway.waiting <= self.queue + 1
        assert all(used <= self.slots for name, used in client.gateway.load().items() if name.startswith("think"))
        for request in self.names:
            kinds = [type(event) for name, event in client.events if name == request]
            assert kinds in ([], [Ended], [Ended, Released]), kinds

    def teardown(self) -> None:
        """Once the deployment closes and its replicas are gone, nothing is left."""
        if hasattr(self, "client"):
            self.client.gateway.cancel_all(self.now)
            self.dies("think")
            self.dies("talk")
            self.one_terminal_event()
            ended = [name for name, event in self.client.events if isinstance(event, Released)]
            assert sorted(ended) == sorted(self.names[1:])
            assert (self.client.gateway.running, self.client.gateway.waiting) == (0, 0)


Everything.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestEverything = Everything.TestCase
