"""What is kept for a replay is enough, bounded, and never passes a difference off as the same answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_graph.frames import Choice
from omni_graph.payload import Array, AudioChunk, Blob, TextDelta
from omni_graph.replay import (
    COMPARED_BYTES,
    PACKET_BYTES,
    Accepted,
    ChoiceMemory,
    Diverged,
    KeptInputs,
    same_packet,
)


def choices(node: str, *values: int, start: int = 0) -> list[Choice]:
    return [Choice(node, start + i, (value,)) for i, value in enumerate(values)]


def test_choices_are_the_union_of_what_any_output_brought() -> None:
    memory = ChoiceMemory()
    memory.learn(choices("thinker", 5, 6))
    memory.learn(choices("thinker", 5, 6, 7))
    memory.learn(choices("talker", 1))
    assert memory.forced() == (*choices("thinker", 5, 6, 7), *choices("talker", 1))


def test_a_gap_or_a_second_value_is_an_error() -> None:
    memory = ChoiceMemory()
    memory.learn(choices("thinker", 5))
    with pytest.raises(Diverged, match="choice 2 of thinker where 1 was due"):
        memory.learn(choices("thinker", 9, start=2))
    with pytest.raises(Diverged, match=r"is \(4,\); it was \(5,\) before"):
        memory.learn(choices("thinker", 4))


def everything(inputs: KeptInputs, name: str) -> list[str]:
    taken = []
    while inputs.has(name):
        taken.append(inputs.take(name).text)
    return taken


def test_inputs_can_be_given_again_from_their_first_packet() -> None:
    inputs = KeptInputs(limit=1000)
    inputs.add("text", [TextDelta("a"), TextDelta("b")])
    assert inputs.has("text") and inputs.take("text").text == "a"
    inputs.add("text", iter([TextDelta("c")]))
    inputs.add("more", iter([TextDelta("x")]))
    inputs.rewind()
    assert everything(inputs, "text") == ["a", "b", "c"] and everything(inputs, "more") == ["x"]
    inputs.rewind()
    assert everything(inputs, "more") == ["x"] and everything(inputs, "text") == ["a", "b", "c"]


def test_past_their_limit_all_together_inputs_keep_nothing() -> None:
    inputs = KeptInputs(limit=2 * PACKET_BYTES + 12)
    for name in ("one", "two"):
        inputs.add(name, [Blob(bytes(6), ""), Blob(b"", "")])
        inputs.take(name)
    assert inputs.replayable and len(inputs._taken) == 2
    inputs.take("one")
    assert not inputs.replayable and not inputs._taken
    inputs.take("two")
    assert not inputs._taken


def test_what_nobody_reads_is_not_pulled_and_what_is_here_is_kept_for_a_replay() -> None:
    inputs = KeptInputs(limit=1000)
    inputs.add("text", [TextDelta("a"), TextDelta("b")])
    inputs.add("text", (pytest.fail("pulled") for _ in range(1)))
    inputs.discard("text")
    assert inputs.ready("text") == 0
    inputs.rewind()
    assert [inputs.take("text").text for _ in range(2)] == ["a", "b"]


GIVEN = st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.lists(st.text(max_size=3), max_size=4)), max_size=6)


@given(GIVEN, st.data())
def test_however_inputs_are_given_and_taken_they_come_in_order_every_time(given: Any, data: st.DataObject) -> None:
    inputs, expected = KeptInputs(limit=1 << 20), {"a": [], "b": []}  # type: ignore[var-annotated]
    taken: dict[str, list[str]] = {"a": [], "b": []}
    for name, lazily, words in given:
        packets = [TextDelta(word) for word in words]
        inputs.add(name, iter(packets) if lazily else packets)
        expected[name] += words
        doing = data.draw(st.sampled_from(["take", "discard", "rewind", "nothing"]))
        if doing == "take" and inputs.has(name):
            taken[name].append(inputs.take(name).text)
        elif doing == "discard":
            inputs.discard(name)
        elif doing == "rewind":
            inputs.rewind()
    inputs.rewind()
    for name in taken:
        assert everything(inputs, name) == expected[name]


def test_a_replay_is_compared_with_what_the_client_has() -> None:
    accepted = Accepted()
    accepted.add(TextDelta("hi", (1, 2)), 18)
    accepted.check(0, TextDelta("hi", (1, 2)))
    accepted.check(0, None)
    accepted.check(5, TextDelta("not compared: the client has no packet 5"))
    with pytest.raises(Diverged, match="packet 0 of the replay"):
        accepted.check(0, TextDelta("hi", (1, 3)))
    with pytest.raises(Diverged, match="ends after 0 packets; the client has 1"):
        accepted.check_end(0)


def test_after_the_end_that_the_client_has_seen_nothing_may_follow() -> None:
    accepted = Accepted()
    accepted.add(TextDelta("hi"), 2)
    accepted.check_end(1)
    accepted.check_end(1)
    accepted.check(0, TextDelta("hi"))
    with pytest.raises(Diverged, match="packet 1 of the replay: the client has seen the end, after 1"):
        accepted.check(1, TextDelta("more"))
    with pytest.raises(Diverged, match="ends after 2 packets"):
        accepted.check_end(2)


@pytest.mark.parametrize("size", [0, 100_000])
def test_what_is_kept_for_comparison_is_bounded(size: int) -> None:
    accepted = Accepted()
    for number in range(20_000 if size == 0 else 100):
        accepted.add(Blob(bytes(size), str(number)), size)
    assert accepted._bytes <= COMPARED_BYTES and 0 < len(accepted._recent) < accepted.count
    accepted.check(0, Blob(b"anything"))
    with pytest.raises(Diverged):
        accepted.check(accepted.count - 1, Blob(b"something else"))


STREAM = st.lists(st.integers(0, 3), max_size=20)


@given(st.lists(STREAM, min_size=1, max_size=4), st.data())
def test_the_union_of_prefixes_is_the_longest_and_any_other_is_found(cuts: Any, data: st.DataObject) -> None:
    """Streams of one attempt carry prefixes of the same choices, each in pieces, in any interleaving."""
    truth = max(cuts, key=len)
    streams = [choices("node", *truth[: len(cut)]) for cut in cuts]
    memory = ChoiceMemory()
    while any(streams):
        stream = data.draw(st.sampled_from([one for one in streams if one]))
        count = data.draw(st.integers(1, len(stream)))
        memory.learn(stream[:count])
        del stream[:count]
    assert memory.forced() == tuple(choices("node", *truth))
    if truth:
        index = data.draw(st.integers(0, len(truth) - 1))
        with pytest.raises(Diverged, match="before"):
            memory.learn(choices("node", truth[index] + 1, start=index))
    with pytest.raises(Diverged, match="was due"):
        memory.learn(choices("node", 0, start=len(truth) + 1))


def test_floats_may_differ_by_the_tolerance_and_nothing_else_may() -> None:
    def chunk(shift: float, rate: int = 24_000) -> AudioChunk:
        return AudioChunk(Array.of(np.full(4, 0.5 + shift, np.float32)), rate)

    assert same_packet(chunk(0), chunk(5e-5))
    assert not same_packet(chunk(0), chunk(2e-4))
    assert not same_packet(chunk(0), chunk(0, rate=16_000))
    assert not same_packet(Blob(b"a"), Blob(b"b"))
