"""A drained replica takes nothing new and loses nothing; an answer is never finished by another revision than began it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_graph.errors import Code, RequestError
from omni_graph.frames import Address, Closed, End, LinkId, Open, Side, Start
from omni_graph.gateway_request import Submission
from tests.core.test_gateway import OUT, TALK, THINK, Client, word

OTHER = "think/1.0"


def opened_on(client: Client, request: str) -> list[str]:
    """The Thinkers that a request was opened on, in order."""
    return [name for name, frame in client.said(Open) if frame.request == request and name.startswith("think")]


def add_other(client: Client, revision: int = 0) -> None:
    client.gateway.replica_up("think", Address(OTHER, ""), 1.0, revision)
    client.collect()


def drained(client: Client) -> None:
    """The first Thinker has left, with what was still on it."""
    client.gateway.replica_down(THINK, Code.DRAINED, "too slow", 1.0)
    client.collect()


def test_a_draining_replica_finishes_what_it_has_and_gets_nothing_new() -> None:
    client = Client()
    client.submit("a")
    add_other(client)
    client.gateway.drain(THINK)
    client.submit("b")
    assert (opened_on(client, "a"), opened_on(client, "b")) == ([THINK], [OTHER])
    assert client.gateway.load()[THINK] == 1


def test_what_a_drain_does_not_wait_for_is_replayed_without_a_retry_and_without_suspicion() -> None:
    client = Client()
    add_other(client)
    client.submit("a")
    drained(client)
    client.close("a", TALK)
    assert opened_on(client, "a") == [THINK, OTHER]
    (one,) = client.gateway._requests.values()
    assert one.faults == 0 and not one.deaths and not one.probation


def test_an_answer_that_began_is_finished_only_on_its_revision() -> None:
    client = Client()
    client.submit("a")
    client.hear(TALK, Side.READS, Start("a", 1, OUT), word(0, request="a"))
    add_other(client, revision=1)
    drained(client)
    client.close("a", TALK)
    assert client.terminal("a") is Code.UNAVAILABLE
    (ended,) = [event for _, event in client.events if hasattr(event, "error")]
    assert ended.error.stage == "think" and "revision 0, on which the answer began" in str(ended.error)
    assert opened_on(client, "a") == [THINK]


def test_what_has_not_begun_goes_on_with_any_revision() -> None:
    client = Client()
    client.submit("a")
    client.hear(TALK, Side.READS, Start("a", 1, OUT))
    add_other(client, revision=1)
    drained(client)
    client.close("a", TALK)
    assert opened_on(client, "a") == [THINK, OTHER]
    client.hear(TALK, Side.READS, Start("a", 2, OUT), replace(word(0, request="a"), attempt=2), End("a", 2, OUT, 1))
    assert client.terminal("a") is None


def test_a_lost_answer_waits_for_its_own_revision_to_come_back() -> None:
    client = Client(retries=2)
    client.gateway.expect("talk", {0}, 0.0)
    client.submit("a")
    client.hear(TALK, Side.READS, Start("a", 1, OUT), word(0, request="a"))
    client.gateway.replica_up("talk", Address("talk/1.0", ""), 1.0, revision=1)
    client.gateway.lost(LinkId(TALK, Side.CONTROL), "killed", 1.0)
    client.collect()
    client.hear(THINK, Side.CONTROL, Closed("a", 1, "{}"))
    assert client.gateway.waiting == 1
    client.gateway.replica_up("talk", Address("talk/0.1", ""), 1.0, revision=0)
    client.collect()
    assert opened_on(client, "a") == [THINK, THINK]
    assert {address.name for address in client.gateway.addresses("a")} == {THINK, "talk/0.1"}


def test_a_session_is_routed_to_the_replica_that_served_it() -> None:
    client = Client()
    add_other(client)
    for request in ("a", "b", "c"):
        client.gateway.submit(Submission(request, ("think",), (), "{}", 0, 60.0, session="mine"), 0.0)
        client.collect()
    assert opened_on(client, "b") == opened_on(client, "c") == opened_on(client, "a")


def test_a_gateway_that_is_shut_down_refuses_and_finishes() -> None:
    client = Client()
    client.submit("a")
    client.gateway.refuse()
    with pytest.raises(RequestError) as refused:
        client.submit("b")
    assert refused.value.code is Code.CLOSED
    client.hear(TALK, Side.READS, Start("a", 1, OUT), End("a", 1, OUT, 0))
    assert client.terminal("a") is None
