"""The simulated listener: where it says sound may begin, nothing runs dry, and a moment earlier something would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.player import Packet, own_pace, slowest_pace, start_at, underruns

SOUND = st.floats(0.01, 2)
GAP = st.floats(0, 5)


@st.composite
def streams(draw: st.DrawFn) -> list[Packet]:
    at, packets = 0.0, []
    for gap, sound in draw(st.lists(st.tuples(GAP, SOUND), min_size=1, max_size=12)):
        at += gap
        packets.append(Packet(at, sound))
    return packets


def dry(packets: list[Packet], begin: float, pace: float) -> bool:
    """Played from ``begin`` on, does any packet come after the sound before it has ended?"""
    ends = begin
    for one in packets:
        if one.at > ends + 1e-6:
            return True
        ends += pace * one.sound
    return False


@given(streams(), st.floats(1, 10))
def test_from_the_moment_it_names_nothing_runs_dry_and_from_an_earlier_one_it_does(
    packets: list[Packet], pace: float
) -> None:
    begin = start_at(packets, pace)
    assert begin >= packets[0].at
    assert not dry(packets, begin, pace)
    assert dry(packets, begin - 1e-3, pace)


@given(streams())
def test_at_the_slowest_pace_a_listener_may_begin_with_the_first_packet(packets: list[Packet]) -> None:
    pace = slowest_pace(packets)
    assert not dry(packets, packets[0].at, pace)
    assert underruns(packets, pace) == 0
    assert pace == 1 or dry(packets, packets[0].at, pace * 0.999)
    assert pace >= own_pace(packets) - 1e-9


def test_a_machine_of_even_pace_starts_at_once_and_an_uneven_one_must_wait() -> None:
    even = [Packet(2.0 + 3.0 * number, 1.0) for number in range(5)]
    assert (own_pace(even), slowest_pace(even), start_at(even, 3.0), underruns(even, 3.0)) == (3.0, 3.0, 2.0, 0)
    uneven = [Packet(2.0, 1.0), Packet(8.0, 1.0), Packet(9.0, 1.0), Packet(11.0, 1.0)]
    assert own_pace(uneven) == 3.0
    assert slowest_pace(uneven) == 6.0
    assert start_at(uneven, 3.0) == 5.0
    assert underruns(uneven, 3.0) == 1


@pytest.mark.parametrize("packets", [[Packet(2.0, 1.0)], [Packet(0.0, 3.0), Packet(0.5, 3.0)]])
def test_faster_than_real_time_is_real_time(packets: list[Packet]) -> None:
    assert own_pace(packets) == slowest_pace(packets) == 1.0
    assert start_at(packets, 1.0) == packets[0].at
