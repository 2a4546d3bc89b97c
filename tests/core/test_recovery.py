"""What the Gateway does with a request that lost a replica or a link: frame by frame, and to whom it puts the blame."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_graph.admission import WaitingLine
from omni_graph.errors import Code, RequestError
from omni_graph.frames import (
    GATEWAY,
    Address,
    Choice,
    Closed,
    Credit,
    Data,
    End,
    LinkId,
    Open,
    Report,
    Reset,
    Side,
    Start,
)
from omni_graph.gateway_request import Ended, GatewayRequest, OutputPacket, Released, Submission
from omni_graph.payload import TextDelta
from omni_graph.recovery import PROBATION_S
from omni_graph.replay import PACKET_BYTES
from omni_graph.topology import Topology
from tests.core.one_gateway import EDGES, IN, OUT, TALK, THINK, Client, word

LOST = Report("a", 1, Code.LINK_LOST, "", "cut", THINK)


def expecting(**more: Any) -> Client:
    """Replicas that die come back."""
    client = Client(**{"retries": 2, **more})
    for host in ("think", "talk"):
        client.gateway.expect(host, (0,), 0.0)
    return client


def ended(client: Client, request: str) -> RequestError:
    (event,) = [event for name, event in client.events if name == request and isinstance(event, Ended)]
    assert event.error is not None
    return event.error


# ---- from a loss to the next attempt


def test_a_replay_begins_when_every_replica_has_forgotten_the_attempt() -> None:
    client = expecting()
    client.submit("a")
    client.hear(TALK, Side.CONTROL, LOST)
    assert {peer: (frame.code, frame.peer) for peer, frame in client.said(Reset)} == {
        THINK: (Code.LINK_LOST, TALK),
        TALK: (Code.LINK_LOST, THINK),
    }
    client.close("a", TALK)
    assert client.attempt("a") == 1
    client.close("a", THINK)
    assert client.attempt("a") == 2 and client.events == []


def test_reports_of_one_loss_count_once() -> None:
    client = expecting(retries=1)
    client.submit("a")
    client.hear(TALK, Side.CONTROL, LOST)
    client.hear(THINK, Side.CONTROL, Report("a", 1, Code.LINK_LOST, "", "cut", TALK))
    client.close("a")
    assert client.attempt("a") == 2 and client.gateway.dropped == {"Report": 1}
    client.hear(TALK, Side.CONTROL, LOST, Report("a", 1, Code.NODE_FAILED))
    assert client.events == [] and client.gateway.dropped == {"Report": 3}, "of an attempt that is over"
    client.hear(TALK, Side.CONTROL, Report("a", 2, Code.LINK_LOST, "", "cut", THINK))
    client.close("a", attempt=2)
    assert client.terminal("a") is Code.LINK_LOST and client.attempt("a") == 2


def test_a_lost_link_that_was_a_death_is_told_as_a_death() -> None:
    client = expecting(retries=0)
    client.submit("a")
    client.hear(TALK, Side.CONTROL, LOST)
    client.close("a", TALK)
    assert client.events == []
    client.dies(THINK, Code.STUCK)
    assert (ended(client, "a").code, ended(client, "a").stage) == (Code.STUCK, "think")


def test_a_replay_repeats_the_choices_and_says_what_the_client_has() -> None:
    client = expecting()
    client.submit("a")
    chosen = (Choice("think", 0, (5,)), Choice("talk", 0, (6,)))
    first = Data("a", 1, OUT, 0, 0.0, chosen, TextDelta("word 0"))
    client.hear(TALK, Side.READS, Start("a", 1, OUT), first)
    client.hear(TALK, Side.CONTROL, LOST)
    client.close("a")
    opens = {peer: frame for peer, frame in client.said(Open) if frame.attempt == 2}
    assert opens[THINK].forced == chosen[:1] and opens[TALK].forced == chosen[1:], "to each its own"
    assert opens[THINK].accepted == () and opens[TALK].accepted == ((OUT, 1),)
    client.hear(TALK, Side.READS, Start("a", 2, OUT))
    assert client.said(Credit)[-1] == (TALK, Credit("a", 2, OUT, 0, 3)), "granted in the same numbering"
    client.hear(TALK, Side.READS, Data("a", 2, OUT, 0, 0.0, chosen, None), word(1, attempt=2), End("a", 2, OUT, 2))
    assert [e.packet.text for _, e in client.events if isinstance(e, OutputPacket)] == ["word 0", "word 1"]
    assert client.terminal("a") is None
    client.close("a", attempt=2)
    assert client.events[-1] == ("a", Released({}, retries=1))


def test_what_had_no_room_at_the_client_comes_again() -> None:
    client = expecting(output_bytes=1)
    client.submit("a")
    client.hear(TALK, Side.READS, Start("a", 1, OUT), word(0), word(1))
    client.hear(TALK, Side.CONTROL, LOST)
    client.gateway.read("a", "speech", len("word 0"), 1.0)
    client.close("a")
    assert [frame.accepted for peer, frame in client.said(Open) if peer == TALK] == [((OUT, 0),), ((OUT, 1),)]
    client.hear(TALK, Side.READS, Start("a", 2, OUT), word(0, attempt=2), word(1, attempt=2), word(2, attempt=2))
    assert [e.packet.text for _, e in client.events if isinstance(e, OutputPacket)] == ["word 0", "word 1"]


@pytest.mark.parametrize(
    "lie",
    [
        Data("a", 2, OUT, 0, 0.0, (), TextDelta("another word")),
        Data("a", 2, OUT, 0, 0.0, (Choice("talk", 0, (7,)),), TextDelta("word 0")),
        End("a", 2, OUT, 0),
    ],
)
def test_a_replay_that_says_something_else_fails_instead_of_lying(lie: Data | End) -> None:
    client = expecting()
    client.submit("a")
    first = Data("a", 1, OUT, 0, 0.0, (Choice("talk", 0, (6,)),), TextDelta("word 0"))
    client.hear(TALK, Side.READS, Start("a", 1, OUT), first)
    client.hear(TALK, Side.CONTROL, LOST)
    client.close("a")
    client.hear(TALK, Side.READS, Start("a", 2, OUT), lie)
    assert (ended(client, "a").code, ended(client, "a").stage) == (Code.DIVERGED, "talk")
    assert client.gateway.broken_links() == [], "its link is sound"


def test_inputs_are_given_again_and_go_on() -> None:
    client = expecting()
    client.submit("a")
    client.gateway.write("a", "text", [TextDelta("x"), TextDelta("y")], 0.0)
    client.hear(THINK, Side.WRITES, Credit("a", 1, IN, 0, 9))
    client.hear(TALK, Side.CONTROL, LOST)
    client.gateway.write("a", "text", [TextDelta("z")], 0.0)
    client.gateway.end_input("a", "text", 0.0)
    client.close("a")
    client.hear(THINK, Side.WRITES, Credit("a", 2, IN, 0, 9))
    assert [(f.seq, f.packet.text) for _, f in client.said(Data) if f.attempt == 2] == [(0, "x"), (1, "y"), (2, "z")]
    assert client.said(End) == [(THINK, End("a", 2, IN, 3))]


# ---- what is not replayed


def test_past_its_input_bytes_a_request_fails_with_what_was_lost() -> None:
    client = expecting(input_bytes=PACKET_BYTES + 1)
    for name in "ab":
        client.submit(name)
        client.gateway.write(name, "text", [TextDelta("x")] * (2 if name == "a" else 1), 0.0)
        client.hear(THINK, Side.WRITES, Credit(name, 1, IN, 0, 9))
    client.dies(THINK)
    client.close("a", TALK)
    client.close("b", TALK)
    assert client.terminal("a") is Code.REPLICA_DIED and client.released("a")
    client.comes("think/0.1")
    assert client.attempt("b") == 2 and not any(name == "b" for name, _ in client.events)


def test_a_stage_that_must_run_once_is_not_run_twice() -> None:
    client = expecting(once=frozenset({"talk"}))
    client.submit("a")
    client.dies(THINK)
    client.close("a", TALK)
    assert client.terminal("a") is Code.REPLICA_DIED


@pytest.mark.parametrize("code", [Code.NODE_FAILED, Code.NUMERIC, Code.PROTOCOL])
def test_what_no_other_replica_can_mend_is_an_end(code: Code) -> None:
    client = expecting()
    client.submit("a")
    client.hear(THINK, Side.CONTROL, Report("a", 1, code, "think", "no"))
    assert client.terminal("a") is code


# ---- between two attempts


@pytest.mark.parametrize("what", ["cancel", "deadline"])
@pytest.mark.parametrize("when", ["resetting", "waiting"])
def test_a_request_may_end_between_two_attempts_and_is_not_opened_again(what: str, when: str) -> None:
    client = expecting()
    client.submit("a", deadline_s=5.0)
    client.dies(THINK)
    if when == "waiting":
        client.close("a", TALK)
    resets = client.said(Reset)
    if what == "cancel":
        client.gateway.cancel("a", 2.0)
        client.collect()
    else:
        client.tick(5.0)
    assert client.terminal("a") is (Code.CANCELLED if what == "cancel" else Code.DEADLINE_EXCEEDED)
    assert client.said(Reset) == resets, "all have heard it"
    assert client.released("a") == (when == "waiting")
    client.close("a", TALK)
    client.comes("think/0.1")
    assert client.released("a") and client.attempt("a") == 1
    assert (client.gateway.running, client.gateway.waiting) == (0, 0)


def test_with_no_replica_to_wait_for_a_replay_fails_at_once_and_says_what_was_before() -> None:
    client = expecting()
    client.submit("a")
    client.gateway.expect("think", (), 0.0)
    client.dies(THINK)
    client.close("a", TALK)
    error = ended(client, "a")
    assert error.code is Code.UNAVAILABLE and "before that: replica_died: think: killed" in str(error)


def test_an_output_dropped_between_two_attempts_is_not_read_again() -> None:
    client = expecting()
    client.submit("a")
    client.dies(THINK)
    client.gateway.drop("a", "speech", 1.0)
    client.close("a", TALK)
    client.comes("think/0.1")
    assert client.terminal("a") is None, "nothing is left to wait for"


def test_a_drain_costs_no_retry() -> None:
    client = expecting(retries=0)
    client.submit("a")
    client.dies(THINK, Code.DRAINED)
    client.close("a", TALK)
    client.comes("think/0.1")
    assert client.attempt("a") == 2 and client.events == []


# ---- links of the Gateway's own


def both_stages_in_one() -> Client:
    """A replica that reads the input and writes the output."""
    client = Client(replicas=False)
    topology = Topology(EDGES, {"think": "think", "talk": "think"}, {"think": 4}, 4, 2, retries=2)
    client.gateway = type(client.gateway)(topology, Address(GATEWAY, "here"))
    client.comes(THINK, 0.0)
    for name in "ab":
        client.submit(name)
    client.hear(THINK, Side.READS, Start("a", 1, OUT))
    return client


def test_with_a_link_of_the_gateway_goes_the_other_to_that_replica() -> None:
    client = both_stages_in_one()
    client.gateway.lost(LinkId(THINK, Side.READS), "cut", 1.0)
    assert client.gateway.old_links() == [LinkId(THINK, Side.WRITES)] and client.gateway.old_links() == []
    client.collect()
    assert [(frame.request, frame.peer) for _, frame in client.said(Reset)] == [("a", GATEWAY), ("b", GATEWAY)]


def test_what_a_replica_lost_with_the_gateway_the_gateway_drops_too() -> None:
    client = both_stages_in_one()
    client.hear(THINK, Side.CONTROL, Report("a", 1, Code.LINK_LOST, "", "cut", GATEWAY))
    assert client.gateway.old_links() == [LinkId(THINK, Side.READS), LinkId(THINK, Side.WRITES)]
    assert [frame.request for _, frame in client.said(Reset)] == ["a", "b"]
    client.hear(THINK, Side.CONTROL, Closed("a", 1, "{}"))
    assert client.attempt("a") == 2
    client.hear(THINK, Side.CONTROL, Report("b", 1, Code.LINK_LOST, "", "cut", GATEWAY))
    assert client.gateway.old_links() == [], "that of attempt 2 is newer"


def test_nothing_is_granted_over_a_link_that_is_gone() -> None:
    client = expecting()
    client.submit("a")
    client.hear(TALK, Side.READS, Start("a", 1, OUT))
    client.gateway.lost(LinkId(TALK, Side.READS), "cut", 1.0)
    client.frames.clear()
    client.close("a")
    assert client.attempt("a") == 2 and not [frame for peer, frame in client.said(Credit) if peer == TALK]


# ---- poison


def lose_think(client: Client, life: int, *requests: str) -> None:
    """The replica dies with all of them, and comes back."""
    client.dies(f"think/0.{life}")
    for request in requests:
        client.close(request, TALK, attempt=client.attempt(request))
    client.comes(f"think/0.{life + 1}")


def test_one_death_by_oneself_is_bad_luck_and_two_are_poison() -> None:
    client = expecting()
    client.submit("a")
    lose_think(client, 0, "a")
    assert client.attempt("a") == 2 and client.events == []
    lose_think(client, 1, "a")
    error = ended(client, "a")
    assert (error.code, error.stage, error.retryable) == (Code.POISON, "think", False)
    assert "think/0.1" in str(error)


def test_a_lost_link_is_no_death() -> None:
    client = expecting()
    client.submit("a")
    client.hear(TALK, Side.CONTROL, LOST)
    client.close("a")
    lose_think(client, 0)
    client.close("a", TALK, attempt=2)
    assert client.attempt("a") == 3 and client.events == []


def test_after_two_deaths_in_company_each_is_let_in_by_itself_and_nobody_waits_for_anybodys_end() -> None:
    client = expecting(slots=3)
    for name in "abc":
        client.submit(name)
    lose_think(client, 0, *"abc")
    assert [client.attempt(name) for name in "abc"] == [2, 2, 2], "one death puts nobody under suspicion"
    lose_think(client, 1, *"abc")
    assert [client.attempt(name) for name in "abc"] == [3, 2, 2]
    client.tick(1.0 + PROBATION_S - 0.1)
    assert [client.attempt(name) for name in "abc"] == [3, 2, 2]
    client.tick(1.0 + PROBATION_S)
    assert [client.attempt(name) for name in "abc"] == [3, 3, 2], "a is acquitted, and still runs"
    assert client.gateway.load()["think/0.2"] == 2


def test_a_suspect_that_kills_is_poison_and_its_company_pays_nothing() -> None:
    client = expecting(slots=3)
    for age, name in enumerate("abc"):
        client.submit(name, now=age / 10)
    lose_think(client, 0, *"abc")
    lose_think(client, 1, *"abc")
    client.tick(1.0 + PROBATION_S)
    client.hear(TALK, Side.CONTROL, Report("a", 3, Code.LINK_LOST, "", "cut", "think/0.2"))  # the death, seen elsewhere
    lose_think(client, 2, *"ab")
    assert ended(client, "b").code is Code.POISON
    assert client.attempt("a") == 4, "it has used both its retries, and goes on"
    assert client.attempt("c") == 3, "a suspect still: nobody is let in beside it, but it waits for nobody's end"
    assert [name for name, event in client.events if isinstance(event, Ended)] == ["b"]


def test_beside_a_suspect_nobody_is_let_in() -> None:
    client = expecting(slots=3, retries=9)
    for name in "ab":
        client.submit(name)
    lose_think(client, 0, *"ab")
    lose_think(client, 1, *"ab")
    client.submit("new")
    assert (client.attempt("a"), client.attempt("b"), client.attempt("new")) == (3, 2, 0)
    client.comes("think/1.0")
    assert (client.attempt("b"), client.attempt("new")) == (3, 0), "a second suspect has the second replica"


# ---- the order


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_replays_come_first_the_oldest_first_and_then_the_others_as_they_came(
    order: list[int], replays: set[int]
) -> None:
    topology, line = Topology((), {}, {}, 1, 1), WaitingLine()
    for age in order:
        submission = Submission(str(age), (), (), "{}", 0, 60.0)
        one = GatewayRequest(submission, float(age), topology, lambda *_: None, lambda *_: None)
        one.attempt = int(age in replays)
        line.join(one)
    left = []
    while len(line):
        left.append(int(line.first.request))
        line.leave(line.first)
    assert left == sorted(replays) + [age for age in order if age not in replays]
