"""What is kept for a replay is enough, bounded, and never passes a difference off as the same answer."""

from __future__ import annotations

import numpy as np
import pytest

from omni_graph.frames import Choice
from omni_graph.payload import Array, AudioChunk, Blob, TextDelta
from omni_graph.replay import COMPARED_BYTES, Accepted, ChoiceMemory, Diverged, KeptSupply, same_packet


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


def test_an_input_can_be_given_again_from_its_first_packet() -> None:
    supply = KeptSupply(limit=100)
    supply.add([TextDelta("a"), TextDelta("b")])
    assert supply and supply.take().text == "a"
    supply.add(iter([TextDelta("c")]))
    supply.rewind()
    assert [supply.take().text for _ in range(3) if supply] == ["a", "b", "c"]
    supply.rewind()
    assert [supply.take().text for _ in range(3) if supply] == ["a", "b", "c"]


def test_past_its_limit_an_input_keeps_nothing() -> None:
    supply = KeptSupply(limit=10)
    supply.add([Blob(bytes(6), ""), Blob(bytes(6), ""), Blob(b"", "")])
    while supply:
        supply.take()
    assert not supply.replayable and not supply._kept


def test_a_replay_is_compared_with_what_the_client_has() -> None:
    accepted = Accepted()
    accepted.add(TextDelta("hi", (1, 2)), 18)
    accepted.check(0, TextDelta("hi", (1, 2)))
    accepted.check(5, TextDelta("not compared: the client has no packet 5"))
    with pytest.raises(Diverged, match="packet 0 of the replay"):
        accepted.check(0, TextDelta("hi", (1, 3)))
    with pytest.raises(Diverged, match="ends after 0 packets; the client has 1"):
        accepted.check_end(0)


def test_what_is_kept_for_comparison_is_bounded() -> None:
    accepted = Accepted()
    for _ in range(100):
        accepted.add(Blob(bytes(100_000)), 100_024)
    assert accepted.count == 100 and accepted._bytes <= COMPARED_BYTES


def test_floats_may_differ_by_the_tolerance_and_nothing_else_may() -> None:
    def chunk(shift: float, rate: int = 24_000) -> AudioChunk:
        return AudioChunk(Array.of(np.full(4, 0.5 + shift, np.float32)), rate)

    assert same_packet(chunk(0), chunk(5e-5))
    assert not same_packet(chunk(0), chunk(2e-4))
    assert not same_packet(chunk(0), chunk(0, rate=16_000))
    assert not same_packet(Blob(b"a"), Blob(b"b"))
